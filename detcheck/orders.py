"""What revealed orders of addition amount to, over all conditions. Pure; the facts are those of `probes/order.py`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

from detcheck.records import Case, Condition, Finding, Outcome, Step, Verdict
from detcheck.tally import Tally, absent


def finding(case: Case, steps: Sequence[Step] | None, tally: Tally, outcomes: Mapping[str, Outcome]) -> Finding:
    """An op, judged by the orders in which it added: one class of conditions for each order that was seen."""
    found = tally.conditions
    facts = {name: json.loads(outcomes[name].text) for counts in found.values() for name in counts}
    classes = classes_of(found, facts)
    missing = absent(steps or (), tally)
    reasons = dict(tally.missing)
    if missing > tally.missing.total():
        reasons["the run stopped before them"] = missing - tally.missing.total()
    verdict, note = judged(found, facts, classes, reasons if missing else {}, tally)
    return Finding(
        case,
        verdict,
        note,
        samples=sum(counts.total() for counts in found.values()),
        missing=missing,
        distinct=len(classes),
        distinct_bits=len(classes),
        mode_count=max((counts.total() for counts in totals(found).values()), default=0),
        evidence={
            "orders": [entry(facts[name], conditions) for name, conditions in classes.items()],
            "missing": reasons if missing else {},
            "compared": "bits",
        },
    )


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


def said(condition: Condition) -> str:
    return f"{condition.batch_size} in the batch ({condition.composition}; threads {condition.threads})"


def entry(facts: Mapping[str, object], conditions: Sequence[Condition]) -> dict[str, object]:
    kept = {key: facts[key] for key in ("tree", "words", "spelled", "adds_in", "checked", "why", "outline", "sure")}
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
    if unsteady := [c for c, counts in found.items() if len(counts) > 1]:
        return (
            Verdict.RUN_VARIANT,
            f"revealed again under equal conditions, the order was another one, in {len(unsteady)} of {len(found)} conditions, first with {said(unsteady[0])}",
        )
    doubts = list(dict.fromkeys(f"{f['why']}" for f in facts.values() if not f["sure"]))
    sure = [name for name in classes if facts[name]["sure"]]
    if len(sure) > 1 or len({f["bits"] for f in facts.values()}) > 1:
        each = "; ".join(
            f"{facts[n]['words'] if facts[n]['sure'] else 'unread'}: {said(cs[0])}"
            + (f" and {len(cs) - 1} more" if len(cs) > 1 else "")
            for n, cs in classes.items()
        )
        return Verdict.BATCH_VARIANT, f"{len(classes)} orders of addition. {each}"
    if doubts:
        return Verdict.INCONCLUSIVE, f"no order is shown: {'; '.join(doubts)}"
    if missing:
        return Verdict.INCONCLUSIVE, f"{sum(missing.values())} revealings are missing ({'; '.join(missing)})"
    if any(counts.total() < 2 for counts in found.values()):
        return Verdict.INCONCLUSIVE, "an order is revealed twice before it is believed: ask for --trials 2"
    one = facts[sure[0]]
    if len(found) < 2:
        return Verdict.INCONCLUSIVE, f"there is nothing to compare with, only {said(next(iter(found)))}: {one['words']}"
    return (
        Verdict.IDENTICAL,
        f"one order of addition in all {len(found)} conditions: {one['words']} (tree {one['tree']}, added in {one['adds_in']})",
    )
