"""Which part of a tensor is the prompt's own, in a batch whose layout is known.

A tensor's shape is compared with the shape that the same call had when the prompt ran alone. Each dimension that differs must be
explained by the layout: it holds the batch (by itself, or the batch times what the prompt has there), or it is padded in
front, as left padding does it. A dimension that is equal holds no batch: weights, rotary tables, hidden sizes. Where nothing
explains a dimension (tokens that a router handed to an expert), the rows are found by their bytes. What is not explained is
not compared, and counted.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Layout:
    """How a batch is laid out: all that the shapes of a run in it may be explained by."""

    rows: int
    slot: int
    """which row is the prompt's"""
    padding: int
    """columns before the prompt in its row"""
    tokens: int = 0
    """that there are at least where something is as long as the prompt, when it is alone: of the prefill, and one more each decode step"""


@dataclass(frozen=True)
class Dim:
    """One dimension: `block` entries for each row of the batch (0: it holds no batch), of which the first `skip` are padding."""

    block: int = 0
    skip: int = 0


SAME = Dim()


@dataclass(frozen=True)
class Part:
    """The prompt's own part of a tensor."""

    dims: tuple[Dim, ...]
    slot: int = 0
    picked: tuple[int, ...] | None = None
    """rows along the first dimension, where these were found by their bytes"""

    @property
    def whole(self) -> bool:
        return self.picked is None and all(dim == SAME for dim in self.dims)

    @property
    def by_slot(self) -> bool:
        """Whether a smaller batch can be cut out of it."""
        return self.picked is None and any(dim.block for dim in self.dims)

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """A view where it can be."""
        if self.picked is not None:
            tensor = tensor[list(self.picked)]
        where = []
        for dim in self.dims:
            start = self.slot * dim.block + dim.skip
            where.append(slice(start, start + dim.block - dim.skip) if dim.block else slice(dim.skip, None))
        return tensor[tuple(where)]

    def indices(self, shape: Sequence[int]) -> list[Sequence[int]]:
        """Of each dimension of a tensor of that shape, those that are the prompt's own."""
        dims = (*self.dims, *(SAME,) * (len(shape) - len(self.dims)))
        starts = [self.slot * dim.block + dim.skip for dim in dims]
        ends = [s + d.block - d.skip if d.block else n for s, d, n in zip(starts, dims, shape, strict=True)]
        found: list[Sequence[int]] = [range(*pair) for pair in zip(starts, ends, strict=True)]
        return found if self.picked is None else [self.picked, *found[1:]]

    def window(self, tensor: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """The rows first to last - 1 of the batch, padding and all."""
        return tensor[tuple(slice(first * d.block, last * d.block) if d.block else slice(None) for d in self.dims)]

    def within(self, first: int) -> Part:
        """The same part of a window that begins with that row."""
        return Part(self.dims, self.slot - first)


@functools.lru_cache(maxsize=4096)  # a model has few shapes, and many calls of each
def part(alone: Sequence[int], together: Sequence[int], layout: Layout) -> Part | None:
    """The part of a tensor of shape `together` that has shape `alone` when the prompt runs alone. None: not explained, or in two ways.

    One dimension holds the batch at most. Where sizes alone would allow another reading too (two tokens in two rows are as many as two
    tokens behind two of padding), a dimension that is padded beyond doubt decides: the batch is in another.
    """
    if len(alone) != len(together):
        return None
    options = [explanations(a, b, layout) for a, b in zip(alone, together, strict=True)]
    ways = [dims for dims in itertools.product(*options) if sum(dim.block > 0 for dim in dims) <= 1]
    if layout.rows == 1:  # all of them are the same part; one that holds the batch can be cut
        ways = sorted(ways, key=lambda dims: not holding(dims))[:1]
    elif len(ways) > 1:  # then it is the batch before the padded one, as every model has them
        ways = [dims for dims in ways if holding(dims) and padded(dims) and min(holding(dims)) < min(padded(dims))]
    return Part(ways[0], layout.slot) if len(ways) == 1 else None


def holding(dims: Sequence[Dim]) -> list[int]:
    return [n for n, dim in enumerate(dims) if dim.block]


def padded(dims: Sequence[Dim]) -> list[int]:
    return [n for n, dim in enumerate(dims) if dim.skip and not dim.block]


def explanations(alone: int, together: int, layout: Layout) -> list[Dim]:
    """What a dimension may be, by its size alone and in the batch. What is padded is as long as the prefill, at least."""
    if alone == together:
        return [SAME]
    found = [Dim(alone)] if together == alone * layout.rows else []
    if layout.padding and alone >= layout.tokens:
        padded = alone + layout.padding
        found += [Dim(padded, layout.padding)] if together == padded * layout.rows else []
        found += [Dim(0, layout.padding)] if together == padded else []
    return found


def like_the_others(shape: Sequence[int], known: Sequence[tuple[Sequence[int], Part]]) -> Part | None:
    """The part of a tensor that was not there when the prompt ran alone (a mask): dimensions as those of the same size beside it."""
    by_size: dict[int, set[Dim]] = {}
    for sizes, each in known:
        for size, dim in zip(sizes, each.dims, strict=True):
            by_size.setdefault(size, set()).add(dim)
    found = [by_size.get(size, {SAME}) for size in shape]
    if any(len(dims) > 1 for dims in found):
        return None
    return Part(tuple(next(iter(dims)) for dims in found), known[0][1].slot if known else 0)


def matching(wanted: Sequence[int], rows: Sequence[int]) -> tuple[int, ...] | None:
    """Places of the wanted rows (by their hashes) among others, in the same order. None: not all are there."""
    places, at = [], 0
    for row in wanted:
        while at < len(rows) and rows[at] != row:
            at += 1
        if at == len(rows):
            return None
        places.append(at)
        at += 1
    return tuple(places)
