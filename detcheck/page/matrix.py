"""The matrix of conditions and outcomes, ready to be drawn: which cell has which tint. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detcheck.blocks import Column, Matrix

TINTS = 8  # that can be told apart; outcomes behind these are grey, with their letter
ROWS = 120  # conditions


@dataclass(frozen=True)
class Cell:
    """How many samples of a condition gave an outcome."""

    count: int
    tint: str
    """CSS classes; "" where there are none"""


@dataclass(frozen=True)
class Drawn:
    """A matrix as a page draws it."""

    columns: tuple[tuple[Column, str], ...]
    """(outcome, CSS class)"""
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """(condition, its cells: where there are others these come first, else they would be out of sight)"""
    others: int
    left_out: int
    """conditions"""


def drawn(block: Matrix) -> Drawn:
    tints = [tint(column) for column in block.columns]
    rows = tuple((name, row(counts, tints, block.others > 0)) for name, counts in block.lines[:ROWS])
    left_out = max(0, len(block.lines) - ROWS)
    return Drawn(tuple(zip(block.columns, tints, strict=True)), rows, block.others, left_out)


def row(counts: Sequence[int], tints: Sequence[str], others: bool) -> tuple[Cell, ...]:
    *named, rest = counts
    first = (Cell(rest, "on" if rest else ""),) if others else ()
    return (*first, *(Cell(n, kind if n else "") for n, kind in zip(named, tints, strict=True)))


def tint(column: Column) -> str:
    """Equal tokens have one colour; stripes tell other bits of them."""
    colour = f" o{column.group}" if column.group < TINTS else ""
    return f"on{colour}{' other-bits' if column.again else ''}"
