"""What revealed orders of addition amount to, over all conditions. Pure; what is stored of an order is in `facts.py`.

Only orders of one output are compared: an op may add column 0 otherwise than column 63, as long as it does so in every batch.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from detcheck.finding import Finding
from detcheck.judge.conditions import is_of
from detcheck.judge.tally import Tally, absent
from detcheck.probes.order.beside import SeenOrders, paired, seen_order
from detcheck.probes.order.facts import Place, Revealed
from detcheck.probes.order.reasons import sentence
from detcheck.records import Case, Condition, Outcome, Schedule, Step
from detcheck.summation.describe import Entry, drawn, outline, spelled, words
from detcheck.summation.fold import fold
from detcheck.summation.tree import Tree
from detcheck.verdict import Role, Verdict

Found = Mapping[Condition, Counter[Revealed]]
"""how often each order was seen under each condition"""


def findings(case: Case, steps: Sequence[Step] | None, tally: Tally, outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """An op, judged by the orders in which it added: one class of conditions for each order that was seen."""
    found = observed(tally.conditions, outcomes)
    classes = classes_of(found)
    missing = absent(steps or (), tally)
    reasons = dict(tally.missing)
    if missing > tally.missing.total():
        reasons["the run stopped before them"] = missing - tally.missing.total()
    verdict, note = judged(found, classes, reasons if missing else {}, tally)
    finding = Finding(
        case,
        verdict,
        note,
        samples=sum(counts.total() for counts in found.values()),
        missing=missing,
        distinct=(distinct := batch_classes(found)),
        distinct_bits=distinct,
        mode_count=max(sum(found.values(), Counter()).values(), default=0),
        evidence={
            "orders": [entry(order, conditions) for order, conditions in classes.items()],
            "missing": reasons if missing else {},
            "compared": "bits",
        },
        detail=SeenOrders(
            tuple(seen_order(in_words(order).outline, conditions) for order, conditions in classes.items())
        ),
    )
    return [finding]


def whole(
    tallies: Mapping[Case, Tally],
    schedule: Schedule | None,
    outcomes: Mapping[str, Outcome],
    roles: Mapping[Case, Role],
    options: object,
) -> list[Finding]:
    """A finding an op and implementation; on ours with stock's orders beside its own, where both were asked about."""
    cases, found = list(roles) or list(tallies), []
    for case, tally in tallies.items():
        steps = None if schedule is None else [s for s in schedule.steps if is_of(s, case, cases)]
        found += [replace(f, role=roles.get(case, Role.GATES)) for f in findings(case, steps, tally, outcomes)]
    return paired(found)


def observed(conditions: Mapping[Condition, Mapping[str, int]], outcomes: Mapping[str, Outcome]) -> Found:
    """Outcomes that hold equal facts are one order, as where an older version stored more beside them."""
    names = dict.fromkeys(name for counts in conditions.values() for name in counts)
    orders = {name: Revealed.from_json(json.loads(outcomes[name].text)) for name in names}
    found: dict[Condition, Counter[Revealed]] = {}
    for condition, counts in conditions.items():
        found[condition] = Counter()
        for name, n in counts.items():
            found[condition][orders[name]] += n
    return found


@dataclass(frozen=True)
class Words:
    """What is said of a tree; nothing where none was read."""

    said: str = ""
    """in words"""
    spelled: str = ""
    """spelled out, to the last summand"""
    outline: tuple[Entry, ...] = ()


@functools.lru_cache(maxsize=256)
def in_words(order: Revealed) -> Words:
    if not order.tree:
        return Words()
    folded = fold(Tree(order.length, order.children))
    return Words(words(folded), spelled(folded), tuple(outline(folded)))


def seen_orders(found: Found) -> list[Revealed]:
    return list(dict.fromkeys(order for counts in found.values() for order in counts))


def classes_of(found: Found) -> dict[Revealed, list[Condition]]:
    classes: dict[Revealed, list[Condition]] = {}
    for condition in sorted(found, key=lambda c: (c.batch_size or 0, c.threads or 0, c.slot or 0, c.composition)):
        for order in found[condition]:
            classes.setdefault(order, []).append(condition)
    return classes


def place_of(condition: Condition) -> Place | None:
    """None: an op that was not read has no places."""
    return Place.parse(condition.composition) if condition.composition else None


def outputs(found: Found) -> dict[tuple[int | None, int | None], dict[object, set[Revealed]]]:
    """(batch size, threads) -> output -> its orders. An output is a column, and a place within what one row of the batch gives."""
    places = defaultdict(list)
    for condition, counts in found.items():
        place = place_of(condition) or Place((0,), (0,))
        places[condition.batch_size, condition.threads].append((place, counts))
    calls: dict[tuple[int | None, int | None], dict[object, set[Revealed]]] = {}
    for key, seen in places.items():
        each = max(
            1, (1 + max(max(place.rows) for place, _ in seen)) // max(1, key[0] or 1)
        )  # sums in a column, per row
        call = calls[key] = defaultdict(set)
        for place, counts in seen:
            for within in {row % each for row in place.rows}:
                for column in place.columns:
                    call[within, column] |= set(counts)
    return calls


def merged(found: Found) -> set[frozenset[Revealed]]:
    """The orders that one output had over all conditions, for every output."""
    merged: dict[object, set[Revealed]] = defaultdict(set)
    for call in outputs(found).values():
        for output, orders in call.items():
            merged[output] |= orders
    return {frozenset(orders) for orders in merged.values()}


def batch_classes(found: Found) -> int:
    """Classes of batch sizes and thread counts with equal orders; at least as many as one output has orders."""
    one = alias(seen_orders(found))
    signatures = {
        frozenset((output, frozenset(one[order] for order in orders)) for output, orders in call.items())
        for call in outputs(found).values()
    }
    several = (len({one[order] for order in orders}) for orders in merged(found))
    return max(len(signatures), max(several, default=0))


def alias(orders: Iterable[Revealed]) -> dict[Revealed, Revealed | str]:
    """What each counts as: one that is sure is itself; what was not read is told apart by its bits, not by the reasons."""
    orders = list(orders)
    sure = {order.bits: order for order in orders if order.sure}
    return {order: order if order.sure else sure.get(order.bits, order.bits) for order in orders}


def said(condition: Condition) -> str:
    place = place_of(condition)
    where = f"{place.short()}; " if place else ""
    fed = f"; other {condition.fed}" if condition.fed else ""
    return f"{condition.batch_size} in the batch ({where}threads {condition.threads}{fed})"


def entry(order: Revealed, conditions: Sequence[Condition]) -> dict[str, object]:
    shown = in_words(order)
    found = {
        "tree": order.tree,
        "words": shown.said,
        "spelled": shown.spelled,
        "adds_in": order.adds_in,
        "checked": vars(order.checked),
        "why": sentence(order.why),
        "outline": drawn(shown.outline),
        "sure": order.sure,
    }
    found |= {"proved": vars(order.proved)} if order.proved else {}
    return found | {"conditions": [said(c) for c in conditions]}


def judged(
    found: Found, classes: Mapping[Revealed, Sequence[Condition]], missing: Mapping[str, int], tally: Tally
) -> tuple[Verdict, str]:
    if not found:
        why = "; ".join(missing) or "the run stopped before anything was observed"
        return (Verdict.FAILED if tally.missing else Verdict.INCONCLUSIVE), why
    orders = seen_orders(found)
    shaken = [order.repeats for order in orders if order.repeats.distinct > 1]
    if shaken:
        calls, left = sum(repeats.calls for repeats in shaken), sum(repeats.left for repeats in shaken)
        return (
            Verdict.RUN_VARIANT,
            f"equal calls gave different bits: {left} of {calls} left the most common result. No order is shown, since there is more than one",
        )
    if unsteady := [c for c, counts in found.items() if unlike(counts)]:
        return (
            Verdict.RUN_VARIANT,
            f"revealed again under equal conditions, the order was another one, in {len(unsteady)} of {len(found)} conditions, first with {said(unsteady[0])}",
        )
    if moved := shifting(found):
        return (
            Verdict.RUN_VARIANT,
            f"revealed again under equal conditions, outputs were added in another order: {said(moved[0])}, and {said(moved[1])}",
        )
    doubts = list(dict.fromkeys(sentence(order.why) for order in orders if not order.sure))
    sure = [order for order in classes if order.sure]
    if any(unlike(several) for several in merged(found)):
        how = f"equal data gave unlike bits, and not every order could be read ({doubts[0]})" if doubts else ""
        return Verdict.BATCH_VARIANT, f"{how or f'{len(classes)} orders of addition'}. {each_of(classes)}"
    if doubts:
        return Verdict.INCONCLUSIVE, f"no order is shown: {'; '.join(doubts)}"
    if missing:
        return Verdict.INCONCLUSIVE, f"{sum(missing.values())} revealings are missing ({'; '.join(missing)})"
    if any(counts.total() < 2 for counts in found.values()):
        return Verdict.INCONCLUSIVE, "an order is revealed twice before it is believed: ask for --trials 2"
    calls = outputs(found)
    if len(calls) < 2:
        return (
            Verdict.INCONCLUSIVE,
            f"there is nothing to compare with, only one kind of call: {each_of(classes)}",
        )
    if len(sure) > 1:
        return (
            Verdict.IDENTICAL,
            f"{len(sure)} orders of addition, each at its own columns and the same in all {len(calls)} kinds of call. {each_of(classes)}",
        )
    one = sure[0]
    return (
        Verdict.IDENTICAL,
        f"one order of addition in all {len(calls)} conditions: {in_words(one).said} (tree {one.tree}, added in {one.adds_in})",
    )


def shifting(found: Found) -> tuple[Condition, Condition] | None:
    """Two places of one call's outputs that share some, with unlike orders: in one revealing an output is in one place only."""
    seen = defaultdict(list)
    for condition, counts in found.items():
        if place := place_of(condition):
            at = condition.batch_size, condition.threads
            seen[at].append((condition, set(place.rows), set(place.columns), counts))
    for places in seen.values():
        for (one, rows, columns, orders), (other, *theirs) in itertools.combinations(places, 2):
            if rows & theirs[0] and columns & theirs[1] and unlike({*orders, *theirs[2]}):
                return one, other
    return None


def unlike(orders: Collection[Revealed]) -> bool:
    """Whether these tell of more than one order: two that are sure, or unlike bits. Unlike reasons for reading none are no evidence."""
    bits = {order.bits for order in orders} - {""}
    return len(bits) > 1 or sum(order.sure for order in orders) > 1


def each_of(classes: Mapping[Revealed, Sequence[Condition]]) -> str:
    """Every order in words, with the first of its conditions."""
    return "; ".join(
        f"{in_words(order).said if order.sure else 'unread'}: {said(conditions[0])}"
        + (f" and {len(conditions) - 1} more" if len(conditions) > 1 else "")
        for order, conditions in classes.items()
    )
