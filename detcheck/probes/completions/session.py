"""N temperature-0 completions of each prompt, in batches of every kind: how many distinct, and where do they fork?"""

from __future__ import annotations

from detcheck.engine import Engine
from detcheck.harness import prompts
from detcheck.harness.samplers import Sampled, sampler
from detcheck.probes.completions.options import check
from detcheck.records import Schedule
from detcheck.spec import Spec


class Completions(Sampled):
    """The probe, opened: whoever completes, prompts, and a schedule."""

    def __init__(self, spec: Spec, engine: Engine | None = None, planned: Schedule | None = None) -> None:
        """`engine`: one that is open already. `planned`: the schedule of a run that is resumed. Raises UsageError, FailedError."""
        check(spec)
        questions = prompts.asked(spec)
        super().__init__(sampler(spec, engine), questions, planned)


open_session = Completions
