"""Observations -> findings. Pure: it sees recorded bits and nothing else, so that a run can be judged again anywhere.

Two arms are judged apart. *Repeat*: observations under equal conditions must be equal, else something is truly
nondeterministic. *Batch*: conditions that repeat themselves must equal each other, else the batch reaches the bits.
A pass needs evidence: every batch asked for was formed, every sample came, and there was something to compare.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median

from detcheck.finding import Finding
from detcheck.judge import (
    answers,
    batch,
    gradients,
    nan,
    positions,
    ranks,
    same_prompt,
    seeds,
    server,
    speculation,
    turns,
    uncovered,
    variants,
)
from detcheck.judge import sides as two_files
from detcheck.judge.apart import apart
from detcheck.judge.aspects import varies_with
from detcheck.judge.level import LEVELS, coverage, finish_reasons, level, unit
from detcheck.judge.statistics import NUMBERS, describe
from detcheck.judge.tally import (
    Tally,
    absent,
    batch_arm,
    by_size,
    count_conditions,
    first_variant,
    repeat_arm,
)
from detcheck.records import FIRST_AGAIN, Case, NotTried, Observation, Outcome, Prompt, Schedule, Step
from detcheck.verdict import Role, Verdict

WITHOUT_BATCH = {"matmul": "products"}  # probes whose results are of no batch -> what they are
ERRORS = ("error", "error_share", "error_stock")  # of these the largest counts
DIVERGENCES = (Verdict.RUN_VARIANT, Verdict.BATCH_VARIANT, Verdict.DIVERGENT)

Judge = Callable[[Case, Sequence[Step] | None, Tally, Mapping[str, Outcome]], Sequence[Finding]]
"""A probe's own: (case, the steps of it that were asked for, what was observed, outcomes by name) -> findings."""

WholeJudge = Callable[[Mapping[Case, Tally]], Sequence[Finding]]
"""A probe's own, of all cases together: what was observed of each -> findings."""


def judge(
    cases: Sequence[Case],
    schedule: Schedule | None,
    observations: Iterable[Observation],
    outcomes: Mapping[str, Outcome],
    allow_unseen_batch: bool = False,
    roles: Mapping[Case, Role] | None = None,
    by: Judge | None = None,
    sides: Sequence[str] = (),
    whole: WholeJudge | None = None,
    prompts: Sequence[Prompt] = (),
) -> tuple[Finding, ...]:
    """The findings on each case. `cases` are those asked for; others that were observed come behind them.

    Without a schedule (a file that somebody else collected) nothing is known to be missing but what the file says is.
    `roles`: what each case is there for; one without a role gates. `by`: the probe's own judge; None: samples are compared.
    `sides`: two files, whose samples have their places as processes: do both have the same?
    `whole`: the probe's own, where all cases are judged together. `prompts`: those of the cases; one that was given twice is compared with itself.
    """
    tallies: dict[Case, Tally] = {case: Tally() for case in cases}
    for o in observations:
        tally = tallies.get(o.case)
        if tally is None:
            tally = tallies[o.case] = Tally()
        tally.add(o, readable=o.outcome in outcomes, scheduled=schedule is not None)
    for tally in tallies.values():
        tally.close()
    if whole:
        return after_controls(whole(tallies))
    findings = []
    for case, tally in tallies.items():
        role = (roles or {}).get(case, Role.GATES)
        steps = None if schedule is None else [s for s in schedule.steps if is_of(s, case, cases)]
        if by:
            found = by(case, steps, tally, outcomes)
        else:
            not_tried = schedule.not_tried if schedule else ()
            found = [judge_case(case, steps, not_tried, tally, outcomes, allow_unseen_batch, sides)]
        findings += [replace(finding, role=role) for finding in found]
    findings = seeds.drawn(ranks.ranked(findings, tallies, outcomes), tallies, outcomes)
    findings += [] if by else same_prompt.against_each_other(tallies, outcomes, roles or {}, prompts)
    return after_controls(findings + server.between(tallies, outcomes))


def is_of(step: Step, case: Case, cases: Sequence[Case]) -> bool:
    return step.input == case.input if step.case is None else cases[step.case] == case


def after_controls(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Where a positive control showed no difference, equal bits are no pass: the probe may be blind here."""
    blind = [f for f in findings if f.role in (Role.PLANTED, Role.REACTS) and f.verdict not in DIVERGENCES]

    def checked(f: Finding) -> Finding:
        controls = [c for c in blind if c.role is Role.PLANTED or c.case.input == f.case.input]
        if f.role is not Role.GATES or f.verdict is not Verdict.IDENTICAL or not controls:
            return f
        why = BLIND[controls[0].role].format(subject=controls[0].case.subject, verdict=controls[0].verdict)
        return replace(f, verdict=Verdict.INCONCLUSIVE, note=f"{why}; {f.note}")

    return tuple(map(checked, findings))


BLIND = {
    Role.PLANTED: "the planted {subject} did not react ({verdict}), so the probe cannot see a difference here",
    Role.REACTS: "stock kernels did not react either ({verdict}), so the probe was not sensitive here: "
    "ask for more samples, larger --batch-sizes, more --max-tokens or another --dtype",
}


def judge_case(
    case: Case,
    steps: Sequence[Step] | None,
    not_tried: Sequence[NotTried],
    tally: Tally,
    outcomes: Mapping[str, Outcome],
    allow_unseen: bool,
    sides: Sequence[str] = (),
) -> Finding:
    counts: Counter[str] = sum(tally.conditions.values(), Counter())
    missing = tally.missing.total() if steps is None else absent(steps, tally)
    reasons = dict(tally.missing)
    if missing > tally.missing.total():
        reasons["the run stopped before them"] = missing - tally.missing.total()
    evidence = {
        "batches": None if tally.unseen else tally.batches.total(),
        "batch_sizes": {str(size): tally.batch_sizes[size] for size in sorted(tally.batch_sizes)},
        "conditions": count_conditions(steps, tally, outcomes),
        "varies_with": varies_with(tally),
        "preemptions": tally.preemptions,
        "not_tried": list(not_tried),
        "missing": reasons if missing else {},
        "first_variant_condition": first_variant(steps, tally),
        "arms": {"repeat": repeat_arm(tally), "batch": batch_arm(tally)},
        "compared": level(outcomes[o] for o in counts),
        "coverage": coverage(tally.calls),
        "unit": unit(outcomes[o] for o in counts),
        "finish_reasons": finish_reasons(counts, outcomes),
    }
    if seen := positions.positions([outcomes[o] for o in counts]):
        evidence["positions"] = seen
    if talk := turns.seen(tally, counts, outcomes, steps):
        evidence["turns"] = talk
    if seen := gradients.gradients([outcomes[o] for o in counts]):
        evidence["gradients"] = seen
    if server.of_server(steps):
        evidence |= {"concurrency": tally.in_flight, "resent": tally.resent} | answers.seen(tally.doubtful)
    if len(counts) > 1 and not sides:
        evidence |= apart(tally, outcomes, case.dtype)
    evidence |= speculation.seen(tally) | nan.seen(outcomes[o] for o in counts)
    evidence |= variants.seen(named := variants.variants(counts, outcomes), tally) | variants.along(counts, outcomes)
    if sides:
        evidence |= two_files.seen(tally, sides)
    if tally.metrics or (evidence["unit"] == "element" and len(evidence["batch_sizes"]) > 1):
        evidence["sizes"] = by_size(tally)
    # Which samples shared a batch that was not seen is not known, so nothing bounds the rate then.
    batches = Counter() if tally.unseen else tally.batches
    draft = describe(case, counts, batches, outcomes)
    draft = replace(draft, missing=missing, evidence=evidence, metrics=measured(tally) | draft.metrics, variants=named)
    if len(counts) > 1:
        why = (
            server.why_they_differ
            if server.of_server(steps)
            else two_files.why_they_differ
            if sides
            else batch.why_they_differ
        )
        verdict, note = why(draft, tally)
        note += positions.note(evidence) + gradients.note(evidence) + turns.note(evidence)
    elif why := turns.broken_and_apart(evidence):
        verdict, note = Verdict.DIVERGENT, why
    elif counts and not tally.unreadable <= set(counts):
        verdict = Verdict.DIVERGENT
        note = "some samples had other bits, which cannot be read any more: their part of the run is torn"
    elif not counts and tally.missing and not tally.unreadable and not tally.broken:
        verdict = Verdict.FAILED
        note = f"nothing was observed: {'; '.join(f'{n}: {why}' for why, n in reasons.items())}"
    elif doubts := [
        *doubts_about(draft, tally, allow_unseen, steps is not None and all(n.what == FIRST_AGAIN for n in not_tried)),
        *gradients.doubts([outcomes[o] for o in counts]),
    ]:
        verdict, note = Verdict.INCONCLUSIVE, "; ".join(doubts)
    else:
        met = "" if tally.unseen or case.probe in WITHOUT_BATCH else f", in {batches_met(evidence)}"
        unseen = "; the batches that they were computed in could not be seen" if tally.unseen else ""
        if unseen and tally.in_flight:
            unseen += f", with up to {tally.in_flight} requests in flight"
        verdict, note = (
            Verdict.IDENTICAL,
            f"all {draft.samples} {samples_word(case, evidence)}{two_files.of_both(sides)} have the same {what_is_equal(evidence)}{met}{unseen}{speculation.said(evidence)}",
        )
    wrong = too_inaccurate(draft.metrics)
    if wrong and verdict in DIVERGENCES:
        note = f"{note}; and {wrong}"
    elif wrong and verdict is not Verdict.FAILED:
        verdict, note = Verdict.INACCURATE, f"{wrong}; as to its bits: {note}"
    return replace(draft, verdict=verdict, note=note + uncovered.note(tally.calls))


def measured(tally: Tally) -> dict[str, float]:
    """What was measured, over all sizes: the median of each number, but of the errors the worst."""
    together: dict[str, list[float]] = defaultdict(list)
    for found in tally.metrics.values():
        for name, values in found.items():
            together[name] += values
    return {name: (max if name in ERRORS else median)(values) for name, values in together.items()}


def too_inaccurate(numbers: Mapping[str, float]) -> str:
    """Words, where the result is wrong beyond what its roundings can add up to."""
    share, error = numbers.get("error_share", 0.0), numbers.get("error")
    if not share > 1:
        return ""
    if math.isinf(share):
        return "the result is wrong: not finite, or all zeros, where the reference in float64 is not"
    return f"the result is wrong: its error against float64, {error:.3g} of the row's scale, is up to {share:.3g} times what is allowed"


def batches_met(evidence: Mapping[str, object]) -> str:
    n, sizes = evidence["batches"], [int(size) for size in evidence["batch_sizes"]]
    rows = f"{sizes[0]} to {sizes[-1]} rows" if len(sizes) > 1 else "1 row" if sizes == [1] else f"{sizes[0]} rows"
    return f"{n} {'batch' if n == 1 else 'batches'} of {rows}"


def what_is_equal(evidence: Mapping[str, object]) -> str:
    what = LEVELS[str(evidence["compared"])]
    if talk := evidence.get("turns"):
        what = f"{what} in all {talk['asked']} turns"
    if seen := evidence.get("positions"):
        what = f"{what} at all {seen['of']} positions"
    if seen := evidence.get("gradients"):
        what = f"{what} in all {seen['of']} gradients"
    return what.replace("tokens", "choices") if evidence["unit"] == "choice" else what


def samples_word(case: Case, evidence: Mapping[str, object]) -> str:
    return WITHOUT_BATCH.get(case.probe) or ("rows" if evidence["unit"] == "element" else "samples")


def doubts_about(finding: Finding, tally: Tally, allow_unseen: bool, all_tried: bool) -> Iterator[str]:
    """Why equal samples are no pass. `all_tried`: nothing that a default schedule would try was left out."""
    if finding.missing:
        reasons = "; ".join(f"{n}: {why}" for why, n in finding.evidence["missing"].items())
        yield f"{finding.missing} of {finding.missing + finding.samples} samples are missing ({reasons})"
    # A server's load need not form each time: its trials are no repeats of each other, and once is enough to have tried it.
    enough = 1 if "concurrency" in finding.evidence else math.inf
    unformed = [name for name, c in finding.evidence["conditions"].items() if c["formed"] < min(c["asked"], enough)]
    yield from two_files.doubts(finding)
    yield from turns.doubts(finding.evidence)
    yield from answers.doubts(finding.evidence)
    found = finding.evidence
    yield from filter(None, (uncovered.doubt(tally.calls), speculation.doubt(found), nan.doubt(found)))
    if tally.unseen and not allow_unseen and "sides" not in finding.evidence:
        yield f"the batches of {tally.unseen} samples could not be seen (--allow-unseen-batch accepts that)"
    elif unformed and not tally.unseen and not finding.missing:
        yield f"batches were not formed as asked in {', '.join(unformed)}"
    if finding.samples < 2:
        more = (
            "; a second file of the same requests can be given"
            if finding.case.probe == "judge" and "sides" not in finding.evidence
            else ""
        )
        yield f"there is nothing to compare with{more}"
    elif finding.evidence["unit"] not in NUMBERS and not finding.common_prefix:
        yield "every completion is empty, so nothing was compared"
    elif (
        finding.evidence["batch_sizes"]
        and tally.kinds_of_batch < 2
        and not all_tried
        and "sides" not in finding.evidence
    ):
        yield "only one kind of batch was met, so nothing is known of others"
