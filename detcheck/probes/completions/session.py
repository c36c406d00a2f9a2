"""N temperature-0 completions of each prompt, in batches of every kind: how many distinct, and where do they fork?"""

from __future__ import annotations

import time

from detcheck.engine import Engine
from detcheck.harness import prompts
from detcheck.harness.samplers import sampler
from detcheck.probes.completions.options import check
from detcheck.records import Observation, Outcome, Schedule, Step
from detcheck.spec import Spec


class Completions:
    """The probe, opened: whoever completes, prompts, and a schedule. `observe` runs one step of it."""

    def __init__(self, spec: Spec, engine: Engine | None = None, planned: Schedule | None = None) -> None:
        """`engine`: one that is open already. `planned`: the schedule of a run that is resumed. Raises UsageError, FailedError."""
        check(spec)
        questions = prompts.asked(spec)
        self._sampler = sampler(spec, engine)
        self.subject = self._sampler.open(questions, planned)

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
                    **first,
                )
            )
        return observations, list({s.outcome.id: s.outcome for s in ran.samples if s.outcome}.values())


open_session = Completions
