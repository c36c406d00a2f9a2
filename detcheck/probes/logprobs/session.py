"""The same tokens, scored by the sampler and by the trainer: two files, or engines that run here, or one of each."""

from __future__ import annotations

from detcheck.errors import UsageError
from detcheck.probe import Session
from detcheck.probes.logprobs.options import Options, check
from detcheck.records import Schedule
from detcheck.spec import Spec


def open_session(spec: Spec, planned: Schedule | None = None) -> Session:
    """`planned`: the schedule of a run that is resumed. Raises UsageError, FailedError."""
    check(spec)
    own: Options = spec.options
    if own.runs_model:
        if planned is not None:
            raise UsageError(
                "--resume: the trainer scores what the sampler made in the same process, so such a run cannot be gone on with. Start a new one"
            )
        from detcheck.probes.logprobs.models import ModelSession

        return ModelSession(spec)
    from detcheck.probes.logprobs.filed import FileSession

    return FileSession(spec)
