"""How wrong a result is against float64, and how wrong it may be.

An element may be off by what its roundings can add up to, and nobody's luck is in that: neither stock's nor ours. With y the
exact result, u and v the unit roundoffs of output and accumulator, N the length of the op's sums, and s the *sensitivity* of
the element, the L2 norm of x * dy/dx over all inputs x:

    r u |y|  +  v (LAMBDA N s  +  LAMBDA sqrt(N) |y|  +  FACTORS scale)

The first term are the r roundings to the output's dtype; where r is more than 1, r u (|y| + s), since what is rounded on the way may be
larger than the result. The second is a sum's probabilistic bound: N rounded additions change it
by at most LAMBDA sqrt(N) v times the sum of its terms' magnitudes, each with a probability of at least 1 - 2 exp(-LAMBDA**2 / 2),
whatever the terms and the order are, if roundings are as likely up as down (Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci.
Comput. 41, 2019; the worst case would be N v, Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1); and that
sum of magnitudes is at most sqrt(N) s (Cauchy-Schwarz). The third are sums of terms of one sign, as a softmax's. The last is
for the op's own factors (an exp within 2 ulp, a division, a root), whose error goes with the row's largest magnitude, its scale.
The sensitivity is estimated from the reference alone, in float64, by small random changes of all inputs at once (Kenney and Laub,
"Small-sample statistical condition estimates for general matrix functions", SIAM J. Sci. Comput. 15, 1994).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LAMBDA = 8.0  # 2 exp(-LAMBDA**2 / 2) is 3e-14 for a sum
FACTORS = 64.0  # roundings of the accumulator, at the row's scale
CHANGE, CHANGES = 2.0**-20, 8  # how large a random change is, relative to the input, and how many are made
ROUNDINGS_MOST = 4.0  # to its own dtype, that a user's reference may show to be needed
PLAINLY_WRONG = 0.5  # of the scale: what even stock, which is nobody's promise, must not exceed


@dataclass(frozen=True, eq=False)
class Exact:
    """What float64 makes of an op's arguments, and how much each element of it follows from them."""

    arguments: tuple[object, ...]
    """of P rows, in the op's dtype"""
    result: torch.Tensor
    """float64[P, elements]"""
    sensitivity: torch.Tensor
    """float64[P, elements]"""
    scale: torch.Tensor
    """float64[P, 1]"""
    length: int
    """of the longest sum that the op can take along one dimension of its arguments, the batch's aside"""

    @classmethod
    def of(cls, reference: Callable[..., torch.Tensor], arguments: tuple[object, ...], batched: Sequence[int]) -> Exact:
        """`reference` is given the arguments in float64, on the CPU, and returns [P, ...]."""
        wide = tuple(map(in_float64, arguments))

        def fresh(*given: object) -> torch.Tensor:
            return reference(*map(copied, given))  # it may write into what it is given

        result = fresh(*wide).detach().double()
        result = result.reshape(len(result), -1)
        shapes = [tuple(a.shape)[n in batched :] for n, a in enumerate(arguments) if hasattr(a, "shape")]
        length = max((size for shape in shapes for size in shape), default=1)
        return cls(arguments, result, sensitivity(fresh, wide, result), scale(result), length)

    def allowed(self, dtype: torch.dtype, roundings: float = 1.0) -> torch.Tensor:
        """By how much each element may be off in an output of `dtype`, float64[P, elements]: see above."""
        import torch

        output = torch.finfo(dtype)
        accumulator = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32)
        size = self.result.where(self.result.isfinite(), 0.0).abs()
        sums = LAMBDA * (self.length * self.sensitivity + self.length**0.5 * size) + FACTORS * self.scale
        # What is rounded on the way may be larger than the result.
        rounded = size if roundings == 1 else size + self.sensitivity
        # A result may be flushed to zero below the normal numbers, but float16's are kept.
        least = output.smallest_normal * (output.eps if dtype == torch.float16 else 1.0)
        return roundings * output.eps / 2 * rounded + accumulator.eps / 2 * sums + least

    def error(self, output: torch.Tensor, limit: torch.Tensor, kinds: Sequence[int]) -> tuple[float, float]:
        """(error, share): the largest error in units of its row's scale, and the largest one as a share of what is allowed.

        output[M, ...], whose slot i is meant to be row kinds[i] of the result; limit: float64[P, elements]. Both are infinite
        where the output is not finite, or all zeros, and the result is not.
        """
        import torch

        index = torch.tensor(list(kinds))
        expected = self.result[index]
        if not expected.numel():
            return 0.0, 0.0
        got = output.detach().cpu().double().reshape(len(output), -1)
        finite = expected.isfinite()
        if got.shape != expected.shape or (got.isfinite() != finite).any() or (expected.any() and not got.any()):
            return math.inf, math.inf
        same = (got == expected) | (got.isnan() & expected.isnan())
        if not (finite | same).all():
            return math.inf, math.inf
        off = (got - expected).abs().where(finite, 0.0)
        return float((off / self.scale[index]).max()), float((off / limit[index]).max())


def sensitivity(
    reference: Callable[..., torch.Tensor], arguments: Sequence[object], result: torch.Tensor
) -> torch.Tensor:
    """L2 norm of x * dy/dx for each element y of result = reference(*arguments), all in float64: RMS over random changes.

    The chance that it comes out as less than a third of the norm is 1 in 800, as less than a fifth 1 in 30,000. A reference that
    refuses changed inputs (shares that must add up to 1) has its rows' scale in the place of it.
    """
    import torch

    generator, squares = torch.Generator().manual_seed(0), torch.zeros_like(result)
    for _ in range(CHANGES):
        changed = list(arguments)
        for n, argument in enumerate(arguments):
            if isinstance(argument, torch.Tensor) and argument.is_floating_point():
                by = torch.rand(argument.shape, generator=generator) - 0.5  # of a variance of 1/12
                changed[n] = argument * (1 + CHANGE * 12**0.5 * by.double())
        try:
            moved = reference(*changed).detach().double().reshape(result.shape) - result
        except Exception:  # noqa: BLE001  it is the user's, and its own inputs it has taken
            return scale(result).expand_as(result)
        squares += (moved / CHANGE).square()
    return (squares / CHANGES).sqrt().nan_to_num(0.0, 0.0, 0.0)  # masked by an infinity: nothing is rounded


def scale(result: torch.Tensor) -> torch.Tensor:
    """[P, 1]: the largest finite magnitude in each row of result[P, elements].

    Where a row is much smaller than the others (a sum that cancels), the median row's counts: no kernel can be more exact
    than its summands are.
    """
    if not result.numel():
        return result.new_ones(len(result), 1)
    sizes = result.where(result.isfinite(), 0.0).abs().amax(1)
    return sizes.clamp(min=max(float(sizes.median()), 1e-300))[:, None]


def tail_heavy(arguments: Sequence[object], batched: Sequence[int]) -> tuple[object, ...]:
    """The arguments with the last element of each batched row as large as all others together: one that is left out shows."""
    import torch

    made = list(arguments)
    for n in batched:
        if not isinstance(made[n], torch.Tensor) or not made[n].is_floating_point() or made[n].ndim < 2:
            continue
        if not ((made[n] == 0) | (made[n] == 1)).all():  # a mask stays one
            made[n] = made[n].clone()
            made[n][..., -1] *= made[n].shape[-1] ** 0.5
    return tuple(made)


def roundings(own: torch.Tensor, exact: Exact) -> float:
    """How many roundings to its own dtype a straightforward implementation needs, which rounds between its steps.

    own: the user's reference, run in the op's dtype. At least 1, and no more than ROUNDINGS_MOST.
    """
    _, share = exact.error(own, exact.allowed(own.dtype), range(len(exact.result)))
    return 1.0 if share <= 1 else min(1.0 + share, ROUNDINGS_MOST)


def copied(argument: object) -> object:
    import torch

    return argument.clone() if isinstance(argument, torch.Tensor) else argument


def in_float64(argument: object) -> object:
    """On the CPU; what is not a floating-point tensor as it is."""
    import torch

    if not isinstance(argument, torch.Tensor):
        return argument
    argument = argument.detach().cpu()
    return argument.double() if argument.is_floating_point() else argument
