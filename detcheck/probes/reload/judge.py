"""What an update amounts to: the completions after it against a fresh load's, and what was left of the old weights. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from detcheck.finding import Finding
from detcheck.judge.level import level
from detcheck.judge.statistics import divergence
from detcheck.judge.tally import Tally, absent
from detcheck.outcomes import token_key
from detcheck.probes.reload.facts import WeightUpdate
from detcheck.probes.reload.reasons import Cause, sentence
from detcheck.records import Case, Outcome, Step
from detcheck.verdict import Verdict

UPDATE = "update"
SHOWN = 3  # names in a sentence


@dataclass
class Seen:
    """What came, by stage and by (prompt, how often it had been asked then)."""

    at: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)
    cached: set[tuple[str, str, str]] = field(default_factory=set)
    """(stage, prompt, how often): part of the prompt was in the prefix cache"""

    @classmethod
    def of(cls, tally: Tally) -> Seen:
        made = cls()
        for condition, outcomes in tally.conditions.items():
            stage, _, ask = condition.name.partition("-")
            key = condition.composition, ask
            made.at.setdefault(stage, {})[key] = min(outcomes)
            if condition.fed == "cache":
                made.cached.add((stage, *key))
        return made

    def unequal(self, a: str, b: str) -> list[tuple[str, str]]:
        """What both have, with other bits."""
        first, second = self.at.get(a, {}), self.at.get(b, {})
        return [key for key in first if key in second and first[key] != second[key]]

    def unsteady(self) -> list[str]:
        """Prompts that a fresh load gave several answers to, although nothing was otherwise: not in the prefix cache, or each time."""
        found: dict[tuple[str, bool], set[str]] = {}
        for key, outcome in self.at.get("fresh", {}).items():
            found.setdefault((key[0], ("fresh", *key) in self.cached), set()).add(outcome)
        return sorted({prompt for (prompt, _), outcomes in found.items() if len(outcomes) > 1})

    def shared(self, a: str, b: str) -> int:
        return len(self.at.get(a, {}).keys() & self.at.get(b, {}).keys())


def findings(case: Case, steps: Sequence[Step] | None, tally: Tally, outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """One way of updating, judged by what came after it."""
    seen = Seen.of(tally)
    facts = next(iter(seen.at.pop(UPDATE, {}).values()), None)
    update = None if facts is None else WeightUpdate.from_json(json.loads(outcomes[facts].text))
    verdict, causes = judged(seen, update, tally, seen_cache=bool(case.dtype) or bool(update and update.cache))
    pairs = [
        (seen.at[stage][key], seen.at["fresh"].get(key))
        for stage in ("updated", "emptied")
        for key in seen.at.get(stage, {})
        if "fresh" in seen.at
    ]
    other_tokens = sum(bool(b) and token_key(outcomes[a]) != token_key(outcomes[b]) for a, b in pairs)
    other_bits = sum(bool(b) and a != b for a, b in pairs)
    measured = {name: values[0] for name, values in tally.metrics.get(1, {}).items() if name in ("bytes", "seconds")}
    if measured.get("seconds"):
        measured["bytes_per_s"] = measured["bytes"] / measured["seconds"]
    missing = absent(steps or (), tally)
    evidence = {
        "compared": level(outcomes[name] for name, _ in pairs) if pairs else "",
        "causes": [cause.to_json() for cause in causes],
        "update": None if update is None else update.to_json(),
        "after": compared_with(seen),
        "missing": dict(tally.missing),
    }
    if unlike := seen.unequal("updated", "fresh"):
        far = divergence(*(outcomes[seen.at[stage][unlike[0]]] for stage in ("fresh", "updated")))
        evidence["apart"] = {"token": far.index, "max_abs": far.max_abs}
    return [
        Finding(
            case,
            verdict,
            "; ".join(map(sentence, causes)),
            samples=len(pairs),
            missing=missing,
            distinct=1 + other_tokens if pairs else 0,
            distinct_bits=1 + other_bits if pairs else 0,
            mode_count=len(pairs) - other_tokens,
            evidence=evidence,
            metrics=measured,
            detail=update,
        )
    ]


def compared_with(seen: Seen) -> dict[str, dict[str, int]]:
    """Of what came after the update: how many completions there were, and how many had the bits of each."""
    table = {}
    for stage in ("updated", "emptied"):
        if stage in seen.at:
            table[stage] = {"completions": len(seen.at[stage])}
            for other in ("fresh", "old"):
                table[stage][f"as {other}"] = seen.shared(stage, other) - len(seen.unequal(stage, other))
            table[stage]["from the cache"] = sum(where == stage for where, *_ in seen.cached)
    return table


def judged(seen: Seen, update: WeightUpdate | None, tally: Tally, seen_cache: bool) -> tuple[Verdict, list[Cause]]:
    """(verdict, why: the most telling first). `seen_cache`: whether it is known what came from a prefix cache."""
    gone = "; ".join(why for why in tally.missing)
    if update is None or "updated" not in seen.at:
        failed = update.failed if update else ""
        if failed or gone:
            return Verdict.FAILED, [
                Cause("no_more", {"why": failed or gone, "then": f"; then: {gone}" if failed and gone else ""})
            ]
        return Verdict.INCONCLUSIVE, [Cause("stopped")]
    # What an update that failed left in the prefix cache is not what the weights give.
    stage = "emptied" if update.failed and "emptied" in seen.at else "updated"
    as_old, as_fresh = (
        bool(seen.shared(stage, other)) and not seen.unequal(stage, other) for other in ("old", "fresh")
    )
    sensitive = bool(seen.unequal("old", "fresh"))
    if update.failed:
        return failed_update(update, as_old, as_fresh, sensitive)
    if unsteady := seen.unsteady():
        count = {"count": len(unsteady)}
        return (Verdict.RUN_VARIANT if seen_cache else Verdict.DIVERGENT), [Cause("unsteady", count)]
    as_fresh = as_fresh and not seen.unequal("emptied", "fresh")
    if update.left_count or not as_fresh:
        return Verdict.DIVERGENT, why_divergent(seen, update, as_old, as_fresh, sensitive)
    if doubts := [*doubts_about(seen, update, tally, sensitive)]:
        return Verdict.INCONCLUSIVE, [*doubts, *unread(update)]
    n = seen.shared("updated", "fresh") + seen.shared("emptied", "fresh")
    unseen = [Cause("sleep_unseen")] if update.ignored is None else []
    if not update.tensors:
        return Verdict.IDENTICAL, [Cause("same_unread", {"completions": n}), Cause("not_read"), *unseen]
    same = Cause("same", {"completions": n, "tensors": update.tensors, "differ": update.differ})
    return Verdict.IDENTICAL, [same, *unread(update), *unseen]


def failed_update(update: WeightUpdate, as_old: bool, as_fresh: bool, sensitive: bool) -> tuple[Verdict, list[Cause]]:
    """The update raised an error: what does the engine serve now?"""
    why = {"why": update.failed}
    if not sensitive:
        return Verdict.FAILED, [Cause("failed_unclear", why)]
    if as_old and update.left_old == update.differ:
        return Verdict.FAILED, [Cause("failed_old_read" if update.differ else "failed_old", why)]
    if as_fresh and not update.left_count:
        return Verdict.DIVERGENT, [Cause("failed_new", why)]
    if not update.tensors:
        return Verdict.DIVERGENT, [Cause("failed_torn_unread", why)]
    new = update.differ - update.left_count
    return Verdict.DIVERGENT, [Cause("failed_torn", {**why, "new": new, "differ": update.differ})]


def why_divergent(seen: Seen, update: WeightUpdate, as_old: bool, as_fresh: bool, sensitive: bool) -> list[Cause]:
    if update.left_count and update.left_old == update.differ == update.left_count and (as_old or not sensitive):
        return [Cause("nothing", {"differ": update.differ, "names": some(update)})]
    causes = []
    if update.left_count:
        causes.append(Cause("left", {"names": names(update), "count": update.left_count, "differ": update.differ}))
        if as_fresh:
            causes.append(Cause("left_silent"))
        return [*causes, *not_seen_after(update), *unread(update)]
    unlike = seen.unequal("updated", "fresh")
    leaked = [key for key in unlike if ("updated", *key) in seen.cached and ("fresh", *key) not in seen.cached]
    cured = seen.shared("emptied", "fresh") and not seen.unequal("emptied", "fresh")
    if cured and (leaked or update.cache):
        return [Cause("cache", {"count": len(unlike), "of": seen.shared("updated", "fresh")})]
    if not update.tensors:
        why = not_seen_after(update) or [Cause("not_read")]
        return [Cause("nothing_unread" if as_old and sensitive else "unlike_unread"), *why]
    old = Cause("derived_old" if as_old and sensitive else "derived", {"tensors": update.tensors})
    return [old, *not_seen_after(update), *unread(update)]


def doubts_about(seen: Seen, update: WeightUpdate, tally: Tally, sensitive: bool) -> list[Cause]:
    """Why equal completions are no pass."""
    found = []
    if tally.missing:
        found.append(Cause("missing", {"count": tally.missing.total(), "why": "; ".join(tally.missing)}))
    found += not_seen_after(update)
    if not update.differ and not sensitive and update.tensors:
        found.append(Cause("same_weights"))
    elif not sensitive:
        found.append(Cause("not_sensitive", {"differ": update.differ, "names": some(update)}))
    if update.alike_count:
        found.append(Cause("alike", {"count": update.alike_count, "names": listed(update.alike, update.alike_count)}))
    if update.cache and not any(stage == "old" for stage, *_ in seen.cached):
        found.append(Cause("cache_cold"))
    if update.ignored:
        found.append(Cause("ignored"))
    if seen.shared("updated", "fresh") < len(seen.at.get("fresh", ())):
        found.append(Cause("stopped"))
    return found


def not_seen_after(update: WeightUpdate) -> list[Cause]:
    """What should have been read and was not: no pass without it."""
    found = [Cause("silent", {"why": update.silent})] if update.silent else []
    if update.gone_count:
        found.append(Cause("gone", {"count": update.gone_count, "names": listed(update.gone, update.gone_count)}))
    return found


def unread(update: WeightUpdate) -> list[Cause]:
    if not update.unread_count:
        return []
    return [Cause("unread", {"count": update.unread_count, "names": listed(update.unread, update.unread_count)})]


def some(update: WeightUpdate) -> str:
    """Tensors in which the old and the new weights differ."""
    return listed(update.first, update.differ)


def listed(first: Sequence[str], count: int) -> str:
    """ "a, b, c and 5 more" """
    more = count - len(first[:SHOWN])
    return ", ".join(first[:SHOWN]) + (f" and {more} more" if more else "")


def names(update: WeightUpdate) -> str:
    """ "a.weight (rows 0 to 63 of 128, the old bits)" """
    said = []
    for one in update.left[:SHOWN]:
        rows = (
            ""
            if one.rows == one.of
            else f"rows {one.first} to {one.last} of {one.of}, "
            if one.first != one.last
            else f"row {one.first} of {one.of}, "
        )
        said.append(f"{one.name} ({rows}{'the old bits' if one.old else 'neither the old bits nor the new'})")
    more = update.left_count - len(said)
    return ", ".join(said) + (f" and {more} more" if more else "")
