"""The arms of a probe that runs a model: stock kernels, ours, or stock as the control and then ours under the same schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from detcheck.records import Case, Prompt, Schedule
from detcheck.spec import Kernels
from detcheck.verdict import Role

ARMS = {
    Kernels.STOCK: ((Kernels.STOCK, Role.GATES),),
    Kernels.BATCH_INVARIANT: ((Kernels.BATCH_INVARIANT, Role.GATES),),
    Kernels.BOTH: ((Kernels.STOCK, Role.REACTS), (Kernels.BATCH_INVARIANT, Role.GATES)),
    Kernels.ENGINE: ((Kernels.ENGINE, Role.GATES),),
}


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


def kernel_flags(kernels: Kernels) -> dict[str, str]:
    """Which implementation our arm runs, for the environment's record."""
    if kernels in (Kernels.STOCK, Kernels.ENGINE):
        return {}
    from detcheck import switch
    from detcheck.kernels._cpu import build

    return {"batch_invariant_kernels": switch.description(), "bfloat16_order": build.order() or "torch"}
