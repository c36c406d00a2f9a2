"""What a value of a kernel has of the batch, and how such marks combine. `analysis.py` hands them on from operation to operation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

from detcheck.probes.certify.ttir import Operation

Axis = Hashable  # of a tile: a number; of a loop: its Op
NONE: frozenset = frozenset()
OF_ROW = "[row]"  # of what was loaded for a row by its place
ATOMIC, INLINE = "atomic_counter()", "inline_assembly()"  # sources that no argument can be called


@dataclass(frozen=True)
class Mark:
    """What a value has of the batch."""

    batch: frozenset[str] = NONE
    """sources that it depends on"""
    varies: frozenset[Axis] = NONE
    """axes along which it is not the same"""
    pattern: frozenset[Axis] = NONE
    """axes along which the way it varies depends on the batch"""
    number: frozenset[str] = NONE
    """of a float: sources that are part of the number itself"""
    data: bool = False
    """computed from what was loaded as floats: known only while it runs"""
    crooked: frozenset[str] = NONE
    """arguments of the batch that went through an operation that is not linear"""
    summed: frozenset[Axis] = NONE
    """axes along which it is a place of the batch plus a count: pid * BLOCK + arange"""
    rows: frozenset[Axis] = NONE
    """such axes after a stride came in: along them lie rows of the batch, beside each other"""
    gate: frozenset[str] = NONE
    """arguments that a comparison looked at without any place of a row: M > 64"""
    constant: bool = False

    def __or__(self, other: Mark) -> Mark:
        return Mark(
            self.batch | other.batch,
            self.varies | other.varies,
            self.pattern | other.pattern,
            self.number | other.number,
            self.data or other.data,
            self.crooked | other.crooked,
            self.summed | other.summed,
            self.rows | other.rows,
            self.gate | other.gate,
            self.constant and other.constant,
        )

    def bent(self) -> Mark:
        """Behind an operation that is not linear: an offset that the batch decides then changes the pattern."""
        if not self.batch:
            return self
        arguments = frozenset(n for n in self.batch if not n.startswith("program_id"))
        return replace(self, pattern=self.pattern | self.varies, crooked=self.crooked | arguments, constant=False)

    def compared(self) -> Mark:
        """Behind a comparison, which is not linear either, but says no more than which side is the larger."""
        return replace(self.bent(), crooked=self.crooked)


def union(marks: Iterable[Mark]) -> Mark:
    made = None
    for mark in marks:
        made = mark if made is None else made | mark
    return made or Mark()


def placed(source: str) -> bool:
    """Whether it says which program this is, not how many there are."""
    return source.startswith("program_id") or source == ATOMIC or source.endswith(OF_ROW)


def renumbered(mark: Mark, to: Callable[[int], int | None]) -> Mark:
    def each(axes: frozenset[Axis]) -> frozenset[Axis]:
        moved = {to(a) if isinstance(a, int) else a for a in axes}
        return frozenset(moved - {None})

    axes = {name: each(getattr(mark, name)) for name in ("varies", "pattern", "summed", "rows")}
    return replace(mark, **axes)


def without(mark: Mark, loop: Operation) -> Mark:
    """Behind the loop its iterations are no axis any more."""
    return replace(mark, varies=mark.varies - {loop}, pattern=mark.pattern - {loop})


def listed(names: Iterable[str]) -> str:
    """As a value of a reason."""
    return ", ".join(sorted(names))
