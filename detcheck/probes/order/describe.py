"""What reports say of revealed orders of addition: each in words, where it was seen, and its tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from detcheck import samples
from detcheck.advice import advice as what_to_do
from detcheck.blocks import Block, Column, DrawnTree, Matrix, Text, Totals, Trees
from detcheck.finding import Finding
from detcheck.text import visible
from detcheck.verdict import Verdict

SHOWN = 4  # conditions of an order
BITS_INSTEAD = "This is not a pass. Whether an op's bits follow the batch, detcheck kernels asks, whatever its order."


def describe(finding: Finding) -> tuple[Block, ...]:
    if "orders" not in finding.evidence:  # it could not be asked
        return samples.describe(finding)
    orders = finding.evidence["orders"]
    trees = [
        tree(n, order, entries, len(orders))
        for n, (order, entries) in enumerate(zip(orders, finding.detail, strict=True), 1)
    ]
    read = (Totals(samples.totals(finding)), Trees(tuple(trees)), *sizes(orders)) if finding.samples else ()
    unread = finding.verdict is Verdict.INCONCLUSIVE and any(not order["sure"] for order in orders)
    advice = BITS_INSTEAD if unread else what_to_do(finding)
    return (*read, Text((advice,))) if advice else read


def tree(n: int, order: Mapping[str, object], entries: tuple[object, ...], of: int) -> DrawnTree:
    shown = list(map(str, order["conditions"]))
    where = f"with {'; '.join(shown[:SHOWN])}" + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
    if not order["sure"]:
        why = f": {order['why']}" if of > 1 else ""  # of one alone the note says why
        return DrawnTree("", f"order {n}: {visible(f'not sure{why}')}", where, ())
    checked = order["checked"]
    proof = f"re-added in {order['adds_in']}: {checked['equal']} of {checked['columns']} columns equal"
    if "proved" in order:
        proof += f"; all {order['proved']['pairs']:,} pairs of summands meet where it says"
    title = f"order {n} · {order['tree']} · {', '.join(map(str, batch_sizes(order)))} in the batch"
    return DrawnTree(title, f"order {n} {order['tree']}: {order['words']}; {proof}".replace("  ", " "), where, entries)


def batch_sizes(order: Mapping[str, object]) -> list[int]:
    """Of its conditions, each of which begins with one."""
    return sorted({int(str(condition).split(" ", 1)[0]) for condition in order["conditions"]})


def sizes(orders: Sequence[Mapping[str, object]]) -> tuple[Matrix, ...]:
    """Which batch size gives which order, where there are two to tell apart."""
    if len(orders) < 2:
        return ()
    columns = tuple(
        Column(str(n), n - 1, visible(str(order["words"] or "not sure"))) for n, order in enumerate(orders, 1)
    )
    counts = [Counter(int(str(c).split(" ", 1)[0]) for c in order["conditions"]) for order in orders]
    every = sorted({size for found in counts for size in found})
    lines = tuple((f"{size} in the batch", (*(found[size] for found in counts), 0)) for size in every)
    return (Matrix("Which batch size adds in which order", columns, lines, 0, "places in the output"),)
