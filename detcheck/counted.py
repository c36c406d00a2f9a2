"""Names under which calls of ops are counted: "ours aten::mm" ran a kernel of ours, "stock aten::dot" did not. Made and read here alone."""

from __future__ import annotations

from collections.abc import Mapping

OURS, STOCK = "ours ", "stock "


def by_ours(op: str) -> str:
    return f"{OURS}{op}"


def by_stock(op: str) -> str:
    return f"{STOCK}{op}"


VLLM_NEEDS = (by_ours("vllm::attention"), by_ours("vllm::linear"))
"""what a model in vLLM must have called if it ran on our kernels"""


def ours_in(calls: Mapping[str, int]) -> dict[str, int]:
    """op -> calls that ran a kernel of ours, by name."""
    return _of(calls, OURS)


def stock_in(calls: Mapping[str, int]) -> dict[str, int]:
    """op -> calls of what multiplies or adds and ran without one of ours, by name."""
    return _of(calls, STOCK)


def _of(calls: Mapping[str, int], kind: str) -> dict[str, int]:
    return {name.removeprefix(kind): calls[name] for name in sorted(calls) if name.startswith(kind)}
