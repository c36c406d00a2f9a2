"""To which widths a prompt is padded: a kernel may go wrong where its last tile is full, or holds a single token, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable

TILE, WIDE = 32, 128
EDGES = 6
SWEPT = TILE  # widths behind a prompt that are all asked for


def edges(length: int) -> tuple[int, ...]:
    """Beside and at the next multiple of each tile: six widths. First one token beyond it, where a fault was reported (transformers #47651)."""
    near = multiple(length + 2, TILE)
    wide = multiple(length + 2, WIDE)
    wide += WIDE if wide == near else 0
    return tuple(width for at in (near, wide) for width in (at + 1, at, at - 1))


def swept(length: int, others: Iterable[int], most: int) -> list[int]:
    """Every width of a tile behind a prompt of that length, the edges, and `others`; up to `most` tokens."""
    found = {*range(length + 1, length + SWEPT + 1), *edges(length), *others}
    return sorted(width for width in found if length < width <= most)


def multiple(least: int, tile: int) -> int:
    return -(-least // tile) * tile
