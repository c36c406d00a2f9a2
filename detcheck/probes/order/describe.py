"""What reports say of revealed orders of addition: each in words, where it was seen, and its tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from detcheck import samples
from detcheck.advice import advice as what_to_do
from detcheck.blocks import Block, Column, DrawnTree, Facts, Matrix, Table, Text, Totals, Trees
from detcheck.finding import Finding
from detcheck.probes.order.beside import SeenOrders, side_by_side
from detcheck.text import visible
from detcheck.verdict import Verdict

SHOWN = 4  # conditions of an order
SIDE_BY_SIDE = 2  # orders of one call in a line of the table
BITS_INSTEAD = "This is not a pass. Whether an op's bits follow the batch, detcheck kernels asks, whatever its order."


def describe(finding: Finding) -> tuple[Block, ...]:
    if "orders" not in finding.evidence:  # it could not be asked
        return samples.describe(finding)
    seen: SeenOrders = finding.detail
    blocks: list[Block] = []
    if finding.samples:
        blocks.append(Totals(samples.totals(finding)))
        drawn = trees(finding)
        if seen.stock:
            blocks += [Facts((compared(seen.stock, finding),)), table(seen.stock, finding)]
            drawn = [*trees(seen.stock, "stock "), *trees(finding, "ours ")]
        blocks += [] if seen.beside_ours else [Trees(tuple(drawn)), *sizes(finding.evidence["orders"])]
    unread = finding.verdict is Verdict.INCONCLUSIVE and any(not order["sure"] for order in finding.evidence["orders"])
    advice = BITS_INSTEAD if unread else what_to_do(finding)
    return (*blocks, Text((advice,))) if advice else tuple(blocks)


def trees(finding: Finding, whose: str = "") -> list[DrawnTree]:
    orders = finding.evidence["orders"]
    return [
        tree(n, order, seen.outline, len(orders), whose)
        for n, (order, seen) in enumerate(zip(orders, finding.detail.orders, strict=True), 1)
    ]


def compared(stock: Finding, ours: Finding) -> str:
    """What stock does in the same calls."""
    read = {order["tree"] for order in stock.evidence["orders"] if order["sure"]}
    mine = {order["tree"] for order in ours.evidence["orders"] if order["sure"]}
    if not read or not mine:
        return (
            "no order of stock's was read, so there is none to compare with"
            if not read
            else "stock's orders alone were read"
        )
    if read == mine:
        return "stock adds in the same order" if len(read) == 1 else f"stock adds in the same {len(read)} orders"
    number = "one order, another one" if len(read) == 1 else f"{len(read)} orders"
    follows = ": its bits follow the batch" if stock.verdict is Verdict.BATCH_VARIANT else ""
    return f"stock adds in {number} in the same calls{follows}"


def table(stock: Finding, ours: Finding) -> Table:
    """The trees' hashes at each batch size."""
    calls = side_by_side(stock, ours)
    several = len({threads for _, threads, _, _ in calls}) > 1
    heads = ("rows", *(("threads",) if several else ()), "stock's order", "our order")
    lines = [(str(rows), *((str(threads),) if several else ()), hashes(s), hashes(o)) for rows, threads, s, o in calls]
    return Table("Orders side by side", (heads, *lines), names_first=False)


def hashes(trees: Sequence[str]) -> str:
    found = [name or "not read" for name in trees]
    return ", ".join(found[:SIDE_BY_SIDE]) + (
        f" and {len(found) - SIDE_BY_SIDE} more" if len(found) > SIDE_BY_SIDE else ""
    )


def tree(n: int, order: Mapping[str, object], entries: tuple[object, ...], of: int, whose: str = "") -> DrawnTree:
    shown = list(map(str, order["conditions"]))
    where = f"with {'; '.join(shown[:SHOWN])}" + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
    if not order["sure"]:
        why = f": {order['why']}" if of > 1 else ""  # of one alone the note says why
        return DrawnTree("", f"{whose}order {n}: {visible(f'not sure{why}')}", where, ())
    checked = order["checked"]
    proof = f"re-added in {order['adds_in']}: {checked['equal']} of {checked['columns']} columns equal"
    if "proved" in order:
        proof += f"; all {order['proved']['pairs']:,} pairs of summands meet where it says"
    title = f"{whose}order {n} · {order['tree']} · {', '.join(map(str, batch_sizes(order)))} in the batch"
    return DrawnTree(
        title, f"{whose}order {n} {order['tree']}: {order['words']}; {proof}".replace("  ", " "), where, entries
    )


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
