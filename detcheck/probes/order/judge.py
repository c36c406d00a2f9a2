"""What revealed orders of addition amount to, over all conditions. Pure; the facts are those of `probes/order.py`.

Only orders of one output are compared: an op may add column 0 otherwise than column 63, as long as it does so in every batch.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from detcheck.finding import Finding
from detcheck.judge.tally import Tally, absent
from detcheck.records import Case, Condition, Outcome, Step
from detcheck.summation.describe import drawn, outline, spelled, words
from detcheck.summation.fold import fold
from detcheck.summation.tree import Tree
from detcheck.verdict import Verdict


def findings(case: Case, steps: Sequence[Step] | None, tally: Tally, outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """An op, judged by the orders in which it added: one class of conditions for each order that was seen."""
    found = tally.conditions
    facts = {name: read(outcomes[name].text) for counts in found.values() for name in counts}
    classes = classes_of(found, facts)
    missing = absent(steps or (), tally)
    reasons = dict(tally.missing)
    if missing > tally.missing.total():
        reasons["the run stopped before them"] = missing - tally.missing.total()
    verdict, note = judged(found, facts, classes, reasons if missing else {}, tally)
    finding = Finding(
        case,
        verdict,
        note,
        samples=sum(counts.total() for counts in found.values()),
        missing=missing,
        distinct=(distinct := batch_classes(found, facts)),
        distinct_bits=distinct,
        mode_count=max((counts.total() for counts in totals(found).values()), default=0),
        evidence={
            "orders": [entry(facts[name], conditions) for name, conditions in classes.items()],
            "missing": reasons if missing else {},
            "compared": "bits",
        },
        detail=tuple(facts[name]["entries"] for name in classes),
    )
    return [finding]


@functools.lru_cache(maxsize=256)
def read(text: str) -> dict[str, object]:
    """Facts of an order, with what is said of its tree: in words, spelled out, as an outline, whose `entries` are no text yet."""
    facts = json.loads(text)
    if not facts["tree"]:
        return facts | {"words": "", "spelled": "", "outline": [], "entries": ()}
    folded = fold(Tree(facts["length"], tuple(map(tuple, facts["children"]))))
    entries = tuple(outline(folded))
    return facts | {"words": words(folded), "spelled": spelled(folded), "outline": drawn(entries), "entries": entries}


def totals(found: Mapping[Condition, Mapping[str, int]]) -> dict[str, object]:
    from collections import Counter

    summed: dict[str, Counter[str]] = defaultdict(Counter)
    for counts in found.values():
        for name, n in counts.items():
            summed[name][name] += n
    return summed


def classes_of(found: Mapping[Condition, Mapping[str, int]], facts: Mapping[str, object]) -> dict[str, list[Condition]]:
    classes: dict[str, list[Condition]] = {}
    for condition in sorted(found, key=lambda c: (c.batch_size or 0, c.threads or 0, c.slot or 0, c.composition)):
        for name in found[condition]:
            classes.setdefault(name, []).append(condition)
    return classes


def numbers(text: str) -> list[int]:
    """Of "0-3, 7": 0, 1, 2, 3, 7."""
    ends = [part.partition("-") for part in text.split(", ") if part]
    return [n for a, _, b in ends for n in range(int(a), int(b or a) + 1)]


def outputs(
    found: Mapping[Condition, Mapping[str, int]],
) -> dict[tuple[int | None, int | None], dict[object, set[str]]]:
    """(batch size, threads) -> output -> its orders. An output is a column, and a place within what one row of the batch gives."""
    places = defaultdict(list)
    for condition, counts in found.items():
        rows, _, columns = condition.composition.removeprefix("rows ").partition(", columns ")
        listed = (numbers(rows), numbers(columns)) if columns else ([0], [0])
        places[condition.batch_size, condition.threads].append((*listed, counts))
    calls: dict[tuple[int | None, int | None], dict[object, set[str]]] = {}
    for key, seen in places.items():
        each = max(1, (1 + max(max(rows) for rows, _, _ in seen)) // max(1, key[0] or 1))  # sums in a column, per row
        call = calls[key] = defaultdict(set)
        for rows, columns, counts in seen:
            for place in {row % each for row in rows}:
                for column in columns:
                    call[place, column] |= set(counts)
    return calls


def merged(found: Mapping[Condition, Mapping[str, int]]) -> set[frozenset[str]]:
    """The orders that one output had over all conditions, for every output."""
    merged: dict[object, set[str]] = defaultdict(set)
    for call in outputs(found).values():
        for output, names in call.items():
            merged[output] |= names
    return {frozenset(names) for names in merged.values()}


def batch_classes(found: Mapping[Condition, Mapping[str, int]], facts: Mapping[str, Mapping[str, object]]) -> int:
    """Classes of batch sizes and thread counts with equal orders; at least as many as one output has orders."""
    one = alias(facts)
    signatures = {
        frozenset((output, frozenset(one[n] for n in names)) for output, names in call.items())
        for call in outputs(found).values()
    }
    return max(len(signatures), max((len({one[n] for n in names}) for names in merged(found)), default=0))


def alias(facts: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Facts -> what they count as: an order that is sure is itself; what was not read is told apart by its bits, not by the reasons."""
    sure = {fact["bits"]: name for name, fact in facts.items() if fact["sure"]}
    return {name: name if fact["sure"] else sure.get(fact["bits"]) or fact["bits"] for name, fact in facts.items()}


def said(condition: Condition) -> str:
    parts = condition.composition.split(", ")
    where = condition.composition if len(parts) <= 9 else ", ".join([*parts[:8], "...", parts[-1]])
    fed = f"; other {condition.fed}" if condition.fed else ""
    where = f"{where}; " if where else ""  # an op that was not read has no places
    return f"{condition.batch_size} in the batch ({where}threads {condition.threads}{fed})"


def entry(facts: Mapping[str, object], conditions: Sequence[Condition]) -> dict[str, object]:
    kept = {key: facts[key] for key in ("tree", "words", "spelled", "adds_in", "checked", "why", "outline", "sure")}
    kept |= {"proved": facts["proved"]} if "proved" in facts else {}
    return kept | {"conditions": [said(c) for c in conditions]}


def judged(
    found: Mapping[Condition, Mapping[str, int]],
    facts: Mapping[str, dict[str, object]],
    classes: Mapping[str, Sequence[Condition]],
    missing: Mapping[str, int],
    tally: Tally,
) -> tuple[Verdict, str]:
    if not found:
        why = "; ".join(missing) or "the run stopped before anything was observed"
        return (Verdict.FAILED if tally.missing else Verdict.INCONCLUSIVE), why
    shaken = [f for f in facts.values() if f["repeats"]["distinct"] > 1]
    if shaken:
        calls = sum(f["repeats"]["calls"] for f in shaken)
        left = sum(f["repeats"]["left"] for f in shaken)
        return (
            Verdict.RUN_VARIANT,
            f"equal calls gave different bits: {left} of {calls} left the most common result. No order is shown, since there is more than one",
        )
    if unsteady := [c for c, counts in found.items() if unlike(counts, facts)]:
        return (
            Verdict.RUN_VARIANT,
            f"revealed again under equal conditions, the order was another one, in {len(unsteady)} of {len(found)} conditions, first with {said(unsteady[0])}",
        )
    if moved := shifting(found, facts):
        return (
            Verdict.RUN_VARIANT,
            f"revealed again under equal conditions, outputs were added in another order: {said(moved[0])}, and {said(moved[1])}",
        )
    doubts = list(dict.fromkeys(f"{f['why']}" for f in facts.values() if not f["sure"]))
    sure = [name for name in classes if facts[name]["sure"]]
    several = merged(found)
    if any(unlike(names, facts) for names in several):
        how = f"equal data gave unlike bits, and not every order could be read ({doubts[0]})" if doubts else ""
        return Verdict.BATCH_VARIANT, f"{how or f'{len(classes)} orders of addition'}. {each_of(classes, facts)}"
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
            f"there is nothing to compare with, only one kind of call: {each_of(classes, facts)}",
        )
    if len(sure) > 1:
        return (
            Verdict.IDENTICAL,
            f"{len(sure)} orders of addition, each at its own columns and the same in all {len(calls)} kinds of call. {each_of(classes, facts)}",
        )
    one = facts[sure[0]]
    return (
        Verdict.IDENTICAL,
        f"one order of addition in all {len(calls)} conditions: {one['words']} (tree {one['tree']}, added in {one['adds_in']})",
    )


def shifting(
    found: Mapping[Condition, Mapping[str, int]], facts: Mapping[str, Mapping[str, object]]
) -> tuple[Condition, Condition] | None:
    """Two places of one call's outputs that share some, with unlike orders: in one revealing an output is in one place only."""
    seen = defaultdict(list)
    for condition, counts in found.items():
        rows, _, columns = condition.composition.removeprefix("rows ").partition(", columns ")
        if columns:
            seen[condition.batch_size, condition.threads].append(
                (condition, set(numbers(rows)), set(numbers(columns)), counts)
            )
    for places in seen.values():
        for (one, rows, columns, names), (other, *theirs) in itertools.combinations(places, 2):
            if rows & theirs[0] and columns & theirs[1] and unlike({*names, *theirs[2]}, facts):
                return one, other
    return None


def unlike(names: Iterable[str], facts: Mapping[str, Mapping[str, object]]) -> bool:
    """Whether these tell of more than one order: two that are sure, or unlike bits. Unlike reasons for reading none are no evidence."""
    bits = {facts[n]["bits"] for n in names} - {""}
    return len(bits) > 1 or sum(bool(facts[n]["sure"]) for n in names) > 1


def each_of(classes: Mapping[str, Sequence[Condition]], facts: Mapping[str, dict[str, object]]) -> str:
    """Every order in words, with the first of its conditions."""
    return "; ".join(
        f"{facts[n]['words'] if facts[n]['sure'] else 'unread'}: {said(cs[0])}"
        + (f" and {len(cs) - 1} more" if len(cs) > 1 else "")
        for n, cs in classes.items()
    )
