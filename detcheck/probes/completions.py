"""N temperature-0 completions of each prompt, in batches of every kind: how many distinct, and where do they fork?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detcheck.bits import content_hash
from detcheck.engines.base import Completion, Engine, Row
from detcheck.environment import observe_environment
from detcheck.errors import OutOfMemoryError, UsageError
from detcheck.outcomes import outcome
from detcheck.probes._arms import cases, check_kernels, in_arms, kernel_flags, running
from detcheck.probes.prompts import Question, read_prompts
from detcheck.probes.schedule import fit, schedule
from detcheck.records import Condition, Observation, Outcome, Prompt, Schedule, Spec, Step, Subject

DEFAULT_PROMPT = "Tell me about Richard Feynman"


@dataclass(frozen=True)
class Options:
    """The knobs of this probe."""

    samples: int = 100
    """completions, per prompt and per arm"""
    max_tokens: int = 128
    """per completion"""
    ignore_eos: bool = False
    prompt: str | None = None
    """None: the default prompt, unless there is a file"""
    prompt_file: str | None = None
    chat: bool = False
    """put prompts through the chat template"""
    attn: str | None = None
    """attention implementation; None: the model's own"""
    trust_remote_code: bool = False


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    check_kernels(spec.kernels, spec.device)
    for option, value in (("--samples", own.samples), ("--max-tokens", own.max_tokens), ("--trials", spec.trials)):
        if value < 1:
            raise UsageError(f"{option} must be at least 1; got {value}")
    if own.prompt is not None and own.prompt_file is not None:
        raise UsageError("give --prompt or --prompt-file, not both")
    if own.prompt is not None and not own.prompt.strip():
        raise UsageError("--prompt is empty. Give it a text, or leave it out for the default prompt")
    if spec.model is not None and not spec.model.strip():
        raise UsageError("--model is empty. Give a folder or a hub id, or leave it out for the embedded amplifier")
    fit(own.samples, spec.trials, spec.batch_sizes, max_rows=2**31)
    if own.prompt_file is not None and not Path(own.prompt_file).is_file():
        raise UsageError(f"--prompt-file {own.prompt_file}: no such file")


class Completions:
    """The probe, opened: a model, prompts as tokens, and a schedule. `observe` runs one step of it."""

    check = staticmethod(check)

    def __init__(self, spec: Spec, engine: Engine | None = None, planned: Schedule | None = None) -> None:
        """`planned`: the schedule of a run that is resumed; else one is made.

        Raises UsageError before the weights are loaded, FailedError if they cannot be.
        """
        self.check(spec)
        own: Options = spec.options
        self._spec, self._own = spec, own
        questions = self._questions()
        if engine is None:
            from detcheck.engines.transformers import TransformersEngine

            engine = TransformersEngine(spec.model, spec.dtype, spec.device, own.attn, own.trust_remote_code)
        self._engine = engine
        prompts = tuple(self._tokenize(index, question) for index, question in enumerate(questions))
        engine.load()
        check_kernels(spec.kernels, engine.device)
        judged = cases(spec.kernels, spec.probe, engine.name, engine.dtype, prompts)
        steps = planned or in_arms(self._plan({p.name: len(p.token_ids) for p in prompts}), judged)
        environment = observe_environment(engine.device, {**engine.flags, **kernel_flags(spec.kernels)})
        self.subject = Subject(engine.name, engine.dtype, engine.digests, prompts, steps, environment, judged)
        self._prompts = {p.name: p for p in prompts}
        self._formed: tuple[tuple[str, str, tuple[int, ...]], tuple[list[Row], str]] | None = None

    def _plan(self, lengths: dict[str, int]) -> Schedule:
        """The schedule of one arm."""
        spec, own = self._spec, self._own
        room = min(self._engine.context - own.max_tokens, 2 * max(lengths.values()))
        most = self._engine.max_rows(room + own.max_tokens)
        return schedule(lengths, own.samples, spec.trials, spec.batch_sizes, spec.seed, most, room)

    def _questions(self) -> list[Question]:
        if self._own.prompt_file is not None:
            return read_prompts(Path(self._own.prompt_file))
        if self._own.prompt is None and self._spec.model is None:
            from detcheck.engines.amplifier import PROMPT

            return [Question(text=PROMPT)]
        return [Question(text=DEFAULT_PROMPT if self._own.prompt is None else self._own.prompt)]

    def _tokenize(self, index: int, question: Question) -> Prompt:
        where = f"prompt {index} ({question.shown[:40]!a})"
        if question.messages:
            ids = self._engine.encode_chat(question.messages)
        elif self._own.chat:
            ids = self._engine.encode_chat([{"role": "user", "content": question.text}])
        else:
            ids = self._engine.encode(question.text)
        if not ids:
            raise UsageError(f"{where} has no tokens. Give it a text")
        needed = len(ids) + self._own.max_tokens
        if needed > self._engine.context:
            raise UsageError(
                f"{where} has {len(ids)} tokens; with --max-tokens {self._own.max_tokens} that is {needed}, and {self._engine.name} "
                f"holds {self._engine.context}. Shorten it, or ask for fewer tokens"
            )
        return Prompt(f"{index}:{content_hash(np.asarray(ids, '<i8').tobytes())[:8]}", question.shown, tuple(ids))

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Form the step's batch, run it, and record every sample in it. A sample that did not come is recorded as missing."""
        rows, composition = self._batch(step.condition, step.input, step.rows)
        case, _ = self.subject.cases[step.case]
        started = time.perf_counter()
        completions: Mapping[int, Completion] = {}
        calls: list[tuple[str, int]] = []
        batch_sizes, why = (), "the engine returned no completion"
        try:
            with running(case.kernels) as calls:
                decoded = self._engine.complete(rows, self._own.max_tokens, self._own.ignore_eos)
            completions, batch_sizes = decoded.completions, decoded.batch_sizes
        except OutOfMemoryError as error:
            why = str(error)
        wall_s = time.perf_counter() - started
        observations, outcomes = [], {}
        for sample, slot in enumerate(slot for slot, length in enumerate(step.rows) if length == 0):
            threads = self.subject.environment.threads
            if batch_sizes == (len(rows),):
                condition = Condition(step.condition, len(rows), slot, composition, threads)
            else:  # not formed as asked, or not seen: which batch this was is not known
                condition = Condition(step.condition, None, None, threads=threads)
            found = self._outcome(completions[slot]) if slot in completions else None
            if found:
                outcomes[found.id] = found
            observations.append(
                Observation(
                    case,
                    condition,
                    step.trial,
                    step.index,
                    sample,
                    found.id if found else None,
                    batch_sizes,
                    wall_s=wall_s,
                    missing="" if found else why,
                    calls=() if sample else tuple(calls),
                )
            )
        return observations, list(outcomes.values())

    def _outcome(self, completion: Completion) -> Outcome:
        return outcome(
            np.asarray(completion.tokens, np.int64),
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            margins=completion.margins,
            runners_up=np.asarray(completion.runners_up, np.int64),
            decode=self._engine.decode,
        )

    def _batch(self, condition: str, name: str, lengths: tuple[int, ...]) -> tuple[list[Row], str]:
        """The rows of a batch and their content hash. Fillers are made of ordinary tokens, seeded by condition and slot.

        The last one is kept, since repeats of a condition follow each other.
        """
        if self._formed and self._formed[0] == (condition, name, lengths):
            return self._formed[1]
        ordinary = self._engine.ordinary_tokens()
        rows = []
        for slot, length in enumerate(lengths):
            if length == 0:
                rows.append(Row(self._prompts[name].token_ids))
            else:
                key = int(content_hash(f"{self._spec.seed}/{condition}/{slot}".encode())[:16], 16)
                made = ordinary[
                    np.random.Generator(np.random.Philox(key=key)).integers(
                        0, len(ordinary), length + self._own.max_tokens
                    )
                ].tolist()
                rows.append(Row(tuple(made[:length]), tuple(made[length:])))
        parts = (np.asarray(row.prompt + (row.continuation or ()), "<i8").tobytes() for row in rows)
        self._formed = (condition, name, lengths), (rows, content_hash(*parts)[:12])
        return self._formed[1]


PROBE = Completions
