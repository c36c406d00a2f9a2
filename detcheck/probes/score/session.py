"""Tokens that are given, scored in batches of every kind: do their log-probabilities depend on the run or on the batch?

What evaluation harnesses compare models by. A completion shows a difference only where it flips a token; here every bit counts.
"""

from __future__ import annotations

from detcheck.engine import Engine
from detcheck.harness.samplers import Sampled
from detcheck.probes.score.options import check
from detcheck.probes.score.pairs import pairs
from detcheck.probes.score.sampler import scorer
from detcheck.records import Schedule
from detcheck.spec import Spec


class Score(Sampled):
    """The probe, opened. A sample's tokens are the given ones."""

    def __init__(self, spec: Spec, engine: Engine | None = None, planned: Schedule | None = None) -> None:
        """`engine`: one that is open already. `planned`: the schedule of a run that is resumed. Raises UsageError, FailedError."""
        check(spec)
        asked = pairs(spec)
        super().__init__(scorer(spec, engine), asked, planned)


open_session = Score
