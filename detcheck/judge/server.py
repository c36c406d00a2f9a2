"""What load on a server tells, where nobody outside sees a batch formed: by the run, by the load, or undetermined. Pure.

Only a lone request is a condition that can be repeated from outside. Where lone requests agree, load gives something else, and the
server's own counts show that requests were computed together, the batch did it. Without those counts that is not known.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from detcheck.condition_name import ConditionName
from detcheck.finding import Finding
from detcheck.judge.level import level
from detcheck.judge.statistics import describe
from detcheck.judge.tally import Tally
from detcheck.records import Case, Outcome, Step
from detcheck.text import percent
from detcheck.verdict import Verdict

LONE = "alone"
COLD = "cold"
CHANCE = 0.05  # the load is blamed only where lone requests would agree by chance in at most so many runs
UNSEEN = "; seen from outside: the server does not show its batches, so other requests may have been computed with it"


def of_server(steps: Sequence[Step] | None) -> bool:
    return any(step.load for step in steps or ())


def lone(tally: Tally) -> Counter[str]:
    """Outcome -> samples of requests that were sent alone, and were not seen beside others."""
    return sum((n for c, n in tally.conditions.items() if c.name == LONE and c.complete), Counter())


def cold(tally: Tally) -> Counter[str]:
    """Outcome -> samples of requests that were sent alone, while their prompt was not in the prefix cache."""
    return sum((n for c, n in tally.conditions.items() if c.name == COLD and c.complete and not c.fed), Counter())


def cold_alone_differs(first: Counter[str], later: Counter[str], seen: bool) -> tuple[Verdict, str] | None:
    """The verdict where cold answers differ from every later one, and these agree."""
    if not first or len(later) != 1 or len(first) != 1 or set(first) == set(later):
        return None
    what = f"the first answer to the prompt differs from all {later.total()} later ones, which agree"
    if first.total() < 2 or later.total() < 2:
        return Verdict.DIVERGENT, (
            f"{what}. It came before the server could have the prompt in its prefix cache, which is the likely cause; it cannot be asked for "
            "again, so ask several prompts (--prompt-file) to see whether it is so for each"
        )
    what = f"all {first.total()} cold answers differ from all {later.total()} warm ones, and each kind agrees"
    if not seen:
        return Verdict.DIVERGENT, f"{what}; the server does not show its batches"
    return Verdict.BATCH_VARIANT, f"{what}: bits depend on whether the prompt is in the prefix cache"


def why_they_differ(finding: Finding, tally: Tally) -> tuple[Verdict, str]:
    """The verdict on unequal samples of a server."""
    alone = lone(tally)
    noisy = [n for c, n in tally.conditions.items() if c.complete and len(n) > 1]
    if noisy:
        return (
            Verdict.RUN_VARIANT,
            f"a lone request, sent {max(n.total() for n in noisy)} times, already gave different bits{UNSEEN if tally.unseen else ''}",
        )
    later = sum((n for c, n in tally.conditions.items() if c.name != COLD), Counter())
    first_answers = cold(tally)
    if found := cold_alone_differs(first_answers, later, not tally.unseen):
        return found
    if len(alone) > 1:
        return (
            Verdict.DIVERGENT,
            "a lone request gives other bits when its prompt is in the prefix cache, and it was not repeated often enough to tell more",
        )
    if alone.total() < 2:
        return (
            Verdict.DIVERGENT,
            "bits differ, and no lone request was repeated, so the run cannot be distinguished from the load",
        )
    others = sum(count for n in tally.conditions.values() for o, count in n.items() if o not in alone)
    first = finding.evidence["first_variant_condition"]
    what = f"{alone.total()} lone requests agree, and {others} under load give{'s' * (others == 1)} other bits, first in {first}"
    if tally.unseen:
        return (
            Verdict.DIVERGENT,
            f"{what}; the server does not show its batches, so it is undetermined whether the batch caused it",
        )
    left = {c.name for c, n in tally.conditions.items() if not set(n) <= set(alone)}
    if not any(tally.formed[name] for name in left):
        return Verdict.DIVERGENT, f"{what}; but the server was not seen to run requests together there"
    spared = alone.total() + (first_answers.total() if set(first_answers) <= set(alone) else 0)
    if (chance := agree_by_chance(spared, others, finding.samples)) > CHANCE:
        return Verdict.DIVERGENT, f"{what}; {too_few(spared, others, finding.samples, chance, first)}"
    return Verdict.BATCH_VARIANT, what


def agree_by_chance(lone: int, others: int, samples: int) -> float:
    """How probable it is that no lone request is among the `others`, if these have nothing to do with the load.

    Fisher's exact test, one-sided: `others` of `samples` differ, and were these any of them, so many draws would miss all `lone` ones.
    """
    return math.prod((samples - others - n) / (samples - n) for n in range(lone))


def too_few(lone: int, others: int, samples: int, chance: float, first: str) -> str:
    """What to do where a rare fault that strikes any request explains the run as well as the load does: ask again for both, often enough."""
    needed = math.ceil(math.log(CHANCE) / math.log1p(-others / samples))
    rows = ConditionName.parse(first).size or 1
    return (
        f"a fault that has nothing to do with the load, and is as rare, would spare all {lone} in {percent(chance, '.0f')} of runs, so it is "
        f"undetermined whether the batch caused it: send about {needed} lone requests, and {first} as often (the same command with --conditions "
        f"{LONE},{first} --trials {needed} -n {needed * (1 + rows)})"
    )


def between(tallies: Mapping[Case, Tally], outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """Servers against each other: one finding a prompt that several of them were asked, by what they say to a lone request."""
    groups: dict[str, dict[int, tuple[Case, Tally]]] = defaultdict(dict)
    for case, tally in tallies.items():
        if case.replica:
            groups[case.input][case.replica] = case, tally
    return [judge_replicas(group, outcomes) for group in groups.values() if len(group) > 1]


def judge_replicas(group: Mapping[int, tuple[Case, Tally]], outcomes: Mapping[str, Outcome]) -> Finding:
    """`group`: replica -> its case and what came of it."""
    said = {replica: lone(tally) for replica, (_, tally) in group.items()}
    first = next(iter(group.values()))[0]
    case = replace(first, subject=f"{first.subject}, replicas against each other", replica=0)
    silent = [n for n, found in said.items() if not found]
    noisy = [n for n, found in said.items() if len(found) > 1]
    alike: dict[str, list[int]] = defaultdict(list)
    for replica, found in said.items():
        if len(found) == 1:
            alike[next(iter(found))].append(replica)
    counts = sum((found for found in said.values() if len(found) == 1), Counter())
    draft = describe(case, counts, Counter(), outcomes)
    doubts = []
    if silent:
        doubts.append(f"{named(silent)} gave nothing to a lone request")
    if noisy:
        doubts.append(f"{named(noisy)} gave several answers to a lone request")
    parts = sorted(alike.values(), key=lambda some: (-len(some), some))
    if len({depth(outcomes[o]) for o in counts}) > 1:
        verdict = Verdict.INCONCLUSIVE
        doubts.insert(0, "what they give cannot be compared: some give token ids or log-probabilities and some do not")
    elif len(parts) > 1:
        verdict = Verdict.DIVERGENT
        differ = "differs" if len(parts) == 2 and len(parts[1]) == 1 else "differ"
        doubts.insert(0, f"{' and '.join(map(named, parts[1:]))} {differ} from {numbers(parts[0])}")
    elif doubts:
        verdict = Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.IDENTICAL
        doubts = [f"{named(parts[0])} give the same answer to a lone request"]
    evidence = {
        "batches": None,
        "batch_sizes": {},
        "conditions": {},
        "compared": level(outcomes[o] for o in counts),
        "replicas": {str(n): sorted(o[:12] for o in found) for n, found in said.items()},
        "unit": next((outcomes[o].unit for o in counts), "token"),
    }
    return replace(draft, verdict=verdict, note="; ".join(doubts), evidence=evidence)


def depth(outcome: Outcome) -> object:
    """What of it can be compared with another's."""
    return outcome.unit, outcome.words is None, None if outcome.logprobs is None else outcome.logprobs.dtype.name


def named(replicas: Sequence[int]) -> str:
    return f"replica{'s' * (len(replicas) > 1)} {numbers(replicas)}"


def numbers(replicas: Sequence[int]) -> str:
    """1, 2 and 3"""
    *most, last = map(str, replicas)
    return f"{', '.join(most)} and {last}" if most else last
