"""The nouns. READ THIS FIRST: everything else makes, judges or shows these records.

A *case* is what must come out the same; a *condition* is all that may legitimately change its bits. A probe runs a schedule
of *steps* and makes *observations*; each names its *outcome* by content hash, so a deterministic run of 100,000 completions
holds one outcome. Judging turns observations into one *finding* per case. What was asked is in `spec.py`, findings are in `finding.py`, how all is stored in `storage/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from detcheck.condition_name import ConditionName
from detcheck.verdict import Role

if TYPE_CHECKING:
    import numpy as np


SCHEMA_VERSION = "1.0"  # of run.json and report.json; additive within a major


@dataclass(frozen=True)
class Case:
    """What must come out the same: observations of equal cases must have equal bits."""

    probe: str
    subject: str
    """the model, op or file under test"""
    kernels: str
    """stock, batch-invariant, engine or user"""
    dtype: str
    """torch's name, or "" where it is not known"""
    input: str
    """index and hash of the input: "0:5f1c9a02" """
    replica: int = 0
    """which of several servers, from 1; 0: there is one"""


@dataclass(frozen=True)
class Condition:
    """All that may legitimately change the bits of a case. Only observations under equal conditions are repeats of each other."""

    name: str
    """of the kind of batch: "alone", "batch-8", "ragged-8" """
    batch_size: int | None
    """rows that were computed together, or the most of them where the batch grew and shrank; None: not known"""
    slot: int | None
    """row of the sample in the batch, or which of the requests it was; None: not known"""
    composition: str = ""
    """content hash of everybody in the batch, in order, and of when each arrived; "" where it is not known"""
    threads: int | None = None
    fed: str = ""
    """"" for the usual way; else in what it was fed otherwise: "alignment", "strides", "chunk", "cache", "padding", "adapters" (of the neighbours), "prefill", "process" """
    trace: str = ""
    """content hash of what each engine step computed, where the engine forms its batches itself"""

    @property
    def way(self) -> tuple[str, int | None]:
        """In what it was fed otherwise, and of chunks how many tokens, where their size is named."""
        return self.fed, ConditionName.parse(self.name).tokens

    @property
    def complete(self) -> bool:
        """Whether it is known in full. Otherwise two observations under it need not be repeats of each other."""
        return self.batch_size == 1 or (self.slot is not None and bool(self.composition))


@dataclass(frozen=True)
class Traffic:
    """How the rows of a step reach an engine that forms its batches itself."""

    arrivals: tuple[int, ...]
    """engine steps after the first, a row each"""
    new_tokens: tuple[int, ...]
    """tokens that a row makes; 0: as many as a sample does"""
    token_budget: int | None = None
    """tokens that one engine step may compute; None: the engine's own limit"""
    cached: bool = False
    """whether the prompt was computed before and is in the prefix cache"""


@dataclass(frozen=True)
class Load:
    """When the requests of a step are sent to a server, whose batches are its own matter."""

    arrivals_s: tuple[float, ...]
    """seconds after the first, a request each"""
    new_tokens: tuple[int, ...]
    """tokens that a request asks for; 0: as many as a sample does"""


@dataclass(frozen=True)
class Step:
    """One batch of the schedule, to be formed and observed once."""

    index: int
    """place in the schedule; names the batch"""
    input: str
    """`Case.input` of the samples in it"""
    condition: str
    """`Condition.name`"""
    trial: int
    """repetition of this condition, from 0"""
    rows: tuple[int, ...]
    """one entry a row of the batch: 0 is the sample itself, any other number a filler: of that many tokens, or of that kind"""
    case: int | None = None
    """index in `Subject.cases` of the case that it observes; None: the case with that input"""
    traffic: Traffic | None = None
    """None: the rows are one batch from its beginning to its end"""
    load: Load | None = None
    """of a server: the rows are requests, sent at these times"""
    padding: int = 0
    """pad tokens in front of the sample, where it is alone and padded as in a batch with longer ones"""
    every_position: bool = False
    """of logits: whether those at each position of the prompt are observed, not at its last alone"""
    turns: int = 1
    """answers that a sample makes, each fed back before the next is asked for"""

    @property
    def samples(self) -> int:
        return self.rows.count(0)


FIRST_AGAIN = "the first prompt's first condition once more, at the very end"
"""`NotTried.what` of a run that does not see what changes between two prompts: no batch is missing for it"""


@dataclass(frozen=True)
class NotTried:
    """A condition that the schedule leaves out."""

    what: str
    """its name, with the case where conditions are of one"""
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


@dataclass(frozen=True)
class Schedule:
    """What is asked of a run: every step, and what the default left out because samples or memory ran out."""

    steps: tuple[Step, ...]
    not_tried: tuple[NotTried, ...] = ()
    max_rows: int | None = None
    """rows that memory was estimated to hold when the schedule was made; None: not estimated"""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A distinct payload, stored once. Equal ids are equal tokens, log-probability bits and finish reasons."""

    id: str
    tokens: np.ndarray
    """int64[n]: token ids. Where a file gave text alone: its code points. Where it gave tokens as words: numbers for `words`"""
    logprobs: np.ndarray | None = None
    """float32[n] (float64[n] from a file): log-probability of each token, in nats"""
    finish_reason: str | None = None
    """"stop" or "length"; of tokens that were given "greedy" or "not greedy" """
    margins: np.ndarray | None = None
    """float32[n]: how far the runner-up was behind, in nats. Not hashed"""
    runners_up: np.ndarray | None = None
    """int64[n]: token id of the runner-up. Not hashed"""
    text: str = ""
    """the tokens, decoded. Not hashed: tokens are compared, never text"""
    words: tuple[str, ...] | None = None
    """the tokens as a file spelled them, where it gave no ids"""
    unit: str = "token"
    """what an index counts: "token", "character" where text is all there is, "choice" of a question's answers, "element" of a tensor, "word" of a digest"""
    dtype: str = ""
    """of a tensor's elements, torch's name; `tokens` are their bit patterns then"""
    positions: np.ndarray | None = None
    """int64[n]: of logits at a prompt's last position, hashes of those at each position before it; of an input's gradient, hashes of all gradients"""
    apart: np.ndarray | None = None
    """float32[2, n]: how far each of these is from the prompt alone, in ulp and absolute; NaN where one is no number. Not hashed"""
    turns: np.ndarray | None = None
    """int64[k]: of a conversation, how many of the tokens each of its answers has, in order; `finish_reason` is one for each, with commas"""
    names: tuple[str, ...] = ()
    """of gradients: of which parameter each is, in the order of the backward pass; of what a sampler made beside a trainer: each token's text. Not hashed"""


@dataclass(frozen=True, slots=True)
class Observation:
    """One sample: what was run, under which condition, and which outcome came."""

    case: Case
    condition: Condition
    trial: int
    batch: int
    """`Step.index`: samples with the same number were in one batch"""
    sample: int
    """which of the batch's samples, from 0"""
    outcome: str | None
    """`Outcome.id`; None: the sample is missing. Of a conversation that broke off: the answers that came, and `missing` says why"""
    batch_sizes: tuple[int, ...] = ()
    """rows the engine was seen to compute together while it made this sample, each size once, sorted; () where it cannot be seen"""
    process: int = 0
    """0, or how many times the run had been resumed"""
    wall_s: float = 0.0
    """seconds its batch took"""
    missing: str = ""
    """why there is no outcome, or no whole one"""
    metrics: tuple[tuple[str, float], ...] = ()
    """(name, value) of what was measured beside it: error, error_share, error_stock, stock_ms, ours_ms, ratio"""
    calls: tuple[tuple[str, int], ...] = ()
    """(op, calls) of its batch, on the first sample of it: names as counted.py makes them"""
    as_asked: bool | None = None
    """whether the condition came about; None: it did where the batch had the condition's size all the way"""
    steps: tuple[tuple[int, int], ...] = ()
    """(requests, tokens) of every engine step of its batch, on the first sample of it, where the engine forms batches itself"""
    preemptions: int = 0
    """how often the engine put it aside to compute it again"""
    turns: tuple[tuple[int | None, int | None], ...] = ()
    """of a conversation: (tokens of the prompt, of these found in the prefix cache) of each turn that was asked; None: not known"""


@dataclass(frozen=True)
class Setting:
    """A switch or variable that bears on bits."""

    name: str
    requested: str
    """value of the environment variable of that name; "": not set, or there is no such variable"""
    effective: str
    """as the library reports it; "": it does not say"""

    def __str__(self) -> str:
        asked = f"{self.requested} requested" if self.requested else ""
        return f"{self.name} {', '.join(part for part in (asked, self.effective) if part)}"


@dataclass(frozen=True)
class Problem:
    """Something about this machine that is not as it seems to be meant."""

    what: str
    found: str
    """what was seen that shows it"""
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.found}. {self.remedy}"


@dataclass(frozen=True)
class Environment:
    """What ran: enough to tell whether two runs may be compared."""

    detcheck: str
    python: str
    platform: str
    processor: str
    cores: int
    threads: int
    """intra-op threads of torch"""
    device: str
    packages: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    """torch's switches that can change bits, as they were in effect"""
    variables: Mapping[str, str] = field(default_factory=dict)
    """environment variables that can change bits, where set"""
    settings: tuple[Setting, ...] = ()
    """what was requested and what is in effect, of everything that bears on bits; (): of an older run, or nothing of this machine does"""
    problems: tuple[Problem, ...] = ()
    """where the two disagree, or are known to do harm"""


@dataclass(frozen=True)
class Prompt:
    """An input of a model under test."""

    name: str
    """`Case.input`"""
    text: str
    token_ids: tuple[int, ...]
    seed: int | None = None
    """that its completions are drawn with; None: the likeliest tokens are taken"""
    later: tuple[tuple[int, ...], ...] = ()
    """of a conversation: token ids of what follows each answer of the model's but the last. Where a server is sent messages: ()s"""

    @property
    def turns(self) -> int:
        """Answers that it asks for."""
        return 1 + len(self.later)


@dataclass(frozen=True)
class SourceLine:
    """A line of source."""

    file: str = ""
    """from the repository's root, or else the current folder, where it lies in there: `files.from_root`"""
    line: int = 0
    """from 1"""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.file else "an unknown line"


@dataclass(frozen=True)
class Subject:
    """What a probe opened: the part of a run that is known once the model is there and before anything is observed."""

    name: str
    """`Case.subject`"""
    dtype: str
    digests: Mapping[str, str]
    """content hashes of weights ("model") and tokenizer"""
    inputs: tuple[Prompt, ...]
    schedule: Schedule
    environment: Environment
    cases: tuple[tuple[Case, Role], ...] = ()
    """what is judged; (): a case an input"""
    sources: Mapping[str, SourceLine] = field(default_factory=dict)
    """`Case.subject` -> where the user's own op begins; for formats that show a finding there"""
