"""Ops that multiply or add and ran without a kernel of ours: what equal bits are worth where there are some. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from detcheck.counted import alike_in, stock_in, unlike_in


def note(calls: Mapping[str, int]) -> str:
    """What is added to a finding's note; "" where there is none."""
    checked = set(alike_in(calls)) - set(unlike_in(calls))
    unknown = [op for op in stock_in(calls) if op not in checked]
    said = f"; ran without a kernel of ours: {', '.join(unknown)}" if unknown else ""
    if checked:
        said += f"; stock, and gave a row the bits that it has alone at every shape that was met: {', '.join(sorted(checked))}"
    return said


def doubt(calls: Mapping[str, int]) -> str:
    """Why equal bits are no pass; "" where nothing speaks against them."""
    found = unlike_in(calls)
    if not found:
        return ""
    said = ", ".join(f"{op} (in {n} calls)" for op, n in found.items())
    return (
        f"stock kernels ran where there is none of ours, and gave a row other bits in the batch than alone: {said}. "
        "That the samples are equal all the same may be chance"
    )
