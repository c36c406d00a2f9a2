"""In which order a product or sum that is a cause adds, alone and in the batch: read as `detcheck order` reads it, and said only where it is sure.

Where it cannot be read, or re-adding does not give the op's own bits, nothing is said of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detcheck.probes.order.confirm import Confirmation
from detcheck.probes.order.counting import NotASumError, read, through
from detcheck.probes.order.facts import Place
from detcheck.probes.order.sums import OpError, Sums, bare, swapped
from detcheck.summation.arithmetic import MANTISSA, cancelling
from detcheck.summation.tree import NotATreeError, Tree

if TYPE_CHECKING:
    import torch

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
SUMS = ("aten::sum", "aten::mean")
COLUMNS = 1024  # of data that the order is re-added on


def orders(
    op: str,
    call: Callable[..., Any],
    alone: Sequence[torch.Tensor],
    batch: Sequence[torch.Tensor],
    own: Sequence[Sequence[int]],
) -> dict[str, Tree]:
    """{"alone": ..., "batch": ...}: the tree of additions of the prompt's rows, alone and in the batch.

    `call(*tensors)` is the op with all that is no tensor as it was. The tensors are copies that masks are written into, of the same
    sizes, strides and alignment: the order follows these. `own`: of each dimension of the result in the batch, the prompt's own indices.
    """
    trees = {}
    for arm, tensors, at in (("alone", alone, [range(len(o)) for o in own]), ("batch", batch, own)):
        if any(0 in t.stride() and t.numel() for t in tensors):
            continue  # masks cannot be written to one number that stands for many
        asked = product(call, tensors, at) if op in PRODUCTS else total(call, tensors, at) if op in SUMS else None
        if asked and (found := ask(*asked)):
            trees[arm] = found
    return trees


def product(
    call: Callable[..., Any], tensors: Sequence[torch.Tensor], own: Sequence[Sequence[int]]
) -> tuple[Sums, Place]:
    """(a[M, K], b[K, N]) or (a[B, M, K], b[B, K, N]), behind a bias or not; its first row that is the prompt's."""
    *bias, a, b = tensors
    nothing = [c.new_zeros(c.shape) for c in bias]
    if a.ndim == 2:
        rows, row = a.shape[0], own[0][0]
        return made(lambda: call(*nothing, a, b), b.t(), a, rows, b.shape[1], row)
    count, rows = a.shape[:2]
    # Its result as [M, B, N], as `_sums.make` has it.
    row = own[1][0] * count + own[0][0]
    return made(lambda: swapped(call(*nothing, a, b)), b.transpose(1, 2), a, count * rows, b.shape[2], row)


def made(
    run: Callable[[], torch.Tensor], terms: torch.Tensor, factors: torch.Tensor, rows: int, columns: int, row: int
) -> tuple[Sums, Place]:
    return Sums(run, terms, factors, rows, columns, "columns"), Place((row,), tuple(range(columns)))


def total(
    call: Callable[..., Any], tensors: Sequence[torch.Tensor], own: Sequence[Sequence[int]]
) -> tuple[Sums, Place] | None:
    """x[..., K], over its last dimension; all rows that are the prompt's. None where it adds over another, or lies so that its rows
    cannot be written to."""
    (x,) = tensors
    if x.ndim < 2 or not x.is_floating_point() or bare(call(x).shape) != bare(x.shape[:-1]):
        return None
    rows = x.reshape(-1, x.shape[-1])
    if rows.data_ptr() != x.data_ptr() or len(own) < x.ndim - 1:
        return None
    places = np.ravel_multi_index(np.meshgrid(*own[: x.ndim - 1], indexing="ij"), x.shape[:-1]).reshape(-1)
    return Sums(lambda: call(x), rows, None, len(rows), 1, "rows"), Place(tuple(places.tolist()), (0,))


@functools.lru_cache(maxsize=2)  # a model's products are of few lengths, and each of them adds in few orders
def data(length: int, dtype: str) -> tuple[np.ndarray, np.ndarray, Confirmation]:
    """Values and factors to re-add on, and what remembers how they were."""
    values, factors = cancelling(COLUMNS, length, dtype, 0)
    return values, factors, Confirmation(values, factors, dtype)


def ask(sums: Sums, place: Place) -> Tree | None:
    """The order of that place; None where it is not sure."""
    if sums.dtype not in MANTISSA:
        return None
    values, factors, confirmation = data(sums.length, sums.dtype)
    try:
        sums.multiply_by(factors)
        came = through(sums, place, values)
        tree, _ = read(sums, place, 0)
        facts, _ = confirmation.checked(tree, sums, place, came)
    except (NotASumError, NotATreeError, OpError):
        return None
    return tree if facts.sure else None
