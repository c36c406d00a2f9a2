"""What a run stores of an order of addition: data alone. `reasons.py` has the sentences, `judge.py` the words for a tree.

Equal facts are one order, wherever and in whichever batch it was seen. So its place is not among them: it is in the condition, as
`str(Place)`, and which call it was is the condition's name, as `str(Call)`. Both are read back here and nowhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detcheck.reason import Reason

SHOWN = 8  # runs of rows and columns in `Place.short`, beside the last


@dataclass(frozen=True)
class Place:
    """Outputs that are added in one order, as far as equal data tell: rows of the batch, and columns."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def __str__(self) -> str:
        """In full, like "rows 0-3, columns 0-5, 7"."""
        return f"rows {runs(self.rows)}, columns {runs(self.columns)}"

    def short(self) -> str:
        """The same with what is in the middle left out where it is long."""
        parts = str(self).split(", ")
        return ", ".join(parts if len(parts) <= SHOWN + 1 else [*parts[:SHOWN], "...", parts[-1]])

    @classmethod
    @functools.lru_cache(maxsize=1024)  # the judge asks for each place several times, and it may be of many columns
    def parse(cls, text: str) -> Place:
        rows, _, columns = text.removeprefix("rows ").partition(", columns ")
        return cls(numbers(rows), numbers(columns))


def runs(numbers: Sequence[int]) -> str:
    """Like "0-3, 7"."""
    found: list[list[int]] = []
    for n in numbers:
        if found and found[-1][1] == n - 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in found)


def numbers(text: str) -> tuple[int, ...]:
    """Of "0-3, 7": 0, 1, 2, 3, 7."""
    ends = [part.partition("-") for part in text.split(", ")]
    return tuple(n for a, _, b in ends for n in range(int(a), int(b or a) + 1))


@dataclass(frozen=True)
class Checked:
    """Re-adding in software, on columns of data."""

    columns: int = 0
    equal: int = 0
    """of them with the op's own bits"""


@dataclass(frozen=True)
class Proved:
    """Pairs of summands that were asked where they meet."""

    pairs: int = 0
    unlike: int = 0
    """of them met elsewhere than in the tree"""


@dataclass(frozen=True)
class Repeats:
    """Equal calls that were compared with each other."""

    calls: int = 0
    distinct: int = 1
    """results among them"""
    left: int = 0
    """calls whose result was not the most common one"""


@dataclass(frozen=True)
class Revealed:
    """One order of addition, or why it was not read."""

    length: int
    """summands; 0: not known"""
    tree: str = ""
    """`Tree.hash`; "": none was read"""
    children: tuple[tuple[int, ...], ...] = field(default=(), hash=False)
    """`Tree.nodes`"""
    adds_in: str = ""
    """`Adds.said`: dtype of the accumulator, what is fused, and how the sum is scaled"""
    checked: Checked = Checked()
    proved: Proved | None = None
    """None: it was not asked for, or nothing was read that could be proved"""
    repeats: Repeats = Repeats()
    bits: str = ""
    """content hash of what the first columns of data gave; "": not one thing"""
    sure: bool = False
    why: Reason | None = None
    """why it is not sure"""

    def to_json(self) -> dict[str, Any]:
        stored = vars(self) | {"checked": vars(self.checked), "repeats": vars(self.repeats)}
        stored |= {"why": self.why.to_json() if self.why else None}
        del stored["proved"]
        return stored | ({"proved": vars(self.proved)} if self.proved else {})

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Revealed:
        """What older runs hold besides, words and an outline of the tree, is made again when it is shown."""
        return cls(
            length=stored["length"],
            tree=stored["tree"],
            children=tuple(map(tuple, stored["children"])),
            adds_in=stored["adds_in"],
            checked=Checked(**stored["checked"]),
            proved=Proved(**stored["proved"]) if "proved" in stored else None,
            repeats=Repeats(**stored["repeats"]),
            bits=stored["bits"],
            sure=stored["sure"],
            why=Reason.from_json(stored["why"]),
        )
