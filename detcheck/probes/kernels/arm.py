"""What is tested: implementations of ops, and the rows that their batches are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from detcheck.harness import accuracy
from detcheck.records import Case
from detcheck.verdict import Role

if TYPE_CHECKING:
    import torch

TESTED = 16  # rows under test, at most
TESTED_ELEMENTS = 1 << 20  # of arguments; a row with more of them holds many sums itself, and costs more


@dataclass(frozen=True)
class Arm:
    """One implementation of one op on one kind of input."""

    case: Case
    role: Role
    run: Callable[..., torch.Tensor]
    make: Callable[[int], tuple[object, ...]]
    """rows -> the op's arguments"""
    batched: tuple[int, ...]
    stock: Callable[..., torch.Tensor] | None
    """what it is compared with in accuracy and time; None: it is stock itself, or has none"""
    reference: Callable[..., torch.Tensor] | None
    roundings: float = 1.0


@dataclass(frozen=True, eq=False)
class Pool:
    """What batches are made of: rows under test first, then others."""

    key: tuple[str, str, str]
    arguments: tuple[object, ...]
    tested: int
    """rows that take the place of the row under test"""
    exact: tuple[accuracy.Exact, ...]
    """as they are made, and with a heavy tail; none where there is no reference"""
    limits: dict[tuple[int, torch.dtype], tuple[torch.Tensor, bool]] = field(default_factory=dict)
    """(which of them, the output's dtype) -> `_limit`, found once"""

    def kinds(self, rows: Sequence[int], tested: int) -> list[int]:
        """Rows of the pool for the rows of a step: 0 is the one that is tested now, negative ones stay hostile."""
        return [tested if kind == 0 else TESTED - 1 + kind if kind > 0 else kind for kind in rows]
