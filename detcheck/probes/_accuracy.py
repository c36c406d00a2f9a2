"""How wrong a result is against float64, and how wrong it may be.

An error is the largest distance of an element from the reference, in units of its row's *scale*: the largest magnitude in
the row's reference. Where a row is much smaller than the others (a sum that cancels), the scale of the median row counts:
no kernel can be more exact than its summands are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PLAINLY_WRONG = 0.5  # of the scale: what even stock, which is nobody's promise, must not exceed
ACCUMULATED = 64  # roundings of the accumulator that a user's op may have more than its reference run in its own dtype


def error(output: torch.Tensor, reference: torch.Tensor, kinds: Sequence[int]) -> float:
    """output[M, ...] against reference[P, ...] (float64), whose row `kinds[slot]` is meant at each slot.

    Infinite where the result is not finite or all zeros and the reference is not.
    """
    import torch

    expected = reference.reshape(len(reference), -1)
    if not expected.numel():
        return 0.0
    finite = expected.isfinite()
    sizes = expected.where(finite, 0.0).abs().amax(1)
    scale = sizes.clamp(min=max(float(sizes.median()), 1e-300))[:, None]
    index = torch.tensor(list(kinds))
    got = output.detach().cpu().double().reshape(len(output), -1)
    if got.shape[1] != expected.shape[1]:
        return math.inf
    expected, finite, scale = expected[index], finite[index], scale[index]
    if (got.isfinite() != finite).any() or (expected.any() and not got.any()):
        return math.inf
    same = (got == expected) | (got.isnan() & expected.isnan())
    if not (finite | same).all():
        return math.inf
    return float(((got - expected).abs() / scale).where(finite, 0.0).max())


def allowed(stock: float, dtype: torch.dtype) -> float:
    """At most stock's own error and one rounding of the output, which two right results on either side of a boundary differ by."""
    import torch

    return (stock if math.isfinite(stock) else 0.0) + torch.finfo(dtype).eps


def allowed_without_stock(own_dtype: float, dtype: torch.dtype) -> float:
    """For an op that has no stock: the error of its reference run in the op's dtype, and roundings of a float32 accumulator."""
    import torch

    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    return allowed(own_dtype, dtype) + ACCUMULATED * torch.finfo(accumulator).eps
