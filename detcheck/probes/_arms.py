"""The arms of a probe that runs a model: stock kernels, ours, or stock as the control and then ours under the same schedule."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from detcheck.errors import FailedError, UsageError
from detcheck.kernels._checks import NotInvariantError
from detcheck.records import Case, Kernels, Prompt, Role, Schedule

ARMS = {
    Kernels.STOCK: ((Kernels.STOCK, Role.GATES),),
    Kernels.BATCH_INVARIANT: ((Kernels.BATCH_INVARIANT, Role.GATES),),
    Kernels.BOTH: ((Kernels.STOCK, Role.REACTS), (Kernels.BATCH_INVARIANT, Role.GATES)),
}


def check_kernels(kernels: Kernels, device: str) -> None:
    """Raises UsageError for arms that cannot run here."""
    if kernels not in ARMS:
        raise UsageError(
            f"--kernels {kernels}: transformers has no batch-invariant mode of its own. Use {', '.join(ARMS)}"
        )
    if kernels is not Kernels.STOCK and device.startswith("cuda"):
        raise UsageError(
            f"--kernels {kernels}: in this version the batch-invariant kernels run on the CPU. Use --device cpu"
        )


def cases(
    kernels: Kernels, probe: str, subject: str, dtype: str, prompts: Sequence[Prompt]
) -> tuple[tuple[Case, Role], ...]:
    """What is judged: each prompt in each arm, stock first."""
    return tuple(
        (Case(probe, subject, arm, dtype, prompt.name), role) for arm, role in ARMS[kernels] for prompt in prompts
    )


def in_arms(planned: Schedule, judged: Sequence[tuple[Case, Role]]) -> Schedule:
    """The same steps for every arm, one arm after the other."""
    arms = list(dict.fromkeys(case.kernels for case, _ in judged))
    index = {(case.kernels, case.input): n for n, (case, _) in enumerate(judged)}
    steps = [replace(step, case=index[arm, step.input]) for arm in arms for step in planned.steps]
    return replace(planned, steps=tuple(replace(step, index=n) for n, step in enumerate(steps)))


@contextlib.contextmanager
def running(kernels: str) -> Iterator[list[tuple[str, int]]]:
    """Runs what is inside on an arm's kernels. The list it gives holds, afterwards, which ops ran and how often.

    Names begin with "ours " where a batch-invariant kernel ran and with "stock " where an op that multiplies or reduces ran
    without one; for the stock arm nothing is counted. Raises FailedError where an op cannot run invariantly, or where
    nothing was overridden: the model did not run on our kernels then, whatever its bits.
    """
    calls: list[tuple[str, int]] = []
    if kernels == Kernels.STOCK:
        yield calls
        return
    from detcheck.kernels._switch import batch_invariant

    try:
        with batch_invariant() as coverage:
            yield calls
    except NotInvariantError as error:
        raise FailedError(f"--kernels batch-invariant: {error}") from error
    if not coverage.overridden:
        raise FailedError(
            "--kernels batch-invariant: no op of this model ran on our kernels, so nothing can be said of them"
        )
    calls += [(f"ours {name}", n) for name, n in sorted(coverage.overridden.items())]
    calls += [(f"stock {name}", n) for name, n in sorted(coverage.uncovered.items())]


def kernel_flags(kernels: Kernels) -> dict[str, str]:
    """Which implementation our arm runs, for the environment's record."""
    if kernels is Kernels.STOCK:
        return {}
    from detcheck.kernels import _native

    return {"batch_invariant_kernels": _native.description()}
