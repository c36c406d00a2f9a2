"""Bundled ops whose order of additions no masks can show: why, and what the op itself must show for that to be so.

Each reason is looked at on the op as it runs here, at this batch size and thread count. Where it does not hold, that is said instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detcheck import lookup
from detcheck.harness import device as _device
from detcheck.harness import user_op
from detcheck.probes.order.sums import OpError

if TYPE_CHECKING:
    import torch

    Op = Callable[..., torch.Tensor]
    Tensors = tuple[torch.Tensor, ...]

LOW = -(2.0**15)  # a score so low that its exponential is nothing, and that float16 holds


@dataclass(frozen=True)
class Reason:
    """Why an order cannot be read."""

    text: str
    seen: str
    """what the op shows if it is so"""
    holds: Callable[[Op, Tensors], bool]
    """looks at the op, on some arguments of its own"""


def forgets_signs(op: Op, arguments: Tensors) -> bool:
    """Numbers whose sign is turned give results whose sign is turned, to the bit: what they are divided by knows no signs."""
    import torch

    x, *rest = arguments
    signs = 1.0 - 2.0 * (torch.arange(x.shape[-1], device=x.device) % 2)
    return same(op(x * signs.to(x.dtype), *rest), op(x, *rest) * signs.to(x.dtype))


def only_grows(op: Op, arguments: Tensors) -> bool:
    """A score that goes as low as can be takes its own share away, and lowers none of the others."""
    (x,) = arguments
    lowest = x.argmin(-1, keepdim=True)
    before, after = op(x), op(x.scatter(-1, lowest, LOW))
    kept = after.scatter(-1, lowest, 0) >= before.scatter(-1, lowest, 0)
    return bool(kept.all()) and bool((after.gather(-1, lowest) < before.gather(-1, lowest)).all())


def stands_alone(op: Op, arguments: Tensors) -> bool:
    """One column of an argument made another changes that column of the result, and nothing else."""
    column, before = arguments[0].shape[-1] // 2, op(*arguments)
    for n, argument in enumerate(arguments):
        changed = argument.clone()
        changed[..., column] = changed[..., column] * 2 + 1
        after = op(*arguments[:n], changed, *arguments[n + 1 :])
        if same(after[..., column], before[..., column]):
            return False
        after = after.clone()
        after[..., column] = before[..., column]
        if not same(after, before):
            return False
    return True


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """To the bit: -0.0 is not 0.0."""
    import torch

    return a.dtype == b.dtype and torch.equal(a, b) and torch.equal(a.signbit(), b.signbit())


SQUARES = Reason(
    "it is a sum of squares behind a square root: no square is negative, so no two summands cancel, and the root "
    "hides what one adds in the last place",
    "turning the signs of numbers turns signs of the result, and changes nothing else",
    forgets_signs,
)
ALONE = Reason(
    "it adds nothing up: each number of its result is made of one number of each argument",
    "another number in one place changes the result in that place, and nowhere else",
    stands_alone,
)
LOWERING = "a score made as low as can be lowers none of the other results"
UNREADABLE = {
    "rmsnorm": SQUARES,
    "softmax": Reason(
        "its denominator is a sum of exponentials: none is negative, so no two summands cancel, and software does not know their last bits",
        LOWERING,
        only_grows,
    ),
    "log_softmax": Reason(
        "it takes the logarithm of a sum of exponentials: none is negative, so no two summands cancel, and software does not know their last bits",
        LOWERING,
        only_grows,
    ),
    "silu_mul": ALONE,
    "gelu_mul": ALONE,
}


def why(name: str, op: Op, rows: int, dtype: str, seed: int, device: str = "cpu") -> str:
    """The reason, and whether the op shows it here. Raises OpError."""
    import torch

    bundled, reason = lookup.find("kernels", name).OP, UNREADABLE[name]
    try:
        with torch.no_grad():
            made = bundled.make(bundled.shapes[0], rows, getattr(torch, dtype), seed)
            holds = reason.holds(op, _device.moved(made, device))
    except Exception as error:  # as in Sums: an op may raise anything
        raise OpError(f"raised {user_op.words(error)}") from error
    if holds:
        return f"{reason.text} (seen here: {reason.seen})"
    return f"it was not read: it is held for one of which this is true: {reason.text}; but this was not seen here: {reason.seen}"
