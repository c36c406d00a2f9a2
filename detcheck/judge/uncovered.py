"""Ops that multiply or add and ran without a kernel of ours: what equal bits are worth where there are some. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from detcheck.counted import alike_in, stock_in, unlike_in


def note(calls: Mapping[str, int]) -> str:
    """What is added to a finding's note; "" where there is none."""
    stock, unlike = stock_in(calls), unlike_in(calls)
    checked = {op: n for op, n in alike_in(calls).items() if op not in unlike}
    unknown = [op for op in stock if op not in checked]
    said = f"; ran without a kernel of ours: {', '.join(unknown)}" if unknown else ""
    if checked:  # a call of one row, and one that cannot be cut to a row, is not asked
        counts = ", ".join(f"{op} ({n} of {stock[op]} calls)" for op, n in checked.items())
        said += f"; stock, and at the shapes where that could be asked, in a few calls each, a row had the bits that it has alone: {counts}"
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
