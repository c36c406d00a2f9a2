"""The findings of a bisection: one for each cause. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from detcheck.finding import Finding
from detcheck.judge.tally import Tally
from detcheck.probes.bisect.causes import Cause, causes
from detcheck.probes.bisect.describe import remedy
from detcheck.probes.bisect.facts import Bisected, arms, from_json, site_json, stage_json
from detcheck.probes.bisect.reasons import SENTENCES
from detcheck.records import Case, Outcome, Step
from detcheck.summation.describe import Entry, outline, words
from detcheck.summation.fold import fold
from detcheck.summation.tree import Tree
from detcheck.verdict import Verdict

BY = {"padding": "its padding", "layout": "how its rows lie in memory"}


def findings(case: Case, steps: Sequence[Step] | None, tally: Tally, outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """Of one prompt on one arm: a finding for each kind that is a cause, the first difference first; or one that says there is none."""
    found = [outcomes[name].text for counts in tally.conditions.values() for name in counts]
    if not found:
        why = "; ".join(tally.missing) or "the run stopped before it"
        verdict = Verdict.FAILED if tally.missing else Verdict.INCONCLUSIVE
        return [Finding(case, verdict, why, missing=1, evidence={"missing": dict(tally.missing) or {why: 1}})]
    facts = from_json(found[-1])
    causes_found = causes(facts)
    head = Finding(case, Verdict.INCONCLUSIVE, "", samples=1, distinct=1, distinct_bits=1, mode_count=1)
    shared = {"compared": "bits", "bisection": sensitivity(facts)}
    if not causes_found:
        verdict, note = no_cause(facts)
        return [replace(head, verdict=verdict, note=note, evidence=shared | {"calls": table(facts, [])})]
    made, places = [], {}
    for n, cause in enumerate(causes_found):
        op, site = cause.kind.op, cause.kind.first
        like = places.get(op, "")
        places.setdefault(op, f"{op} in {site.path or 'the model'}")
        evidence = {"culprit": told(cause, like, first=n == 0) | {"prompt": case.input}, "compared": "bits"}
        if n == 0:
            stages = [stage_json(stage) for stage in facts.stages]
            evidence |= shared | {"calls": table(facts, causes_found), "stages": stages}
        verdict = Verdict.RUN_VARIANT if cause.run else Verdict.BATCH_VARIANT
        numbers = {"max_ulp": site.difference.max_ulp, "max_abs": site.difference.max_abs} if site.difference else {}
        made.append(
            replace(
                head,
                case=replace(case, subject=op, input=site.path or "the model"),
                verdict=verdict,
                note=note_on(cause, facts, n == 0),
                evidence=evidence,
                metrics={name: value for name, value in numbers.items() if value is not None},
                detail={} if like else outlines(site.orders),
            )
        )
    return made


def note_on(cause: Cause, facts: Bisected, first: bool) -> str:
    lead = "the first difference" if first else "also a cause, on the inputs that it had"
    site = cause.kind.first
    when = "the prefill" if site.step == 0 else f"decode step {site.step}"
    said = []
    if cause.run:
        said.append("the same inputs gave different bits when asked again")
    if cause.batch:
        starts = site.starts_at or 0
        since = (
            f", from {starts} rows on"
            if starts > 1
            else f", by {BY[site.starts_by or 'padding']} alone"
            if starts
            else ""
        )
        said.append(f"the prompt's rows have other bits in a batch than alone{since}")
    other = ""
    if cause.kind.module:
        ways = [*facts.only_alone, *facts.only_in_batches]
        other = "; no op inside it explains that: "
        other += (
            f"it takes another way ({', '.join(ways[:4])})"
            if ways
            else "it runs something that torch's dispatcher does not see"
        )
    return f"{lead}, in {when}: {' and '.join(said)}{other}"


def no_cause(facts: Bisected) -> tuple[Verdict, str]:
    """Where no call is a cause."""
    lone, control = facts.logits["alone"], facts.control
    names = [batch.name for batch in facts.batches]
    for name in names:
        run, batch = arms(lone, facts.logits[name])
        if run or batch:
            verdict = Verdict.RUN_VARIANT if run else Verdict.BATCH_VARIANT
            return (
                verdict,
                f"the logits differ in {name}, and no call that could be compared is a cause: {not_compared(facts)}",
            )
    tested = sum(kind.tested for kind in facts.kinds)
    if control is None or not control.named:
        return (
            Verdict.INCONCLUSIVE,
            "a call that was made to differ on purpose was not named: the bisection is blind here",
        )
    if any(bits not in facts.logits[name] for name, bits in control.untraced.items()):
        return (
            Verdict.INCONCLUSIVE,
            "the prompt has other logits under the trace than without it: what was traced is not what runs",
        )
    if not tested or (facts.trials < 2 and facts.repeats < 2):
        return (
            Verdict.INCONCLUSIVE,
            "nothing was asked again: --trials 2 does" if tested else "no call could be cut to the prompt's rows",
        )
    if run := facts.of_run:
        followed = f", up to token {run.tokens}" if run.tokens else ""
        return (
            Verdict.INCONCLUSIVE,
            f"what the run saw differ in {run.condition} did not come again{followed}: {tested} calls and the logits have equal bits here. "
            f"Was the run made on this machine, with these versions and as many threads? Of its tokens at most {run.most} are followed",
        )
    gain = f"a row of {control.op} moved by one ulp changes {control.changed} of {control.elements} logits"
    return Verdict.IDENTICAL, (
        f"no cause was found: {tested} calls gave the same bits again and alone, and so did the logits, in {', '.join(names)}; "
        f"{facts.tokens} rows of the prompt were compared, {at_widths(facts)}and {gain}"
    )


def at_widths(facts: Bisected) -> str:
    """A fault may be at one width alone: which were met, where the batches are padded."""
    widths = sorted({facts.tokens + batch.padding for batch in facts.batches})
    if widths == [facts.tokens]:
        return ""
    return f"at {' and '.join(map(str, widths))} tokens in a row (detcheck batch asks about other widths), "


def not_compared(facts: Bisected) -> str:
    ways = Counter(facts.only_alone) + Counter(facts.only_in_batches)
    found = [f"{n} calls of {op} have no counterpart" for op, n in ways.most_common(4)]
    found += [f"of {n} calls {why}" for why, n in untested(facts).items()]
    return "; ".join(found) or "all calls were compared"


def untested(facts: Bisected) -> dict[str, int]:
    """Why calls were not asked again, in words -> how many."""
    return {reason.sentence(SENTENCES): n for reason, n in facts.untested}


def sensitivity(facts: Bisected) -> dict[str, Any]:
    """How much was looked at: the report's evidence "bisection"."""
    about = {
        name: getattr(facts, name)
        for name in ("tokens", "decoded", "trials", "repeats", "only_alone", "only_in_batches")
    }
    about |= {"batches": [asdict(batch) for batch in facts.batches], "untested": untested(facts)}
    control = asdict(facts.control) if facts.control else {}
    return about | {"control": control, "logits": {name: list(hashes) for name, hashes in facts.logits.items()}}


def told(cause: Cause, like: str, first: bool) -> dict[str, Any]:
    """What is reported of a cause: its first call, and what to do. `like`: the first call of the same op that is a cause, of another kind."""
    site = cause.kind.first
    orders = {arm: tree if isinstance(tree, str) else in_words(tree) for arm, tree in site.orders.items()}
    return (
        site_json(site)
        | ({"order_of_additions": orders} if orders else {})
        | {
            "pattern": cause.kind.pattern,
            "run": cause.run,
            "batch": cause.batch,
            "conditions": list(cause.conditions),
            "first_difference": first,
            "like": like,
            "remedy": remedy(cause.kind.op, cause.run),
        }
    )


def outlines(orders: Mapping[str, Tree | str]) -> dict[str, tuple[Entry, ...]]:
    """Arm -> its tree as an outline, where one was read."""
    return {arm: tuple(outline(fold(tree))) for arm, tree in orders.items() if isinstance(tree, Tree)}


def in_words(tree: Tree) -> str:
    return f"{words(fold(tree))} ({tree.hash})"


def table(facts: Bisected, causes_found: Sequence[Cause]) -> list[dict[str, Any]]:
    """A line for every op and module pattern, the causes first."""
    found = {(cause.kind.op, cause.kind.pattern): cause for cause in causes_found}
    lines = []
    for kind in facts.kinds:
        known = found.get((kind.op, kind.pattern))
        if kind.module and known is None:
            continue
        line = {name: getattr(kind, name) for name in ("op", "pattern", "calls", "tested")}
        line |= {"guilty_calls": kind.differing_calls, "guilty_in": list(known.conditions) if known else []}
        line |= {"innocent": known is None and kind.compared > 0, "kind": known.words if known else ""}
        lines.append(line | {"starts_at": kind.first.starts_at if known else None})
    first = {key: n for n, key in enumerate(found)}
    return sorted(lines, key=lambda line: first.get((line["op"], line["pattern"]), len(first)))
