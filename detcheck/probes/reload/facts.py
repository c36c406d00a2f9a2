"""What an update was and what it left in the engine: data alone. `reasons.py` has the words, `judge.py` the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LeftBehind:
    """A tensor that is not as in a fresh load."""

    name: str
    """as the engine calls it"""
    first: int
    """of the rows (indices of the first dimension) that differ from a fresh load's"""
    last: int
    rows: int
    """how many do"""
    of: int
    """rows in all"""
    old: bool
    """whether all that differ have the bits from before the update"""


@dataclass(frozen=True)
class WeightUpdate:
    """One update of an engine."""

    failed: str = ""
    """why it did not go through; "": it did"""
    tensors: int = 0
    """of the engine that were read, before and after and in a fresh load"""
    unread: tuple[str, ...] = ()
    """the first of those that could not be read"""
    unread_count: int = 0
    gone: tuple[str, ...] = ()
    """the first of those that could be read before the update and in a fresh load, and not after it; they are not among `unread`"""
    gone_count: int = 0
    alike: tuple[str, ...] = ()
    """the first of the large tensors that are the same in the old weights, which we made, and in the new"""
    alike_count: int = 0
    silent: str = ""
    """why it did not say what it holds, although it was asked; "": it did, or it has no way to say it"""
    differ: int = 0
    """of those that were read: in how many the old and the new weights differ"""
    first: tuple[str, ...] = ()
    """the first of these"""
    left: tuple[LeftBehind, ...] = ()
    """the first of those that are not as in a fresh load"""
    left_count: int = 0
    left_old: int = 0
    """how many of them have the old bits in all rows that differ"""
    cache: bool = False
    """whether the engine keeps a prefix cache"""
    ignored: bool | None = False
    """whether the engine took a call to sleep, and did nothing; None: that could not be seen"""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> WeightUpdate:
        known = dict(stored)
        known["left"] = tuple(LeftBehind(**each) for each in known["left"])
        for names in ("unread", "gone", "alike", "first"):
            known[names] = tuple(known.get(names, ()))
        return cls(**known)
