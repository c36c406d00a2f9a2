"""N temperature-0 completions of each prompt, in batches of every kind: how many distinct, and where do they fork?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from detcheck.engine import Completion, Decoded, Engine
from detcheck.errors import OutOfMemoryError
from detcheck.harness import prompts
from detcheck.harness.engines import open_engine
from detcheck.harness.model import OpenModel
from detcheck.outcomes import outcome
from detcheck.probes.completions.options import Options, check
from detcheck.records import Condition, Observation, Outcome, Schedule, Step
from detcheck.schedules import arrivals as traffic
from detcheck.schedules.batches import schedule
from detcheck.spec import Spec

if TYPE_CHECKING:
    from detcheck.probes.completions.server import Served


class Completions:
    """The probe, opened: a model, prompts as tokens, and a schedule. `observe` runs one step of it."""

    def __init__(self, spec: Spec, engine: Engine | None = None, planned: Schedule | None = None) -> None:
        """`planned`: the schedule of a run that is resumed. Raises UsageError before the weights are loaded, FailedError if they cannot be."""
        check(spec)
        questions = prompts.asked(spec)
        self._own: Options = spec.options
        self._model = OpenModel(spec, engine or open_engine(spec), self._own.max_tokens)
        self._engine = self._model.engine
        self.subject = self._model.open(questions, self._plan, planned)

    def close(self) -> None:
        self._engine.close()

    def _plan(self, lengths: dict[str, int]) -> Schedule:
        """The schedule of one arm."""
        spec, own, engine = self._model.spec, self._own, self._engine
        longest = max(lengths.values())
        if engine.schedules_itself:
            room = self._model.longest(longest) - own.max_tokens
            most = engine.max_rows(longest + own.max_tokens)
            limits = traffic.Limits(most, engine.token_budget, engine.cache_block, room)
            asked = own.samples, own.max_tokens, spec.trials, own.conditions, spec.batch_sizes, spec.seed
            return traffic.schedule(lengths, *asked, limits)
        room = min(engine.context - own.max_tokens, 2 * longest)
        most = engine.max_rows(room + own.max_tokens)
        return schedule(lengths, own.samples, spec.trials, spec.batch_sizes, own.conditions, spec.seed, most, room)

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Form the step's batch, run it, and record every sample in it. A sample that did not come is recorded as missing."""
        rows, composition = self._model.batch(step)
        case, _ = self.subject.cases[step.case]
        started = time.perf_counter()
        decoded, calls, why = Decoded({}, ()), [], "the engine returned no completion"
        way = {"token_budget": step.traffic.token_budget, "cached": step.traffic.cached} if step.traffic else {}
        try:
            with self._engine.running(case.kernels) as calls:
                decoded = self._engine.complete(rows, self._own.max_tokens, self._own.ignore_eos, **way)
        except OutOfMemoryError as error:
            why = str(error)
        wall_s = time.perf_counter() - started
        observations, outcomes = [], {}
        for sample, slot in enumerate(slot for slot, length in enumerate(step.rows) if length == 0):
            found = self._outcome(decoded.completions[slot]) if slot in decoded.completions else None
            if found:
                outcomes[found.id] = found
            condition, seen = self._condition(step, slot, composition, decoded)
            first = {} if sample else {"calls": tuple(calls), "steps": decoded.steps}
            observations.append(
                Observation(
                    case,
                    condition,
                    step.trial,
                    step.index,
                    sample,
                    found.id if found else None,
                    wall_s=wall_s,
                    missing="" if found else decoded.missing.get(slot, why),
                    **seen,
                    **first,
                )
            )
        return observations, list(outcomes.values())

    def _condition(
        self, step: Step, slot: int, composition: str, decoded: Decoded
    ) -> tuple[Condition, dict[str, object]]:
        """The condition that a sample was really under, and what the observation says of it."""
        size, threads = len(step.rows), self.subject.environment.threads
        unknown = Condition(step.condition, None, None, threads=threads)
        if step.traffic is None:
            known = Condition(step.condition, size, slot, composition, threads)
            # Not formed as asked, or not seen: which batch this was is not known.
            return known if decoded.batch_sizes == (size,) else unknown, {"batch_sizes": decoded.batch_sizes}
        ride = decoded.rides.get(slot)
        if ride is None or not decoded.steps:
            return unknown, {}
        most = max(requests for requests, _ in decoded.steps)
        known = Condition(step.condition, most, slot, composition, threads, traffic.fed(step.condition), ride.trace)
        as_asked = traffic.came_about(step.condition, size, slot, decoded)
        return known, {"batch_sizes": ride.batch_sizes, "as_asked": as_asked, "preemptions": ride.preemptions}

    def _outcome(self, completion: Completion) -> Outcome:
        return outcome(
            np.asarray(completion.tokens, np.int64),
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            margins=completion.margins,
            runners_up=np.asarray(completion.runners_up, np.int64),
            decode=self._engine.decode,
        )


def opened(spec: Spec, planned: Schedule | None = None) -> Completions | Served:
    """The probe of a model that runs here, or of servers. Raises UsageError, FailedError."""
    if not spec.options.base_url:
        return Completions(spec, planned=planned)
    from detcheck.probes.completions.server import Served

    check(spec)
    return Served(spec, prompts.asked(spec), planned)


open_session = opened
