"""Observations -> findings. Pure: it sees recorded bits and nothing else, so that a run can be judged again anywhere.

Observations are tallied as they stream by: memory grows with the distinct outcomes and conditions, not with their number.
Two arms are judged apart. *Repeat*: observations under equal conditions must be equal, else something is truly
nondeterministic. *Batch*: conditions that repeat themselves must equal each other, else the batch reaches the bits.
A pass needs evidence: every batch asked for was formed, every sample came, and there was something to compare.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from detcheck.bits import as_integers, first_difference, ulp_distance
from detcheck.forks import Sequence_, find_forks
from detcheck.records import Case, Condition, Divergence, Finding, Observation, Outcome, Schedule, Step, Verdict

CONFIDENCE = 0.95


@dataclass
class Tally:
    """What is kept of the observations of one case."""

    conditions: dict[Condition, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    batches: Counter[frozenset[str]] = field(default_factory=Counter)
    """sets of outcomes that rode in one batch -> number of such batches"""
    batch_sizes: Counter[int] = field(default_factory=Counter)
    formed: Counter[str] = field(default_factory=Counter)
    """condition name -> batches of it that were seen at the size asked for"""
    unseen: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    _batch: int | None = None
    _together: set[str] = field(default_factory=set)
    _as_asked: str | None = None
    """name of the current batch's condition, while it was seen at its size"""

    def add(self, o: Observation) -> None:
        if o.batch != self._batch:
            self.close()
            self._batch = o.batch
        if o.outcome is None:
            self.missing[o.missing or "no reason given"] += 1
            return
        self._together.add(o.outcome)
        self.conditions[o.condition][o.outcome] += 1
        self.batch_sizes.update(o.batch_sizes)
        if not o.batch_sizes:
            self.unseen += 1
        elif o.batch_sizes == (o.condition.batch_size,):
            self._as_asked = o.condition.name

    def close(self) -> None:
        """The current batch is over."""
        if self._together:
            self.batches[frozenset(self._together)] += 1
        if self._as_asked is not None:
            self.formed[self._as_asked] += 1
        self._together, self._as_asked = set(), None

    @property
    def outcomes(self) -> Counter[str]:
        return sum(self.conditions.values(), Counter())


def judge(
    cases: Sequence[Case],
    schedule: Schedule | None,
    observations: Iterable[Observation],
    outcomes: Mapping[str, Outcome],
    allow_unseen_batch: bool = False,
) -> tuple[Finding, ...]:
    """One finding a case. `cases` are those asked for; others that were observed come behind them.

    Without a schedule (a file that somebody else collected) nothing is known to be missing but what the file says is.
    """
    tallies: dict[Case, Tally] = {case: Tally() for case in cases}
    for o in observations:
        if o.outcome is not None and o.outcome not in outcomes:
            o = replace(o, outcome=None, missing="its outcome cannot be read")
        tallies.setdefault(o.case, Tally()).add(o)
    findings = []
    for case, tally in tallies.items():
        tally.close()
        steps = None if schedule is None else [s for s in schedule.steps if s.input == case.input]
        findings.append(
            judge_case(case, steps, schedule.not_tried if schedule else (), tally, outcomes, allow_unseen_batch)
        )
    return tuple(findings)


def judge_case(
    case: Case,
    steps: Sequence[Step] | None,
    not_tried: Sequence[str],
    tally: Tally,
    outcomes: Mapping[str, Outcome],
    allow_unseen: bool,
) -> Finding:
    counts = tally.outcomes
    samples = counts.total()
    asked = samples + tally.missing.total() if steps is None else sum(s.samples for s in steps)
    missing = max(asked - samples, 0)
    reasons = dict(tally.missing)
    if missing > tally.missing.total():
        reasons["the run stopped before them"] = missing - tally.missing.total()
    conditions = count_conditions(steps, tally, outcomes)
    shape = describe(counts, tally, outcomes) if samples else {}
    evidence: dict[str, object] = {
        "batches": tally.batches.total(),
        "batch_sizes": {str(size): tally.batch_sizes[size] for size in sorted(tally.batch_sizes)},
        "conditions": conditions,
        "varies_with": varies_with(settled(tally)),
        "not_tried": list(not_tried),
        "missing": reasons,
        "first_variant_condition": first_variant(steps, tally),
        "arms": {"repeat": repeat_arm(tally), "batch": batch_arm(tally)},
        "compared": level(counts, outcomes),
        "as_asked": steps is not None and not not_tried,
    }
    verdict, note = decide(counts, samples, missing, reasons, conditions, tally, evidence, allow_unseen)
    return Finding(case, verdict, note, samples=samples, missing=missing, evidence=evidence, **shape)


def decide(
    counts: Counter[str],
    samples: int,
    missing: int,
    reasons: Mapping[str, int],
    conditions: Mapping[str, Mapping[str, int]],
    tally: Tally,
    evidence: Mapping[str, object],
    allow_unseen: bool,
) -> tuple[Verdict, str]:
    if len(counts) > 1:
        return decide_variant(tally, evidence)
    doubts: list[str] = []
    if missing:
        doubts.append(
            f"{missing} of {missing + samples} samples are missing ({'; '.join(f'{n}: {why}' for why, n in reasons.items())})"
        )
    unformed = [name for name, c in conditions.items() if c["formed"] < c["asked"]]
    if tally.unseen and not allow_unseen:
        doubts.append(f"the batches of {tally.unseen} samples could not be seen (--allow-unseen-batch accepts that)")
    elif unformed and not tally.unseen and not missing:
        doubts.append(f"batches were not formed as asked in {', '.join(unformed)}")
    if samples < 2:
        doubts.append("there is nothing to compare with")
    elif evidence["batch_sizes"] and not compared_batches(tally) and not evidence["as_asked"]:
        doubts.append("only one kind of batch was met, so nothing is known of others")
    if doubts:
        return Verdict.INCONCLUSIVE, "; ".join(doubts)
    note = f"all {samples} samples have the same {evidence['compared']}, in {tally.batches.total()} batches"
    if tally.unseen:
        return Verdict.IDENTICAL, note + "; what batches they rode in could not be seen"
    sizes = sorted(tally.batch_sizes)
    return Verdict.IDENTICAL, note + f" of {sizes[0]} to {sizes[-1]} rows"


def decide_variant(tally: Tally, evidence: Mapping[str, object]) -> tuple[Verdict, str]:
    arms = evidence["arms"]
    if arms["repeat"]:
        noisy = [f"{c.name}, slot {c.slot}" for c, found in tally.conditions.items() if c.complete and len(found) > 1]
        note = f"equal conditions gave different bits ({noisy[0]}; {len(noisy)} such): true nondeterminism, such as atomics, autotuning or a race"
        return Verdict.RUN_VARIANT, note + ("; and the batch changes bits too" if arms["batch"] else "")
    mixed = [c.name for c, found in tally.conditions.items() if not c.complete and len(found) > 1]
    if arms["batch"] and not mixed:
        first = evidence["first_variant_condition"]
        where = f", first in {first}" if first else ""
        return (
            Verdict.BATCH_VARIANT,
            f"each condition repeats itself, but conditions differ{where}: not batch-invariant ({', '.join(evidence['varies_with'])})",
        )
    why = "the batches behind them are not known in full" if mixed else "the conditions that differ were not repeated"
    return Verdict.DIVERGENT, f"bits differ, and whether by the run or by the batch cannot be told: {why}"


def repeat_arm(tally: Tally) -> bool | None:
    """Whether equal conditions gave different bits; None: nothing was repeated."""
    repeated = [found for c, found in tally.conditions.items() if c.complete and found.total() > 1]
    return any(len(found) > 1 for found in repeated) if repeated else None


def settled(tally: Tally) -> dict[Condition, str]:
    """Conditions of known batch seen at least twice, always with the same outcome."""
    return {
        c: next(iter(f))
        for c, f in tally.conditions.items()
        if c.batch_size is not None and len(f) == 1 and f.total() > 1
    }


def batch_arm(tally: Tally) -> bool | None:
    """Whether conditions that repeat themselves differ from each other; None: fewer than two of them."""
    found = settled(tally)
    return len(set(found.values())) > 1 if len(found) > 1 else None


def compared_batches(tally: Tally) -> bool:
    return len({(c.batch_size, c.composition) for c in tally.conditions}) > 1


def varies_with(steady: Mapping[Condition, str]) -> list[str]:
    """What alone, with the rest held equal, goes with other bits: batch, slot, threads. From conditions that repeat themselves."""
    aspects = {
        "batch": lambda c: (c.threads,),
        "slot": lambda c: (c.batch_size, c.composition, c.threads),
        "threads": lambda c: (c.batch_size, c.composition, c.slot),
    }
    changing = {
        "batch": lambda c: (c.batch_size, c.composition),
        "slot": lambda c: c.slot,
        "threads": lambda c: c.threads,
    }
    found = []
    for aspect, fixed in aspects.items():
        groups: dict[object, dict[object, set[str]]] = defaultdict(lambda: defaultdict(set))
        for condition, outcome in steady.items():
            groups[fixed(condition)][changing[aspect](condition)].add(outcome)
        if any(len({frozenset(outcomes) for outcomes in group.values()}) > 1 for group in groups.values()):
            found.append(aspect)
    return found


def first_variant(steps: Sequence[Step] | None, tally: Tally) -> str | None:
    """Name of the first condition, in the order of the schedule or else of size, in which a sample left what the first one gave."""
    order = {step.condition: step.index for step in reversed(steps or ())}
    ranked = sorted(tally.conditions, key=lambda c: (order.get(c.name, 0), c.batch_size or 0, c.slot or 0))
    if not ranked:
        return None
    usual = min(tally.conditions[ranked[0]].most_common(), key=lambda item: (-item[1], item[0]))[0]
    return next((c.name for c in ranked if set(tally.conditions[c]) != {usual}), None)


def count_conditions(
    steps: Sequence[Step] | None, tally: Tally, outcomes: Mapping[str, Outcome]
) -> dict[str, dict[str, int]]:
    """Per condition's name: batches asked and formed, samples, and how many distinct ones came."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for condition, counter in tally.conditions.items():
        found[condition.name] += counter
    asked = (
        Counter(s.condition for s in steps)
        if steps is not None
        else Counter({name: c.total() for name, c in found.items()})
    )
    table = {}
    for name in [*asked, *(n for n in found if n not in asked)]:
        table[name] = {
            "asked": asked[name],
            "formed": min(tally.formed[name], asked[name]),
            "samples": found[name].total(),
            "distinct": len({token_key(outcomes[o]) for o in found[name]}),
            "distinct_bits": len(found[name]),
        }
    return table


def level(counts: Iterable[str], outcomes: Mapping[str, Outcome]) -> str:
    """How deep the comparison went: "bits" where every outcome has log-probabilities, else "tokens", or "text" where that is all."""
    if any(outcomes[o].unit == "character" for o in counts):
        return "text"
    return "bits" if all(outcomes[o].logprobs is not None for o in counts) else "tokens"


def token_key(outcome: Outcome) -> object:
    return outcome.words if outcome.words is not None else outcome.tokens.tobytes()


def describe(counts: Counter[str], tally: Tally, outcomes: Mapping[str, Outcome]) -> dict[str, object]:
    """The figures of a finding: distinct, mode, prefix, histogram, forks, interval, distance."""
    same_tokens: dict[object, list[str]] = defaultdict(list)
    for name in sorted(counts, key=lambda o: (-counts[o], o)):
        same_tokens[token_key(outcomes[name])].append(name)
    sequences = []
    for names in same_tokens.values():
        sequences.append(Sequence_(outcomes[names[0]].tokens, sum(counts[n] for n in names), outcomes[names[0]]))
    mode = min(sequences, key=lambda s: (-s.count, s.key))
    mode_bits = outcomes[min(counts, key=lambda o: (-counts[o], o))]

    leaves: Counter[int] = Counter()
    for s in sequences:
        index = first_difference(mode.tokens, s.tokens)
        if index is not None:
            leaves[index] += s.count
    leaves_bits: Counter[int] = Counter()
    distances = []
    for name, count in counts.items():
        if name != mode_bits.id:
            distances.append(divergence(mode_bits, outcomes[name]))
            leaves_bits[distances[-1].index_bits] += count

    in_mode = set(same_tokens[token_key(mode.outcome)])
    n = tally.batches.total()
    metrics = {}
    for metric in ("max_ulp", "max_abs"):
        values = [v for d in distances if (v := getattr(d, metric)) is not None and np.isfinite(v)]
        if values:
            metrics[metric] = max(values)
    return {
        "distinct": len(sequences),
        "distinct_bits": len(counts),
        "mode_count": mode.count,
        "common_prefix": min(leaves, default=len(mode.tokens)),
        "common_prefix_bits": min(leaves_bits, default=len(mode_bits.tokens)),
        "histogram": tuple(sorted(leaves.items())),
        "histogram_bits": tuple(sorted(leaves_bits.items())),
        "forks": find_forks(sequences),
        "interval": clopper_pearson(sum(c for together, c in tally.batches.items() if not together <= in_mode), n),
        "interval_bits": clopper_pearson(
            sum(c for together, c in tally.batches.items() if together != {mode_bits.id}), n
        ),
        "metrics": metrics,
        "mode_text": mode.outcome.text,
    }


def divergence(mode: Outcome, other: Outcome) -> Divergence:
    """Where `other` parts from `mode`, and how far apart the log-probabilities of the tokens before that are."""
    index = first_difference(mode.tokens, other.tokens)
    shared = min(len(mode.tokens), len(other.tokens)) if index is None else index
    if mode.logprobs is None or other.logprobs is None or mode.logprobs.dtype != other.logprobs.dtype:
        return Divergence(index, shared, None, None)
    a, b = mode.logprobs[:shared], other.logprobs[:shared]
    index_bits = first_difference(as_integers(a), as_integers(b))
    unequal = as_integers(a) != as_integers(b)
    if not unequal.any():
        return Divergence(index, shared, None, None)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a[unequal].astype(np.float64) - b[unequal])
    return Divergence(index, index_bits, float(np.max(ulp_distance(a[unequal], b[unequal]))), float(np.max(apart)))


def clopper_pearson(k: int, n: int) -> tuple[float, float]:
    """Exact binomial interval on a rate of which k in n trials were seen (Clopper and Pearson, Biometrika 1934)."""
    from scipy.special import betaincinv

    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high
