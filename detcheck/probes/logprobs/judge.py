"""What two sides' log-probabilities amount to: one finding for all sequences of an arm. Pure.

A case is a sequence, and its conditions are the sides. They are judged together, since what matters to training (a KL, the spread of
importance ratios) is of the batch of sequences, not of one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from detcheck.bits import as_integers
from detcheck.finding import Finding
from detcheck.judge.tally import Tally
from detcheck.probes.logprobs import causes
from detcheck.probes.logprobs.arm import BothSides, about_model, explanations, read
from detcheck.probes.logprobs.causes import OtherCause
from detcheck.probes.logprobs.facts import CAUSES, OF_THE_MODEL, Explanation
from detcheck.probes.logprobs.measures import Measures, Point, ScoredPair, along, first_unequal, measure, not_written
from detcheck.probes.logprobs.options import Options
from detcheck.records import Case, Outcome, Schedule
from detcheck.text import percent
from detcheck.verdict import Role, Verdict

SPREAD = 1.96  # standard errors of an estimate up to which --max-kl must hold it
OF_MODELS = ("weights", "tokenizer")
BESIDE = 6  # tokens before and behind the first mismatch that are shown
MOST_PROMPTS = 20  # in the evidence, the furthest apart first


@dataclass(frozen=True)
class Limit:
    """What the user accepts."""

    name: str
    limit: float
    found: float

    @property
    def holds(self) -> bool:
        return self.found <= self.limit


@dataclass(frozen=True)
class Compared:
    """The sampler against one way in which the trainer scored."""

    name: str
    measures: Measures
    formed: bool
    """whether every batch of it came about as asked"""


@dataclass(frozen=True)
class Details:
    """What the judge found, for the description."""

    compared: tuple[Compared, ...] = ()
    points: tuple[Point, ...] = ()
    causes: tuple[OtherCause, ...] = ()
    limits: tuple[Limit, ...] = ()
    first: Mapping[str, object] | None = None
    prompts: tuple[Mapping[str, object], ...] = ()
    """the furthest apart first"""
    ids: bool = True
    calls: Mapping[str, int] = field(default_factory=dict)
    control: tuple[Compared, ...] = ()
    """the same by the control's kernels, where there is one"""


def whole(
    tallies: Mapping[Case, Tally],
    schedule: Schedule,
    outcomes: Mapping[str, Outcome],
    roles: Mapping[Case, Role],
    options: Options,
) -> list[Finding]:
    """A finding an arm."""
    arms: dict[str, dict[Case, Tally]] = defaultdict(dict)
    of_model = {
        case.input: tally for case, tally in tallies.items() if case.input in OF_THE_MODEL and case.input != CAUSES
    }
    for case, tally in tallies.items():
        if case.input == CAUSES or case.input not in OF_THE_MODEL:
            arms[case.kernels][case] = tally
    known = [*about_model(of_model, outcomes)]
    asked = dict.fromkeys(step.condition for step in schedule.steps if step.input not in OF_THE_MODEL)
    findings = []
    for held in arms.values():
        first = next(iter(held))
        case = replace(first, input="")
        explained = [e for c, t in held.items() if c.input == CAUSES for e in explanations(t, outcomes)]
        arm = read({c: t for c, t in held.items() if c.input != CAUSES}, list(asked), outcomes)
        findings.append(replace(judged(case, arm, known, explained, options), role=roles.get(first, Role.GATES)))
    control = next((f.detail.compared for f in findings if f.role is not Role.GATES and f.detail), ())
    left = {"not_tried": list(schedule.not_tried)} if schedule.not_tried else {}
    findings = [replace(f, evidence={**f.evidence, **left}) for f in findings]
    return [beside(f, control) if f.role is Role.GATES and f.detail else f for f in findings]


def beside(finding: Finding, control: tuple[Compared, ...]) -> Finding:
    """With what the control gave, so that the two arms are seen side by side."""
    return replace(finding, detail=replace(finding.detail, control=control))


def judged(
    case: Case, arm: BothSides, known: Sequence[OtherCause], explained: Sequence[Explanation], options: Options
) -> Finding:
    compared = tuple(Compared(name, measure(pairs), name not in arm.unformed) for name, pairs in arm.pairs.items())
    missing = arm.missing.total()
    worst = max(compared, key=lambda c: (c.measures.mismatching, c.measures.max_abs), default=None)
    if worst is None:
        why = "; ".join(f"{n}: {why}" for why, n in arm.missing.items()) or "there is no sequence that both sides have"
        verdict = (
            Verdict.FAILED
            if missing and not any("does not have" in why for why in arm.missing)
            else Verdict.INCONCLUSIVE
        )
        return Finding(
            case, verdict, f"nothing could be compared: {why}", missing=missing, evidence={"missing": dict(arm.missing)}
        )
    pairs = arm.pairs[worst.name]
    other_tokens = [p for p in pairs if p.other_tokens is not None]
    differs = any(c.measures.mismatching for c in compared)
    found = sorted([*known, *sides_causes(pairs, explained, differs)], key=lambda cause: not cause.certain)
    limits = limits_of(compared, options)
    verdict, note = verdict_on(arm, compared, other_tokens, differs)
    doubts = [*doubts_about(arm, compared, missing)]
    if not differs and any(cause.kind in OF_MODELS for cause in known):
        doubts.append("the two models are not the same, which these tokens do not show")
    if verdict is Verdict.DIVERGENT and not other_tokens and is_rounded(arm, known):
        verdict, note = Verdict.INCONCLUSIVE, f"the two are equal as far as what was written tells; {note}"
    if any(cause.digits for cause in known) and not differs:
        doubts.append("numbers were rounded when they were written, which hides what differs behind their digits")
    if verdict is Verdict.IDENTICAL and doubts:
        verdict, note = Verdict.INCONCLUSIVE, f"what was compared is equal, but {'; '.join(doubts)}"
    elif doubts:
        note += f"; {'; '.join(doubts)}"
    accepted = (
        bool(limits)
        and all(limit.holds for limit in limits)
        and verdict in (Verdict.DIVERGENT, Verdict.BATCH_VARIANT)
        and not other_tokens
        and not any(c.measures.not_finite for c in compared)
        and len(doubts) == bool(missing)  # what is missing makes it 3, see `Finding.exit_code`
    )
    if limits and verdict is not Verdict.IDENTICAL:
        note += f"; {accepting(limits, accepted, bool(doubts))}: " + ", ".join(
            f"{one.name} {one.found:.3g} of {one.limit:.3g}" for one in limits
        )
    if found and verdict is not Verdict.IDENTICAL:
        note = f"{found[0].why}; {note}" if found[0].certain else f"{note}; {found[0].why}"
    m = worst.measures
    details = Details(
        compared,
        tuple(along(pairs)),
        tuple(found),
        limits,
        first_of(pairs),
        by_prompt(pairs),
        all(p.ids for p in pairs),
        dict(arm.calls),
    )
    leaves = Counter(n for p in pairs if (n := first_unequal(p)) is not None)
    return Finding(
        case, verdict, note,
        samples=len({p.name for one in arm.pairs.values() for p in one}),
        missing=missing,
        distinct=2 if other_tokens else 1,
        distinct_bits=2 if differs or other_tokens else 1,
        mode_count=m.sequences - m.different,
        common_prefix_bits=min(leaves, default=max((len(p.tokens) for p in pairs), default=0)),
        histogram_bits=tuple(sorted(leaves.items())),
        evidence=evidence(details, arm, worst.name),
        metrics=m.metrics(),
        detail=details,
        accepted=accepted,
    )  # fmt: skip


def is_rounded(arm: BothSides, known: Sequence[OtherCause]) -> bool:
    """Whether a side's numbers were rounded when they were written, and nothing is further apart than that explains."""
    digits = min((cause.digits for cause in known if cause.digits), default=0)
    return bool(digits) and all(causes.only_rounded(pairs, digits) for pairs in arm.pairs.values())


def sides_causes(pairs: Sequence[ScoredPair], explained: Sequence[Explanation], differs: bool) -> list[OtherCause]:
    if not differs:
        return [*causes.tokenizer(pairs), *causes.truncation(pairs)]
    explained = [e for e in explained if e.tokens >= causes.TRIED]
    certain = causes.explained(explained)
    plain = [c for c in causes.of_pairs(pairs) if not certain or c.certain]
    if explained and not certain:  # the trainer's own logits were asked, and deny what the numbers alone make likely
        plain = [c for c in plain if c.certain]
    return certain + plain


def verdict_on(
    arm: BothSides, compared: Sequence[Compared], other: Sequence[ScoredPair], differs: bool
) -> tuple[Verdict, str]:
    told = "; ".join(map(in_words, compared))
    if arm.repeats:
        names = ", ".join(f"{name} ({n} sequences)" for name, n in arm.repeats.items())
        return Verdict.RUN_VARIANT, f"equal conditions gave different bits in {names}; {told}"
    if other:
        return Verdict.DIVERGENT, told
    if not differs:
        return Verdict.IDENTICAL, told
    equal = [c.name for c in compared if not c.measures.mismatching]
    if equal:
        others = ", ".join(c.name for c in compared if c.measures.mismatching)
        return (
            Verdict.BATCH_VARIANT,
            f"the sampler and the trainer agree in {', '.join(equal)}, and not in {others}: the trainer's bits depend on how it batches; {told}",
        )
    return Verdict.DIVERGENT, told


def in_words(one: Compared) -> str:
    m = one.measures
    where = f"{m.tokens} tokens of {m.sequences} sequences"
    if not m.mismatching:
        return f"{one.name}: all {where} have the same bits"
    return f"{one.name}: {m.mismatching} of {where} have other bits ({percent(m.share, '.1f')}), by up to {m.max_abs:.3g} nats"


def doubts_about(arm: BothSides, compared: Sequence[Compared], missing: int) -> Iterator[str]:
    """Why equal bits are no pass."""
    if missing:
        yield f"{missing} are missing ({'; '.join(f'{n}: {why}' for why, n in arm.missing.items())})"
    if unformed := [c.name for c in compared if not c.formed]:
        yield f"batches were not formed as asked in {', '.join(unformed)}, where rows came apart or there was nothing to pad or pack"
    if nan := max(c.measures.nan for c in compared):
        yield f"{nan} log-probabilities are NaN on both sides"
    if not any(c.measures.tokens for c in compared):
        yield "there are no tokens to compare"
    yield from not_written([p for pairs in arm.pairs.values() for p in pairs])
    if unlike := max(sum(p.unlike for p in pairs) for pairs in arm.pairs.values()):
        yield f"one side alone gives token ids of {causes.many(unlike, 'sequence')}, so the numbers may be of other tokens"
    if cut := max(sum(p.lengths is not None for p in pairs) for pairs in arm.pairs.values()):
        yield f"{cut} sequences do not have the same length on both sides"


def accepting(limits: Sequence[Limit], accepted: bool, doubted: bool) -> str:
    if accepted:
        return "the difference is within what you accept, and so no exit code of 1"
    if all(limit.holds for limit in limits):
        if doubted:
            return "what was compared is within what you accept, but not all was compared, so it is not accepted"
        return "what you accept is for differences between two numbers of one token, and this is more than that"
    return "the difference is beyond what you accept"


def limits_of(compared: Sequence[Compared], options: Options) -> tuple[Limit, ...]:
    """What the user accepts, against the worst that was found; of an estimate the upper end of its spread."""
    found = []
    if options.max_diff is not None:
        found.append(Limit("largest difference", options.max_diff, max(c.measures.max_abs for c in compared)))
    if options.max_kl is not None:
        kl = max(c.measures.k3.mean + SPREAD * c.measures.k3.error for c in compared)
        found.append(Limit("KL (k3, upper end)", options.max_kl, kl))
    return tuple(found)


def first_of(pairs: Sequence[ScoredPair]) -> dict[str, object] | None:
    """The first token whose bits differ, in the order of the sequences."""
    for pair in pairs:
        index = first_unequal(pair)
        if index is None:
            continue
        token = int(pair.tokens[index]) if pair.ids else None
        return {
            "sequence": pair.name, "index": index, "token": token, "text": pair.text, "around": around(pair.pieces, index),
            "sampler": float(pair.sampler[index]), "trainer": float(pair.trainer[index]),
            "sampler_bits": f"{int(as_integers(pair.sampler[index : index + 1])[0]):#x}",
            "trainer_bits": f"{int(as_integers(pair.trainer[index : index + 1])[0]):#x}",
        }  # fmt: skip
    return None


def around(pieces: Sequence[str], index: int) -> list[str]:
    """[what is before a token, its own text, what is behind it]; []: not known"""
    if index >= len(pieces):
        return []
    before, behind = pieces[max(0, index - BESIDE) : index], pieces[index + 1 : index + 1 + BESIDE]
    return ["".join(before), pieces[index], "".join(behind)]


def by_prompt(pairs: Sequence[ScoredPair]) -> tuple[Mapping[str, object], ...]:
    """Sequences, the furthest apart first."""
    lines = []
    for pair in pairs:
        m = measure([pair])
        lines.append(
            {
                "sequence": pair.name,
                "tokens": m.tokens,
                "mismatching": m.mismatching,
                "max_abs": m.max_abs,
                "k3": m.k3.mean,
                "first": first_unequal(pair),
            }
        )
    return tuple(sorted(lines, key=lambda one: (-one["max_abs"], -one["mismatching"])))


def evidence(details: Details, arm: BothSides, worst: str) -> dict[str, object]:
    return {
        "compared": "bits",
        "unit": "token",
        "worst": worst,
        "comparisons": {c.name: c.measures.metrics() for c in details.compared},
        "causes": [c.plain() for c in details.causes],
        "limits": {one.name: {"limit": one.limit, "found": one.found} for one in details.limits},
        "first_mismatch": details.first,
        "by_position": [[p.first, p.tokens, p.mismatching, p.mean_abs, p.max_abs] for p in details.points],
        "by_sequence": [dict(one) for one in details.prompts[:MOST_PROMPTS]],
        "missing": dict(arm.missing),
    }
