"""What was observed of an arm, with the sides of every sequence beside each other. Pure."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from detcheck.judge.tally import Tally
from detcheck.probes.logprobs import causes
from detcheck.probes.logprobs.causes import OtherCause
from detcheck.probes.logprobs.facts import PLACES, SAMPLER, TOKENIZER, WEIGHTS, Explanation
from detcheck.probes.logprobs.measures import ScoredPair
from detcheck.records import Case, Outcome


@dataclass
class BothSides:
    """One arm's sequences, as they were observed."""

    cases: list[Case] = field(default_factory=list)
    pairs: dict[str, list[ScoredPair]] = field(default_factory=lambda: defaultdict(list))
    """how the trainer scored -> sequences"""
    repeats: dict[str, int] = field(default_factory=dict)
    """condition -> sequences that had several outcomes under it"""
    missing: Counter[str] = field(default_factory=Counter)
    unformed: set[str] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)


def about_model(tallies: Mapping[str, Tally], outcomes: Mapping[str, Outcome]) -> Iterator[OtherCause]:
    """Whether both sides have the same weights and the same tokeniser, where both were looked at."""
    for name, tally in tallies.items():
        seen = {c.name: outcomes[o].words or () for c, counts in tally.conditions.items() for o in counts}
        if len(seen) < 2:
            continue
        a, b = seen[SAMPLER], next(words for side, words in seen.items() if side != SAMPLER)
        if name == WEIGHTS:
            yield from causes.of_weights(*(dict(word.rsplit(" ", 1) for word in words) for words in (a, b)))
        elif name == TOKENIZER:
            yield from causes.of_vocabularies(a, b)
        else:
            yield from causes.of_widths(a[0], b[0])


def explanations(tally: Tally, outcomes: Mapping[str, Outcome]) -> Iterator[Explanation]:
    for counts in tally.conditions.values():
        for name in counts:
            yield from map(Explanation.from_json, json.loads(outcomes[name].text))


def read(tallies: Mapping[Case, Tally], asked: Sequence[str], outcomes: Mapping[str, Outcome]) -> BothSides:
    """Puts the sides of every sequence beside each other."""
    arm = BothSides(list(tallies))
    several: Counter[str] = Counter()
    for case, tally in tallies.items():
        arm.calls += tally.calls
        arm.missing += tally.missing
        seen: dict[str, set[str]] = defaultdict(set)
        for condition, counts in tally.conditions.items():
            seen[condition.name] |= set(counts)
            if len(counts) > 1:
                several[condition.name] += 1
        if not tally.missing and (absent := [name for name in asked if name not in seen]):
            arm.missing["the run stopped before it"] += len(absent)
        arm.unformed |= {
            c.name for c in tally.conditions if c.name != SAMPLER and c.batch_size is None and c.slot is not None
        }
        made = next(iter(sorted(seen.pop(SAMPLER, ()))), None)
        for name, scored in seen.items():
            for one in sorted(scored):
                if made is not None:
                    arm.pairs[name].append(paired(case.input, outcomes[made], outcomes[one]))
    arm.repeats = dict(several)
    arm.pairs = {name: arm.pairs[name] for name in asked if arm.pairs.get(name)} | {
        name: p for name, p in arm.pairs.items() if name not in asked and p
    }
    return arm


def paired(name: str, a: Outcome, b: Outcome) -> ScoredPair:
    lengths = len(a.tokens), len(b.tokens)
    shared = min(lengths)
    tokens, others = a.tokens[:shared], b.tokens[:shared]
    unlike = a.unit != b.unit
    numbers = [one.logprobs[:shared] for one in (a, b)]
    if numbers[0].dtype != numbers[1].dtype:  # a file with more digits than the trainer's float32
        numbers = [one.astype(np.float64) for one in numbers]
    return ScoredPair(
        name,
        tokens,
        *numbers,
        a.text,
        b.text,
        None if unlike or np.array_equal(tokens, others) else others,
        None if lengths[0] == lengths[1] else lengths,
        ids=not unlike and a.unit != PLACES,
        unlike=unlike,
        pieces=a.names,
    )
