"""A model that runs here as a `Sampler`: its prompts as tokens, a schedule of the kind that its engine can form, and its batches run."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detcheck.condition_name import ConditionKind, kind_of
from detcheck.engine import Completion, Decoded, Engine, Question, Ran, Row, Sample, Sampler
from detcheck.errors import FailedError, OutOfMemoryError
from detcheck.harness import engines, fresh
from detcheck.harness.lone import prefilled
from detcheck.harness.model import OpenModel
from detcheck.harness.turns import no_room
from detcheck.hashes import content_hash
from detcheck.outcomes import outcome
from detcheck.records import Condition, Observation, Outcome, Schedule, Step, Subject
from detcheck.schedules import adapters, arrivals, batches, lone
from detcheck.schedules.wanted import Wanted
from detcheck.schedules.widths import edges
from detcheck.spec import Kernels, Spec
from detcheck.turns import together


def sampler(spec: Spec, engine: Engine | None = None) -> Sampler:
    """Of the engine that is asked for; `engine`: of this one, which is open. Raises UsageError or FailedError where it cannot be."""
    kind = engines.kind(spec)
    if engine is None and kind.sampler:
        return kind.sampler(spec)
    engine = engine or kind.open(spec)
    return (Requests if engine.schedules_itself else Batches)(spec, engine)


class Sampled:
    """A session of a probe whose samples a `Sampler` makes."""

    def __init__(self, asked: Sampler, questions: Sequence[Question], planned: Schedule | None) -> None:
        """`planned`: the schedule of a run that is resumed. Raises UsageError, FailedError where it cannot be opened."""
        self._sampler = asked
        self.subject = asked.open(questions, planned)
        self.warnings: Sequence[str] = getattr(asked, "warnings", ())

    def close(self) -> None:
        self._sampler.close()

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Run the step, and record every sample in it. A sample that did not come is recorded as missing."""
        case, _ = self.subject.cases[step.case]
        started = time.perf_counter()
        ran = self._sampler.run(step)
        wall_s = time.perf_counter() - started
        observations = []
        for n, sample in enumerate(ran.samples):
            found = sample.outcome.id if sample.outcome else None
            first = {} if n else {"calls": ran.calls, "steps": ran.steps, "metrics": ran.metrics}
            observations.append(
                Observation(
                    case,
                    sample.condition,
                    step.trial,
                    step.index,
                    n,
                    found,
                    sample.batch_sizes,
                    wall_s=wall_s,
                    missing=sample.missing,
                    as_asked=sample.as_asked,
                    preemptions=sample.preemptions,
                    turns=sample.turns,
                    **first,
                )
            )
        return observations, list({s.outcome.id: s.outcome for s in ran.samples if s.outcome}.values())


class Local:
    """What both kinds of engine share."""

    def __init__(self, spec: Spec, engine: Engine) -> None:
        self.wanted, self._ignore_eos, self.engine = Wanted.of(spec), spec.options.ignore_eos, engine
        self._model = OpenModel(spec, engine, self.wanted.max_tokens)
        self._dead: FailedError | None = None  # of what the engine died in a later turn of a conversation

    def open(self, questions: Sequence[Question], planned: Schedule | None = None) -> Subject:
        self.subject = self._model.open(questions, self.plan, planned)
        return self.subject

    def close(self) -> None:
        self.engine.close()

    def run(self, step: Step) -> Ran:
        """Of a conversation all turns, each in a batch of the same rows: they have their own histories from the second on.

        A batch of which a sample is lost, or has no room, is not asked on: the next one would be another batch. Raises FailedError.
        """
        if self._dead:
            raise self._dead
        rows, composition = self._model.batch(step)
        prompt, engine = self._model.prompts[step.input], self.engine
        ran, decoded = self._turn(step, rows, composition)
        turns, why = [ran], ""
        for turn, tail in enumerate(prompt.later, 2):
            if any(sample.outcome is None for sample in ran.samples):
                why = "another sample of its batch did not come"
                break
            rows = self._model.after(step, rows, decoded.completions, tail, turn)
            longest = max(len(row.prompt) for row in rows) + step.padding
            if why := no_room(longest, self.wanted.max_tokens, engine.name, engine.context):
                break
            try:
                ran, decoded = self._turn(step, rows, composition, goes_on=True)
            except FailedError as error:  # what was answered before is kept; the next step ends the run
                self._dead, why = error, str(error)
                break
            turns.append(ran)
        return together(turns, prompt.turns, why)

    def _turn(self, step: Step, rows: Sequence[Row], composition: str, goes_on: bool = False) -> tuple[Ran, Decoded]:
        case, _ = self.subject.cases[step.case]
        decoded, calls, why = Decoded({}, ()), [], "the engine returned no completion"
        try:
            if step.condition == ConditionKind.FRESH:
                decoded, calls = self._fresh(rows, Kernels(case.kernels))
            else:
                with self.engine.running(case.kernels) as calls:
                    decode = functools.partial(self.complete, step, rows, goes_on)
                    again = step.condition == ConditionKind.PREFILL
                    decoded = prefilled(self.engine, rows[0], decode) if again else decode()
        except OutOfMemoryError as error:
            why = str(error)
        samples = []
        for slot in (slot for slot, length in enumerate(step.rows) if length == 0):
            completion = decoded.completions.get(slot)
            found = None if completion is None else self._outcome(completion)
            missing = "" if found else decoded.missing.get(slot, why)
            made = self.sample(step, slot, composition, decoded, found, missing)
            cached = decoded.traces[slot].cached if slot in decoded.traces else None
            samples.append(replace(made, turns=((len(rows[slot].prompt), cached),)))
        drafted = zip(("drafted", "accepted"), map(float, decoded.speculation or ()), strict=False)
        return Ran(tuple(samples), tuple(calls), decoded.steps, metrics=tuple(drafted)), decoded

    def _fresh(self, rows: Sequence[Row], kernels: Kernels) -> tuple[Decoded, fresh.Calls]:
        if self.engine.schedules_itself:  # its own process holds memory that the fresh one needs
            self.engine.close()
        spec = replace(self._model.spec, kernels=kernels)
        return fresh.complete(fresh.FreshRequest(spec, tuple(rows), self._model.loaded, self.threads))

    def complete(self, step: Step, rows: Sequence[Row], goes_on: bool = False) -> Decoded:
        """Have the engine run the step's rows; `goes_on`: a conversation's next turn. Raises OutOfMemoryError, FailedError."""
        raise NotImplementedError

    def _outcome(self, completion: Completion) -> Outcome:
        return outcome(
            np.asarray(completion.tokens, np.int64),
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            margins=completion.margins,
            runners_up=np.asarray(completion.runners_up, np.int64),
            decode=self.engine.decode,
        )

    @property
    def threads(self) -> int:
        return self.subject.environment.threads

    def plan(self, lengths: dict[str, int]) -> Schedule:
        """Of one arm. `lengths`: tokens of each prompt, by its name."""
        raise NotImplementedError

    def sample(
        self, step: Step, slot: int, composition: str, decoded: Decoded, found: Outcome | None, missing: str
    ) -> Sample:
        """With the condition that it was really under."""
        raise NotImplementedError


class Batches(Local):
    """The probe forms the batch, and the engine runs exactly that."""

    def plan(self, lengths: dict[str, int]) -> Schedule:
        longest, most_tokens = max(lengths.values()), self.wanted.max_tokens + self._model.grows
        widest = max(longest, self.engine.context - most_tokens)
        room = min(widest, max(2 * longest, edges(longest)[0]))
        most = self.engine.max_rows(room + most_tokens)
        wanted = lone.rest(self.wanted, arriving=False)
        planned = batches.schedule(lengths, adapters.rest(wanted), most, room, widest)
        planned = adapters.beside(planned, lengths, wanted, "batch", lambda plan: batches.too_large(plan, most))
        return lone.beside(planned, lengths, self.wanted, {}, arriving=False)

    def complete(self, step: Step, rows: Sequence[Row], goes_on: bool = False) -> Decoded:
        how = {"token_budget": chunk} if (chunk := lone.chunk(step.condition)) else {}
        return self.engine.complete(rows, self.wanted.max_tokens, self._ignore_eos, padding=step.padding, **how)

    def sample(
        self, step: Step, slot: int, composition: str, decoded: Decoded, found: Outcome | None, missing: str
    ) -> Sample:
        size = len(step.rows)
        known = decoded.batch_sizes == (
            size,
        )  # else it was not formed as asked, or not seen: which batch it was is not known
        if step.padding:  # all that the row is padded with is of its composition
            composition = content_hash(f"{composition} padding {step.padding}".encode())[:12]
        place = (size, slot, composition) if known else (None, None)
        fed = batches.fed(step.condition) or lone.fed(step.condition) if known else ""
        condition = Condition(step.condition, *place, threads=self.threads, fed=fed)
        return Sample(condition, found, missing, decoded.batch_sizes)


class Requests(Local):
    """The engine forms its batches itself, from requests that arrive."""

    def plan(self, lengths: dict[str, int]) -> Schedule:
        longest, most_tokens = max(lengths.values()), self.wanted.max_tokens
        limits = self.limits(longest)
        wanted = lone.rest(self.wanted, arriving=True)
        planned = arrivals.schedule(lengths, adapters.rest(wanted), limits)
        why = lambda plan: arrivals.impossible(plan, longest, longest, most_tokens, limits)  # noqa: E731
        planned = adapters.beside(planned, lengths, wanted, "wave", why)
        full = longest + most_tokens >= self.engine.context
        no_room = {ConditionKind.PREFILL: "the context has no room for another token"} if full else {}
        return lone.beside(planned, lengths, self.wanted, no_room, arriving=True)

    def complete(self, step: Step, rows: Sequence[Row], goes_on: bool = False) -> Decoded:
        traffic = step.traffic
        how = {"token_budget": traffic.token_budget, "cached": traffic.cached} if traffic else {}
        how |= {"goes_on": True} if goes_on and kind_of(step.condition) != ConditionKind.COLD else {}
        return self.engine.complete(rows, self.wanted.max_tokens, self._ignore_eos, **how)

    def limits(self, longest: int) -> arrivals.EngineLimits:
        """`longest`: tokens of the longest prompt."""
        engine, most_tokens = self.engine, self.wanted.max_tokens + self._model.grows
        room = self._model.longest(longest) - most_tokens
        history = longest + self._model.grows if self._model.grows else 0
        return arrivals.EngineLimits(
            engine.max_rows(longest + most_tokens),
            engine.token_budget,
            engine.cache_block,
            room,
            engine.uncut,
            history,
        )

    def sample(
        self, step: Step, slot: int, composition: str, decoded: Decoded, found: Outcome | None, missing: str
    ) -> Sample:
        trace = decoded.traces.get(slot)
        if trace is None or not decoded.steps:
            return Sample(Condition(step.condition, None, None, threads=self.threads), found, missing)
        most = max(requests for requests, _ in decoded.steps)
        fed = arrivals.fed(step.condition) or lone.fed(step.condition)
        condition = Condition(step.condition, most, slot, composition, self.threads, fed, trace.trace)
        as_asked = arrivals.came_about(step.condition, len(step.rows), slot, decoded)
        return Sample(condition, found, missing, trace.batch_sizes, as_asked, trace.preemptions)
