"""What ran on our kernels inside a `batch_invariant` block, and what that multiplies or adds ran without."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Coverage:
    """What ran inside a `batch_invariant` block."""

    kernels: str
    """which implementation: compiled, or out of torch's own"""
    overridden: Counter[str] = field(default_factory=Counter)
    """aten op, or transformers' attention -> calls that ran batch-invariant kernels"""
    uncovered: Counter[str] = field(default_factory=Counter)
    """aten op that adds, or whose elements may follow their place -> calls that ran as stock"""
    alike: Counter[str] = field(default_factory=Counter)
    """of these, calls in which a row has the bits that it has alone"""
    unlike: Counter[str] = field(default_factory=Counter)
    """of these, calls in which it has others"""


active: list[Coverage] = []
"""of the blocks that we are in, the outermost first"""
_silent = 0  # how many `uncounted` blocks we are in


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """What runs inside is not the subject's own: our kernels' inner ops, the measure of an engine."""
    global _silent
    _silent += 1
    try:
        yield
    finally:
        _silent -= 1


def count(name: str, kind: str = "overridden") -> None:
    """One call more of an op: "overridden" by ours, "uncovered", and of that "alike" or "unlike"."""
    if not _silent:
        for coverage in active:
            getattr(coverage, kind)[name] += 1
