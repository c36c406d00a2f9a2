"""Two runs against each other: may they be compared, what changed around them, and do they give the same. Pure.

The same means: all samples of both have one outcome; or, where runs differ within themselves, each condition of one has the outcome that
it has in the other (`paired.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from detcheck.finding import Divergence, Finding
from detcheck.judge import named_sides
from detcheck.judge.paired import Paired, distances, listed, paired, shared
from detcheck.records import Case, Outcome
from detcheck.spec import Kernels
from detcheck.storage.baselines import HEX, NUMBERS, Baseline, Known
from detcheck.verdict import Verdict

ONE_ORDER = "avx512_bf16 (or avx512, or avx2)"  # of detcheck/kernels/build.py's levels, those that add in pairs
DRAFTS = "vllm.speculative_config"  # flag
OF_A_MODEL = ("completions", "batch")  # probes whose subject is a model, which its digests name


def compare(a: Baseline, b: Baseline) -> tuple[Finding, ...]:
    """One finding a case of `b`; a single inconclusive one where the two may not be compared at all."""
    changed = list(changes(a.environment, b.environment))
    evidence = {"changed": changed, "conditions": {}, "unit": "token"}
    if why := list(obstacles(a, b)):
        first = b.cases[0].case if b.cases else Case(b.probe, b.name, "user", "", "")
        note = f"not comparable: {'; '.join(why)}"
        return (Finding(of_comparison(first), Verdict.INCONCLUSIVE, note, evidence=evidence | {"obstacles": why}),)
    pairs = [(partner(known, a.cases), known) for known in b.cases]
    on_cpu = all(str(run.environment.get("device", "")).startswith("cpu") for run in (a, b))
    orders = [run.environment.get("flags", {}).get("bfloat16_order", "") if on_cpu else "" for run in (a, b)]
    payloads = {**a.payloads, **b.payloads}
    findings = [compare_case(first, known, evidence, orders, payloads) for first, known in pairs]
    if a.environment.get("flags", {}).get(DRAFTS) != b.environment.get("flags", {}).get(DRAFTS):
        findings = [undrafted(f, *pair) for f, pair in zip(findings, pairs, strict=True)]
    if sides := named_sides.named(a.environment, b.environment):
        findings = [replace(f, note=f"{sides}; {f.note}") for f in findings]
    compared = {first.case for first, _ in pairs if first}
    for known in a.cases:
        if known.case not in compared:
            why = "not comparable: the second run does not have this case"
            findings.append(Finding(of_comparison(known.case), Verdict.INCONCLUSIVE, why, evidence=evidence))
    return tuple(findings)


def undrafted(finding: Finding, a: Known | None, b: Known) -> Finding:
    """Of a run with speculative decoding and one without: equal bits are no pass where the engine made the same steps, since none was of a drafted token then."""
    if finding.verdict is not Verdict.IDENTICAL or a is None or paired(a, b).retraced:
        return finding
    why = (
        "speculative decoding differs between the two, but the engine made the same steps in both, so no drafted token was computed. "
        "Give prompts whose continuation repeats, or more --max-tokens, or another drafter"
    )
    return replace(finding, verdict=Verdict.INCONCLUSIVE, note=f"{why}; {finding.note}")


def of_comparison(case: Case) -> Case:
    return replace(case, probe="compare")


def obstacles(a: Baseline, b: Baseline) -> Iterator[str]:
    """Why nothing of the two can be compared."""
    asked = [" ".join(filter(None, (run.probe, task(run)))) for run in (a, b)]
    if asked[0] != asked[1]:
        yield f"one is of {asked[0]} and one of {asked[1]}"
        return
    for name, value in a.asked.items():
        if name in b.asked and b.asked[name] != value:
            yield f"--{name.replace('_', '-')} was {value} and is {b.asked[name]}"
    for name, digest in a.digests.items():
        if name in b.digests and b.digests[name] != digest:
            yield f"the {name} is another: SHA-256 {digest[:12]} and {b.digests[name][:12]}"
    if a.digests and b.digests and ("adapter" in a.digests) != ("adapter" in b.digests):
        yield f"only the {'first' if 'adapter' in a.digests else 'second'} has an adapter"
    subjects = [list(dict.fromkeys(known.case.subject for known in run.cases)) for run in (a, b)]
    if subjects[0] != subjects[1] and not (a.digests and b.digests) and all(subjects):
        yield f"the subject was {', '.join(subjects[0])} and is {', '.join(subjects[1])}"
    dtypes = [sorted({known.case.dtype for known in run.cases if known.case.dtype}) for run in (a, b)]
    if all(dtypes) and dtypes[0] != dtypes[1]:
        yield f"the dtype was {', '.join(dtypes[0])} and is {', '.join(dtypes[1])}"
    inputs = [{known.case.input for known in run.cases} for run in (a, b)]
    if not inputs[0] & inputs[1]:
        yield "they have no prompt (or other input) in common"


def task(run: Baseline) -> str:
    """What the model was asked for, where a probe has several tasks: a vector and a score are as little alike as two probes."""
    return f"--task {run.environment.get('flags', {}).get('task', 'generate')}" if run.probe == "batch" else ""


def partner(known: Known, others: Sequence[Known]) -> Known | None:
    """The case of the first run that this one of the second is compared with: of the same input, and as like it as there is."""
    case = known.case
    same = [o for o in others if (o.case.input, o.case.dtype) == (case.input, case.dtype)]
    named = [o for o in same if o.case.subject == case.subject]
    if not named and case.probe not in OF_A_MODEL:  # another op is no partner; a model may have moved to another folder
        return None
    same = named or same
    alike = lambda o: (o.case.replica == known.case.replica, o.case.kernels == known.case.kernels)  # noqa: E731
    return max(same, key=alike, default=None)


def compare_case(
    a: Known | None,
    b: Known,
    evidence: Mapping[str, Any],
    orders: Sequence[str] = ("", ""),
    payloads: Mapping[str, Outcome] | None = None,
) -> Finding:
    """`orders`: in which bfloat16 products of ours were added, in each run. `payloads`: what the outcomes hold, where it is known."""
    case = of_comparison(b.case)
    if a is None:
        return Finding(
            case, Verdict.INCONCLUSIVE, "not comparable: the first run does not have this case", evidence=evidence
        )
    evidence = {**evidence, "compared": b.compared or "tokens", "verdicts": [a.verdict, b.verdict]}
    ours = Kernels.BATCH_INVARIANT in (a.case.kernels, b.case.kernels) and b.case.dtype == "bfloat16"
    multiplies = b.case.probe != "kernels" or b.case.subject == "matmul"
    if ours and multiplies and all(orders) and orders[0] != orders[1]:
        why = f"not comparable: our products of bfloat16 were added in {orders[0]} and are added in {orders[1]}, by what the processor has. DETCHECK_CPU={ONE_ORDER} has one order everywhere"
        return Finding(case, Verdict.INCONCLUSIVE, why, evidence=evidence)
    if a.compared != b.compared and a.outcomes and b.outcomes:
        why = f"not comparable: the first was compared by {a.compared}, the second by {b.compared}"
        return Finding(case, Verdict.INCONCLUSIVE, why, evidence=evidence | {"compared": "tokens"})
    if a.unit != b.unit and a.outcomes and b.outcomes:
        why = f"not comparable: the first is made of {a.unit}s, the second of {b.unit}s"
        return Finding(case, Verdict.INCONCLUSIVE, why, evidence=evidence)
    together = {o: a.outcomes.get(o, 0) + b.outcomes.get(o, 0) for o in (*a.outcomes, *b.outcomes)}
    tokens = {**a.tokens, **b.tokens}
    index, index_bits = parts(a.prefixes, b.prefixes), parts(a.prefixes_bits, b.prefixes_bits)
    found, metrics = paired(a, b), {}
    if apart := distances(found, payloads or {}):
        metrics = largest(apart)
        if a.unit not in NUMBERS:  # like with like, instead of the commonest with the commonest
            index = min((one.index for one in apart if one.index is not None), default=None)
            index_bits = min(one.index_bits for one in apart)
    begin = (a.length if index is None else index, a.length if index_bits is None else index_bits)
    begin = shared(tuple(together), payloads or {}) or begin
    modes = [max(known.outcomes.items(), key=lambda item: item[1], default=("", 0)) for known in (a, b)]
    draft = Finding(
        case,
        Verdict.INCONCLUSIVE,
        "",
        samples=sum(together.values()),
        missing=a.missing + b.missing,
        distinct=len(set(tokens.values())),
        distinct_bits=len(together),
        mode_count=max(together.values(), default=0),
        common_prefix=begin[0],
        common_prefix_bits=begin[1],
        histogram=() if index is None else ((index, modes[1][1]),),
        histogram_bits=() if index_bits is None else ((index_bits, modes[1][1]),),
        evidence=evidence | ({"places": found.table} if len(together) > 1 and found.both else {}),
        metrics=metrics,
    )
    return replace(draft, **judged(a, b, len(together), index, index_bits, found, bool(apart)))


def largest(apart: Sequence[Divergence]) -> dict[str, float]:
    found = {name: [v for one in apart if (v := getattr(one, name)) is not None] for name in ("max_ulp", "max_abs")}
    return {name: max(values) for name, values in found.items() if values}


def judged(
    a: Known, b: Known, distinct: int, index: int | None, index_bits: int | None, found: Paired, alike: bool
) -> dict[str, Any]:
    """The verdict, with its note. `alike`: the indexes are of conditions that both have, else of the commonest outcomes."""
    around = f"{sum(a.outcomes.values())} samples then, {sum(b.outcomes.values())} now"
    if not a.outcomes or not b.outcomes:
        which = "the first" if not a.outcomes else "the second"
        return {"verdict": Verdict.INCONCLUSIVE, "note": f"{which} run has no sample of this case"}
    if distinct == 1 and not a.length and a.unit not in NUMBERS:
        return {"verdict": Verdict.INCONCLUSIVE, "note": "every completion is empty, so nothing was compared"}
    if distinct == 1 and not a.missing and not b.missing:
        note = f"the same {b.compared or 'outcome'} as before: {around}"
        if {a.verdict, b.verdict} - {"identical", "certified"}:
            note += f"; by itself the first was {a.verdict}, the second is {b.verdict}"
        return {"verdict": Verdict.IDENTICAL, "note": note}
    missing = f"{a.missing} samples are missing in the first run, {b.missing} in the second"
    if distinct == 1:
        return {"verdict": Verdict.INCONCLUSIVE, "note": f"what there is is the same ({around}), but {missing}"}
    alike = alike and len(a.outcomes) + len(b.outcomes) > 2
    where = where_alike(a, index, index_bits) if alike else where_commonest(a, b, index, index_bits)
    if said := by_condition(a, b, f"{where} ({around})", found, missing):
        return said
    inner = [
        f"{len(known.outcomes)} different ones {when}"
        for known, when in ((a, "then"), (b, "now"))
        if len(known.outcomes) > 1
    ]
    within = f"; not even equal among themselves: {', '.join(inner)}" if inner else ""
    return {"verdict": Verdict.DIVERGENT, "note": f"{where} ({around}){within}"}


def where_alike(a: Known, index: int | None, index_bits: int | None) -> str:
    """Where completions of equal conditions part."""
    unit = "character" if a.unit == "character" else "token"
    if a.unit in NUMBERS:
        return "it is not what it was before"
    if index is not None:
        return f"under equal conditions completions part from those before at {unit} {index}"
    if index_bits is not None and index_bits < a.length:
        return f"under equal conditions the {unit}s are as before, log-probabilities part at {unit} {index_bits}"
    return f"under equal conditions the {unit}s are as before, but end for another reason"


def where_commonest(a: Known, b: Known, index: int | None, index_bits: int | None) -> str:
    unit = "character" if a.unit == "character" else "token"
    commonest = [max(known.outcomes, key=lambda o: (known.outcomes[o], o)) for known in (a, b)]
    if index is not None:
        return f"the commonest completion parts from the one before at {unit} {index}"
    if index_bits is not None:
        same = f"the {unit}s of the commonest completion are as before"
        return f"{same}, its log-probabilities part at {unit} {index_bits}"
    if commonest[0] == commonest[1]:
        return "the commonest outcome is as before"
    if a.unit in NUMBERS:
        return "it is not what it was before"
    return "the commonest completion is as before, but it ends for another reason"


def by_condition(a: Known, b: Known, where: str, found: Paired, missing: str) -> dict[str, Any] | None:
    """The verdict on runs that differ within themselves, each condition by itself; None: these are not known, or not the same.

    A condition that is not known in full, or gives several outcomes, says nothing of a change between the two.
    """
    if not found.both or len(a.outcomes) == len(b.outcomes) == 1:
        return None
    own = f"by itself the first was {a.verdict}, the second is {b.verdict}"
    what, conditions = b.compared or "outcome", f"{len(found.both)} conditions"
    steps = f"; the engine made other steps of {found.retraced} of these requests" if found.retraced else ""
    if found.other:
        named = f"other {b.compared or 'outcomes'} than before in {len(found.other)} of {conditions} ({listed(list(found.other))})"
        if unsure := [name for name in found.unsure if name not in found.other]:
            named += f", and in {listed(unsure)}, whose batches are not known in full"
        return {"verdict": Verdict.DIVERGENT, "note": f"{where}; {named}{steps}; {own}"}
    if a.unsteady or b.unsteady or found.unsure:
        return None
    if a.missing or b.missing:
        note = f"the same {what} as before in each of {conditions} that both have, but {missing}"
        return {"verdict": Verdict.INCONCLUSIVE, "note": note}
    if rest := found.rest():
        note = f"the same in all {conditions} that both have, but {rest}: ask both with the same options"
        return {"verdict": Verdict.INCONCLUSIVE, "note": note}
    return {
        "verdict": Verdict.IDENTICAL,
        "note": f"the same {what} as before in each of {conditions}{steps}; {own}",
    }


def parts(a: str, b: str) -> int | None:
    """The first place at which two rows of hashes differ, or one of them ends; None: they do not."""
    if a == b:
        return None
    shared = min(len(a), len(b)) // HEX
    differ = (n for n in range(shared) if a[n * HEX : (n + 1) * HEX] != b[n * HEX : (n + 1) * HEX])
    return next(differ, shared)


def changes(a: Mapping[str, Any], b: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """What is another in the second environment, a fact a line."""
    for name in sorted({*a, *b}):
        old, new = a.get(name), b.get(name)
        where = f"{above}{name}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from changes(old, new, f"{where}.")
        elif old != new:
            yield f"{where}: {'not there' if old is None else old} then, {'not there' if new is None else new} now"
