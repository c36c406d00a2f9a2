"""Engines: who runs the model. Each is a folder in `engines/`, whose options.py declares it as `ENGINE`, an `EngineType`.

A probe of completions asks a `Sampler`: it plans batches of the kind that the engine can form, runs them, and says under which
condition each sample was really made. Servers are one; an `Engine`, which runs a model here, becomes one in `harness/samplers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from detcheck.records import Condition, Outcome, Schedule, Step, Subject
    from detcheck.spec import Spec


Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class EngineType:
    """What an engine says of itself before it is opened."""

    title: str
    """as it is called in sentences"""
    how: str
    """what to do to get it: "add --engine vllm" """
    preference: Callable[[Spec], int]
    """of those that `--engine auto` may take the highest is taken; 0: not this one"""
    check: Callable[[Spec], None]
    """raises UsageError for options that do not fit it"""
    check_schedule: Callable[[Spec], None]
    """of completions: raises UsageError for conditions that it does not have"""
    open: Callable[[Spec], Engine] | None = None
    """where it runs a model here"""
    sampler: Callable[[Spec], Sampler] | None = None
    """where it is asked as a whole"""
    estimate: Callable[[Spec, Sequence[Question]], str] | None = None
    """of completions: what a run would cost, in words; nothing is sent"""
    caches: bool = False
    """whether it may keep a prefix cache, which only a prompt of several blocks shows"""


@dataclass(frozen=True)
class Question:
    """A prompt as it was given: a text, or the messages of a chat."""

    text: str = ""
    messages: tuple[dict[str, str], ...] = ()
    shorter: str = ""
    """what is asked instead where the context does not hold the text"""
    later: tuple[tuple[dict[str, str], ...], ...] = ()
    """of a conversation: the messages that follow each answer of the model's but the last"""

    @property
    def shown(self) -> str:
        scripted = (*self.messages, *(m for group in self.later for m in group))
        return self.text or "\n".join(f"{m['role']}: {m['content']}" for m in scripted)


@dataclass(frozen=True)
class Sample:
    """What came of a sample, and under which condition."""

    condition: Condition
    outcome: Outcome | None = None
    missing: str = ""
    """why there is no outcome"""
    batch_sizes: tuple[int, ...] = ()
    """see `Observation.batch_sizes`"""
    as_asked: bool | None = None
    """see `Observation.as_asked`"""
    preemptions: int = 0
    turns: tuple[tuple[int | None, int | None], ...] = ()
    """see `Observation.turns`"""


@dataclass(frozen=True)
class Ran:
    """What came of a step."""

    samples: tuple[Sample, ...]
    """in the order of their slots"""
    calls: tuple[tuple[str, int], ...] = ()
    """(op, calls), as counted.py names them"""
    steps: tuple[tuple[int, int], ...] = ()
    """(requests, tokens) of every engine step, where the engine forms batches itself"""
    metrics: tuple[tuple[str, float], ...] = ()


class Sampler(Protocol):
    """Whoever completes prompts: a model that runs here, or servers."""

    def open(self, questions: Sequence[Question], planned: Schedule | None = None) -> Subject:
        """Bring it up, with its schedule; `planned`: that of a run that is resumed. Raises UsageError, FailedError."""

    def run(self, step: Step) -> Ran:
        """Form the step's batch, or send its requests. A sample that did not come is missing, with the reason."""

    def close(self) -> None:
        """End what runs beside this process."""


@dataclass(frozen=True)
class Sampling:
    """How a row's tokens are drawn."""

    temperature: float
    """above 0"""
    seed: int
    others: tuple[tuple[str, float], ...] = ()
    """of engines that have them: top_p, top_k, min_p and penalties, by vLLM's names"""


@dataclass(frozen=True)
class Row:
    """One row of a batch: a sample, or a filler beside it.

    A filler is not decoded: it is fed tokens chosen beforehand, so that the rows beside a sample are the same in every trial.
    """

    prompt: tuple[int, ...]
    """token ids"""
    continuation: tuple[int, ...] | None = None
    """token ids to feed after the prompt; None: this row is a sample. An engine that schedules itself makes as many tokens of its own"""
    arrival: int = 0
    """engine steps after the first at which it arrives, where the engine schedules itself"""
    adapter: int = 0
    """place of what it is computed with among the adapters that the engine was opened with; 0: as the samples are"""
    sampling: Sampling | None = None
    """None: the likeliest token is taken"""


@dataclass(frozen=True)
class Completion:
    """What came of a sample."""

    tokens: tuple[int, ...]
    """ids, the end token included where it came"""
    logprobs: np.ndarray
    """float32[n], nats"""
    margins: np.ndarray
    """float32[n], nats between the token and the runner-up, with the noise that it was drawn with where the engine tells it"""
    runners_up: tuple[int, ...]
    finish_reason: str
    """"stop" or "length"; "" of tokens that were given, not made"""


@dataclass(frozen=True)
class RequestTrace:
    """How a request travelled through an engine that schedules itself."""

    batch_sizes: tuple[int, ...]
    """requests computed together with it, itself included, over its steps: each size once, sorted"""
    trace: str
    """content hash of what every engine step computed, of whom, until it was done"""
    chunks: int
    """engine steps that its prompt took"""
    cached: int
    """tokens of its prompt that were found in the prefix cache"""
    preemptions: int
    adapters: int = 1
    """the most LoRA adapters that were in one step with it, its own included; none counts as one"""
    drafted: int = 0
    """tokens that a drafter proposed and that were computed"""
    accepted: int = 0
    """of these, tokens that it took"""


@dataclass(frozen=True)
class Decoded:
    """What came of a batch, and the evidence of how it was computed."""

    completions: Mapping[int, Completion]
    """by slot; a sample without one is missing"""
    batch_sizes: tuple[int, ...]
    """rows seen per forward pass, each size once, sorted; () if the engine cannot see them"""
    traces: Mapping[int, RequestTrace] = field(default_factory=dict)
    """by slot, where the engine schedules itself"""
    steps: tuple[tuple[int, int], ...] = ()
    """(requests, tokens) of every engine step, where the engine schedules itself"""
    missing: Mapping[int, str] = field(default_factory=dict)
    """by slot: why a sample has no completion"""
    speculation: tuple[int, int] | None = None
    """tokens of the samples that were drafted, and accepted; None: the engine drafts none, or does not tell"""


class Engine(Protocol):
    """Runs a model here. Opened in two steps: making one reads config and tokenizer and refuses what can be refused; `load` brings the weights."""

    name: str
    """of the model, for reports"""
    schedules_itself: bool
    """whether requests arrive one by one and the engine forms the batches, or the probe forms them"""
    dtype: str
    device: str
    threads: int
    context: int
    """tokens of prompt and completion together"""
    digests: Mapping[str, str]

    @property
    def flags(self) -> Mapping[str, str]:
        """Settings in effect that can change bits, for the environment's record."""

    def load(self, longest: int = 0) -> None:
        """Bring the model up. `longest`: tokens of the longest row that must fit. Raises FailedError where it cannot be."""

    def close(self) -> None:
        """End what runs beside us."""

    def running(self, kernels: str) -> AbstractContextManager[list[tuple[str, int]]]:
        """Runs what is inside on an arm's kernels. The list it gives holds, afterwards, which ops ran and how often.

        Names are those of counted.py: where a batch-invariant kernel ran, and where an op that multiplies or reduces ran without
        one; for the stock arm nothing is counted. Raises FailedError where an op cannot run invariantly, or where nothing was
        overridden: the model did not run on our kernels then, whatever its bits.
        """

    def encode(self, text: str) -> tuple[int, ...]: ...

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]: ...

    def encode_later(self, first: Messages, later: Sequence[Messages]) -> tuple[tuple[int, ...], ...]:
        """Of a conversation: what follows each answer of the model's but the last, the end of the answer's message included."""

    def decode(self, tokens: Sequence[int]) -> str: ...

    def ordinary_tokens(self) -> np.ndarray:
        """int64[n]: ids that fillers may be made of, special tokens left out."""

    def max_rows(self, tokens: int) -> int:
        """How many rows of that length fit in memory, by estimate."""

    def complete(
        self,
        rows: Sequence[Row],
        max_tokens: int,
        ignore_eos: bool,
        token_budget: int | None = None,
        cached: bool = False,
        padding: int = 0,
        goes_on: bool = False,
    ) -> Decoded:
        """Run exactly these rows until every sample has ended or has max_tokens.

        As one batch, with `padding` pad tokens in front of the longest, prompts fed in chunks of `token_budget` tokens (None: whole); or, where
        the engine schedules itself, as requests, at most `token_budget` tokens in an engine step (None: its own limit), the prompt in the prefix cache before if `cached`, or all that the
        rows before left there if it `goes_on` with them.
        Raises OutOfMemoryError if the batch does not fit, FailedError if the engine died.
        """

    def prefill(self, row: Row, made: Completion) -> Decoded:
        """What the row, alone, made token by token, computed once more in one pass: in slot 0 the token that comes behind each of those before it.

        Of tokens that an engine drew itself, the very tokens, with their log-probabilities. Raises as `complete` does.
        """
