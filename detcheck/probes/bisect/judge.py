"""Names the ops that caused the divergence, from what was seen of every call. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detcheck.finding import Finding
from detcheck.judge.tally import Tally
from detcheck.probes.bisect.describe import remedy
from detcheck.records import Case, Outcome, Step
from detcheck.verdict import Verdict

BY = {"padding": "its padding", "layout": "how its rows lie in memory"}


def arms(alone: Sequence[int], batch: Sequence[int]) -> tuple[bool, bool]:
    """(run, batch): whether equal inputs gave different bits, and whether the batch has other bits than the row alone.

    Where repeats differ, the batch is told from chance only where no bits came on both sides and on each some came again.
    """
    run = len(set(alone)) > 1 or len(set(batch)) > 1
    apart = bool(alone) and bool(batch) and not set(alone) & set(batch)
    again = all(Counter(side).most_common(1)[0][1] > 1 for side in (alone, batch)) if apart else False
    return run, apart and (not run or again)


def causes(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The kinds that are a cause, in the order in which they ran first, with their arms. A module only where no op explains it."""
    causes_found = []
    for kind in facts["kinds"]:
        told = [(e, *arms(e["alone"], e["batch"])) for e in kind["guilty"]]
        told = [(e, run, batch) for e, run, batch in told if run or batch]
        if not told:
            continue
        run, batch = any(r for _, r, _ in told), any(b for _, _, b in told)
        conditions = list(dict.fromkeys(e["condition"] for e, _, _ in told))
        causes_found.append(
            kind | {"run": run, "batch": batch, "conditions": conditions, "order": min(e["order"] for e, _, _ in told)}
        )
    causes_found.sort(key=lambda kind: kind["order"])
    if causes_found and causes_found[0]["module"]:  # nothing that the dispatcher saw inside it did
        return [causes_found[0], *(kind for kind in causes_found[1:] if not kind["module"])]
    return [kind for kind in causes_found if not kind["module"]]


def findings(case: Case, steps: Sequence[Step] | None, tally: Tally, outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """Of one prompt on one arm: a finding for each kind that is a cause, the first difference first; or one that says there is none."""
    found = [json.loads(outcomes[name].text) for counts in tally.conditions.values() for name in counts]
    if not found:
        why = "; ".join(tally.missing) or "the run stopped before it"
        verdict = Verdict.FAILED if tally.missing else Verdict.INCONCLUSIVE
        return [Finding(case, verdict, why, missing=1, evidence={"missing": dict(tally.missing) or {why: 1}})]
    facts: dict[str, Any] = {}
    for part in found:
        facts |= part
    causes_found = causes(facts)
    about = sensitivity(facts)
    head = Finding(case, Verdict.INCONCLUSIVE, "", samples=1, distinct=1, distinct_bits=1, mode_count=1)
    shared = {"compared": "bits", "bisection": about}
    if not causes_found:
        verdict, note = nobody(facts)
        return [replace(head, verdict=verdict, note=note, evidence=shared | {"calls": table(facts, [])})]
    made, places = [], {}
    for n, kind in enumerate(causes_found):
        like = places.get(kind["op"], "")
        places.setdefault(kind["op"], f"{kind['op']} in {kind['first'].get('path') or 'the model'}")
        evidence = {"culprit": culprit(kind, like, first=n == 0) | {"prompt": case.input}, "compared": "bits"}
        if n == 0:
            evidence |= shared | {"calls": table(facts, causes_found), "stages": facts.get("stages", [])}
        where = replace(case, subject=kind["op"], input=kind["first"].get("path") or "the model")
        verdict = Verdict.RUN_VARIANT if kind["run"] else Verdict.BATCH_VARIANT
        ulp = {name: kind["first"][name] for name in ("max_ulp", "max_abs") if kind["first"].get(name) is not None}
        made.append(
            replace(
                head, case=where, verdict=verdict, note=note_on(kind, facts, n == 0), evidence=evidence, metrics=ulp
            )
        )
    return made


def note_on(kind: Mapping[str, Any], facts: Mapping[str, Any], first: bool) -> str:
    lead = "the first difference" if first else "also a cause, on the inputs that it had"
    step = kind["first"].get("step", 0)
    when = "the prefill" if step == 0 else f"decode step {step}"
    said = []
    if kind["run"]:
        said.append("the same inputs gave different bits when asked again")
    if kind["batch"]:
        starts = kind["first"].get("starts_at")
        since = (
            f", from {starts} rows on"
            if (starts or 0) > 1
            else f", by {BY[kind['first'].get('starts_by', 'padding')]} alone"
            if starts
            else ""
        )
        said.append(f"the prompt's rows have other bits in a batch than alone{since}")
    other = ""
    if kind["module"]:
        ways = [*facts["only_alone"], *facts["only_in_batches"]]
        other = "; no op inside it explains that: "
        other += (
            f"it takes another way ({', '.join(ways[:4])})"
            if ways
            else "it runs something that torch's dispatcher does not see"
        )
    return f"{lead}, in {when}: {' and '.join(said)}{other}"


def nobody(facts: Mapping[str, Any]) -> tuple[Verdict, str]:
    """Where no call is a cause."""
    lone, control = facts["logits"]["alone"], facts.get("control") or {}
    names = [b["name"] for b in facts["batches"]]
    for name in names:
        numbers = {bits: n for n, bits in enumerate(dict.fromkeys((*lone, *facts["logits"][name])))}
        run, batch = arms([numbers[b] for b in lone], [numbers[b] for b in facts["logits"][name]])
        if run or batch:
            verdict = Verdict.RUN_VARIANT if run else Verdict.BATCH_VARIANT
            return (
                verdict,
                f"the logits differ in {name}, and no call that could be compared is a cause: {not_compared(facts)}",
            )
    tested = sum(kind["tested"] for kind in facts["kinds"])
    if not control.get("named"):
        return (
            Verdict.INCONCLUSIVE,
            "a call that was made to differ on purpose was not named: the bisection is blind here",
        )
    if any(bits not in facts["logits"][name] for name, bits in control["untraced"].items()):
        return (
            Verdict.INCONCLUSIVE,
            "the prompt has other logits under the trace than without it: what was traced is not what runs",
        )
    if not tested or (facts["trials"] < 2 and facts["repeats"] < 2):
        return (
            Verdict.INCONCLUSIVE,
            "nothing was asked again: --trials 2 does" if tested else "no call could be cut to the prompt's rows",
        )
    if of_run := facts.get("of_run"):
        followed = f", up to token {of_run['tokens']}" if of_run["tokens"] else ""
        return (
            Verdict.INCONCLUSIVE,
            f"what the run saw differ in {of_run['condition']} did not come again{followed}: {tested} calls and the logits have equal bits here. "
            f"Was the run made on this machine, with these versions and as many threads? Of its tokens at most {of_run['most']} are followed",
        )
    gain = f"a row of {control['op']} moved by one ulp changes {control['changed']} of {control['elements']} logits"
    return Verdict.IDENTICAL, (
        f"no cause was found: {tested} calls gave the same bits again and alone, and so did the logits, in {', '.join(names)}; "
        f"{facts['tokens']} rows of the prompt were compared, and {gain}"
    )


def not_compared(facts: Mapping[str, Any]) -> str:
    ways = Counter(facts["only_alone"]) + Counter(facts["only_in_batches"])
    found = [f"{n} calls of {op} have no counterpart" for op, n in ways.most_common(4)]
    found += [f"of {n} calls {why}" for why, n in facts["untested"].items()]
    return "; ".join(found) or "all calls were compared"


def sensitivity(facts: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "batches",
        "tokens",
        "decoded",
        "trials",
        "repeats",
        "untested",
        "only_alone",
        "only_in_batches",
        "control",
        "logits",
    )
    return {name: facts.get(name) for name in names}


def culprit(kind: Mapping[str, Any], like: str, first: bool) -> dict[str, Any]:
    """What is reported of a cause: its first call, and what to do. `like`: the first call of the same op that is a cause, of another kind."""
    return dict(kind["first"]) | {
        "pattern": kind["pattern"],
        "run": kind["run"],
        "batch": kind["batch"],
        "conditions": kind["conditions"],
        "first_difference": first,
        "like": like,
        "remedy": remedy(kind["op"], kind["run"]),
    }


def table(facts: Mapping[str, Any], causes_found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for every op and module pattern, the causes first."""
    found = {(kind["op"], kind["pattern"]): kind for kind in causes_found}
    lines = []
    for kind in facts["kinds"]:
        key = kind["op"], kind["pattern"]
        if kind["module"] and key not in found:
            continue
        line = {name: kind[name] for name in ("op", "pattern", "calls", "tested", "guilty_calls")}
        known = found.get(key)
        line |= {"guilty_in": known["conditions"] if known else [], "innocent": known is None and kind["compared"] > 0}
        lines.append(
            line
            | {"kind": kinds_of(known) if known else "", "starts_at": kind["first"].get("starts_at") if known else None}
        )
    first = {key: n for n, key in enumerate(found)}
    return sorted(lines, key=lambda line: first.get((line["op"], line["pattern"]), len(first)))


def kinds_of(kind: Mapping[str, Any]) -> str:
    return " and ".join(word for word, is_so in (("run", kind["run"]), ("batch", kind["batch"])) if is_so)
