"""Reasons why no masks can show in which order an op adds, and what an op shows of which they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from detcheck.op import Unreadable

if TYPE_CHECKING:
    import torch

    Op = Callable[..., torch.Tensor]
    Tensors = tuple[torch.Tensor, ...]

LOW = -(2.0**15)  # a score so low that its exponential is nothing, and that float16 holds


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


def keeps_no_size(op: Op, arguments: Tensors) -> bool:
    """Numbers whose signs are all turned give results of the other sign, to the bit; numbers twice as large give the same results, to a
    few roundings: what they are divided by grows with them."""
    import torch

    x, weight, bias = arguments
    bias = torch.zeros_like(bias)
    large = op(x * 256, weight, bias)
    larger = op(x * 512, weight, bias)
    close = (large - larger).double().abs() <= 8 * torch.finfo(x.dtype).eps * large.double().abs().amax()
    return same(op(-x, weight, bias), -op(x, weight, bias)) and bool(close.all())


def only_later(op: Op, arguments: Tensors) -> bool:
    """Another number in one place changes the results from there on, and none before."""
    (x,) = arguments
    place, before = x.shape[-1] // 3, op(x)
    changed = x.clone()
    changed[..., place] = changed[..., place] * 2 + 64
    after = op(changed)
    return same(after[..., :place], before[..., :place]) and bool((after != before)[..., place:].all())


def only_near(op: Op, arguments: Tensors) -> bool:
    """Another number in one place changes the results of its own channel from there on, as many as its filter has taps."""
    x, weight, bias = arguments
    place, before = x.shape[-1] // 2, op(x, weight, bias)
    changed = x.clone()
    changed[:, 1, place] = changed[:, 1, place] * 2 + 64
    moved = (op(changed, weight, bias) != before).any(0)
    expected = moved.new_zeros(moved.shape)
    expected[1, place : place + weight.shape[1]] = True
    return bool((moved == expected).all())


def follows(op: Op, arguments: Tensors) -> bool:
    """Another number in one row of the right side changes the results of later rows, in its own column alone."""
    a, b = arguments
    row, before = b.shape[1] // 2, op(a, b)
    changed = b.clone()
    changed[:, row, 1] = changed[:, row, 1] * 2 + 64
    moved = op(a, changed) != before
    return bool(moved[:, row:, 1].all()) and int(moved.sum()) == moved[:, row:, 1].numel()


def turns_in_pairs(op: Op, arguments: Tensors) -> bool:
    """Another number in one place changes the results in that place and in its partner's, half a head away, and no other."""
    x, cos, sin = arguments
    place, before = 1, op(x, cos, sin)
    changed = x.clone()
    changed[..., place] = changed[..., place] * 2 + 64
    moved = (op(changed, cos, sin) != before).flatten(0, -2).any(0)
    expected = moved.new_zeros(moved.shape)
    expected[[place, place + x.shape[-1] // 2]] = True
    return bool((moved == expected).all())


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """To the bit: -0.0 is not 0.0."""
    import torch

    return a.dtype == b.dtype and torch.equal(a, b) and torch.equal(a.signbit(), b.signbit())


SUMS_OF_SQUARES = Unreadable(
    "it is a sum of squares behind a square root: no square is negative, so no two summands cancel, and the root "
    "hides what one adds in the last place",
    "turning the signs of numbers turns signs of the result, and changes nothing else",
    forgets_signs,
)
ADDS_NOTHING = Unreadable(
    "it adds nothing up: each number of its result is made of one number of each argument",
    "another number in one place changes the result in that place, and nowhere else",
    stands_alone,
)
TWO_PRODUCTS = Unreadable(
    "each number of its result is a sum of two products, which has one order",
    "another number in one place changes the results in that place and in its partner's",
    turns_in_pairs,
)
LOWERING = "a score made as low as can be lowers none of the other results"
SUM_OF_EXPONENTIALS = Unreadable(
    "its denominator is a sum of exponentials: none is negative, so no two summands cancel, and software does not know their last bits",
    LOWERING,
    only_grows,
)
LOGARITHM_OF_A_SUM = Unreadable(
    "it takes the logarithm of a sum of exponentials: none is negative, so no two summands cancel, and software does not know their last bits",
    LOWERING,
    only_grows,
)
SQUARES_BEHIND_A_MEAN = Unreadable(
    "each row is divided by the root of a sum of squares, taken of what the mean leaves: none is negative, so no two summands cancel, and "
    "the root hides what one adds in the last place",
    "numbers twice as large change no result by more than its roundings, and numbers of the other sign turn its sign",
    keeps_no_size,
)
PARTIAL_SUMS = Unreadable(
    "each of its results is a sum of another length, and masks ask about one sum at a time",
    "another number in one place changes the results from there on, and none before",
    only_later,
)
NEIGHBOURS = Unreadable(
    "each of its results is a sum of a few neighbours in one channel, and masks ask about sums that share their summands",
    "another number in one place changes the results of its own channel from there on, as many as the filter has taps",
    only_near,
)
FOLLOWS = Unreadable(
    "what it adds are products with its own results, and those cannot be chosen as masks are",
    "another number in one row changes the results of that row and of all later ones, in its own column alone",
    follows,
)
