"""Stock's orders of addition beside ours, call by call. Pure.

Stock is what ours is compared with (`Role.CONTROL`), and no proof that the probe can see: every order of ours was added again to the bit,
on data that tells a wrong order. So ours is judged alone, whether stock keeps one order here or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from detcheck.finding import Finding
from detcheck.records import Case, Condition
from detcheck.summation.describe import Entry
from detcheck.verdict import Role


@dataclass(frozen=True)
class SeenOrder:
    """An order of a finding, for its description."""

    outline: tuple[Entry, ...]
    calls: frozenset[tuple[int, int]]
    """(rows in the batch, threads) of the calls that have it"""


@dataclass(frozen=True)
class SeenOrders:
    """What is known of a finding's orders, beside what is in its evidence, and in the same order."""

    orders: tuple[SeenOrder, ...]
    stock: Finding | None = None
    """the control, of ours"""
    beside_ours: bool = False
    """whether it is such a control, so that its trees are drawn beside ours"""


def seen_order(outline: tuple[Entry, ...], conditions: Sequence[Condition]) -> SeenOrder:
    return SeenOrder(outline, frozenset((c.batch_size or 0, c.threads or 0) for c in conditions))


def paired(findings: Sequence[Finding]) -> list[Finding]:
    """Each finding on ours with the one on stock of the same op, shape and dtype."""
    controls = {same(f.case): f for f in findings if f.role is Role.CONTROL and isinstance(f.detail, SeenOrders)}
    found = []
    for f in findings:
        stock = controls.get(same(f.case)) if isinstance(f.detail, SeenOrders) else None
        if f.role is Role.GATES and stock:
            calls = [{"rows": r, "threads": t, "stock": s, "ours": o} for r, t, s, o in side_by_side(stock, f)]
            beside = {"stock_orders": stock.evidence["orders"], "side_by_side": calls}
            f = replace(f, evidence={**f.evidence, **beside}, detail=replace(f.detail, stock=stock))
        elif f.role is Role.CONTROL and stock:
            f = replace(f, detail=replace(f.detail, beside_ours=True))
        found.append(f)
    return found


def same(case: Case) -> tuple[str, str, str]:
    return case.subject, case.dtype, case.input


def side_by_side(stock: Finding, ours: Finding) -> list[tuple[int, int, list[str], list[str]]]:
    """(rows, threads, hashes of stock's trees in that call, of ours); "" is an order that was not read."""
    calls = sorted({call for f in (stock, ours) for order in f.detail.orders for call in order.calls})
    return [(*call, trees(stock, call), trees(ours, call)) for call in calls]


def trees(finding: Finding, call: tuple[int, int]) -> list[str]:
    entries: Sequence[Mapping[str, object]] = finding.evidence["orders"]
    both = zip(entries, finding.detail.orders, strict=True)
    return [str(entry["tree"]) if entry["sure"] else "" for entry, order in both if call in order.calls]
