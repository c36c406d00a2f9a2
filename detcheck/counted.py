"""Names under which calls of ops are counted: "ours aten::mm" ran a kernel of ours, "stock aten::dot" did not. Made and read here alone.

Of stock ones, "alike aten::dot" counts calls in which a row had the bits that it has alone, "unlike aten::dot" those in which it had others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detcheck.coverage import Coverage

OURS, STOCK, ALIKE, UNLIKE = "ours ", "stock ", "alike ", "unlike "


def by_ours(op: str) -> str:
    return f"{OURS}{op}"


def by_stock(op: str) -> str:
    return f"{STOCK}{op}"


def of_coverage(coverage: Coverage) -> dict[str, int]:
    """name -> calls of everything that was counted inside a `batch_invariant` block."""
    kinds = {OURS: coverage.overridden, STOCK: coverage.uncovered, ALIKE: coverage.alike, UNLIKE: coverage.unlike}
    return {f"{kind}{op}": n for kind, calls in kinds.items() for op, n in sorted(calls.items())}


VLLM_NEEDS = (by_ours("vllm::attention"), by_ours("vllm::linear"))
"""what a model in vLLM must have called if it ran on our kernels"""


def ours_in(calls: Mapping[str, int]) -> dict[str, int]:
    """op -> calls that ran a kernel of ours, by name."""
    return _of(calls, OURS)


def stock_in(calls: Mapping[str, int]) -> dict[str, int]:
    """op -> calls of what multiplies or adds and ran without one of ours, by name."""
    return _of(calls, STOCK)


def alike_in(calls: Mapping[str, int]) -> dict[str, int]:
    return _of(calls, ALIKE)


def unlike_in(calls: Mapping[str, int]) -> dict[str, int]:
    return _of(calls, UNLIKE)


def _of(calls: Mapping[str, int], kind: str) -> dict[str, int]:
    return {name.removeprefix(kind): calls[name] for name in sorted(calls) if name.startswith(kind)}
