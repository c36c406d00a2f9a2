"""The distinct outcomes of a case by name, which condition gave which, and how far their log-probabilities are apart along the tokens. Pure.

The most common tokens are "A", the next "B". Samples with the tokens of A and other bits are "A1", "A2", the most common first. Of tens of
thousands of outcomes the most common are named and the rest counted, so that a report stays small.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from detcheck.bits import as_integers, first_difference
from detcheck.finding import Variant
from detcheck.judge.statistics import divergence
from detcheck.judge.tally import Tally
from detcheck.outcomes import token_key
from detcheck.records import Outcome

NAMED = 60  # outcomes; the rest are counted together
POINTS = 64  # of a curve along the tokens


def variants(counts: Counter[str], outcomes: Mapping[str, Outcome]) -> tuple[Variant, ...]:
    """The most common outcomes, named; those with the same tokens stand together. `counts`: outcome -> samples."""
    same_tokens: dict[object, list[str]] = defaultdict(list)
    for name in sorted(counts, key=lambda o: (-counts[o], o)):
        same_tokens[token_key(outcomes[name])].append(name)
    groups = sorted(
        same_tokens.values(), key=lambda names: (-sum(counts[n] for n in names), sort_key(outcomes[names[0]]))
    )
    if not groups:
        return ()
    mode = outcomes[groups[0][0]]
    found: list[Variant] = []
    for group, names in enumerate(groups[:NAMED]):
        leaves = first_difference(mode.tokens, outcomes[names[0]].tokens)
        for n, name in enumerate(names[: NAMED - len(found)], 1):
            one = outcomes[name]
            leaves_bits = None if one is mode else divergence(mode, one).index_bits
            label = letters(group) + (str(n) if len(names) > 1 else "")
            found.append(Variant(label, group, name, counts[name], len(one.tokens), leaves, leaves_bits, text_of(one)))
        if len(found) == NAMED:
            break
    return tuple(found)


def sort_key(outcome: Outcome) -> bytes:
    """As `forks.TokenSequence.key`: of equally common sequences the mode is the same one."""
    return outcome.tokens.astype(">i8").tobytes()


def letters(n: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA"""
    said = ""
    while n >= 0:
        n, digit = n // 26 - 1, n % 26
        said = chr(ord("A") + digit) + said
    return said


def text_of(outcome: Outcome) -> str:
    """What people read of it; of tokens that nobody decoded their ids, and of numbers nothing."""
    if outcome.text or outcome.unit in ("element", "word"):
        return outcome.text
    return " ".join(outcome.words if outcome.words is not None else map(str, outcome.tokens.tolist()))


def seen(named: Sequence[Variant], tally: Tally) -> dict[str, object]:
    """Evidence `outcomes`: those that have a name, and of each condition how many samples gave which. {} where nothing came."""
    if not named:
        return {}
    names = {v.outcome: v.name for v in named}
    by_condition: dict[str, Counter[str]] = defaultdict(Counter)
    others: set[str] = set()
    for condition, found in tally.conditions.items():
        for outcome, n in found.items():
            by_condition[condition.name][names.get(outcome, "others")] += n
        others |= found.keys() - names.keys()
    shown = [
        {
            "name": v.name,
            "id": v.outcome,
            "samples": v.samples,
            "length": v.length,
            "leaves": v.leaves,
            "leaves_bits": v.leaves_bits,
        }
        for v in named
    ]
    return {
        "outcomes": {"named": shown, "others": len(others), "conditions": {c: dict(n) for c, n in by_condition.items()}}
    }


def along(counts: Counter[str], outcomes: Mapping[str, Outcome]) -> dict[str, object]:
    """Evidence `along`: [token, mean, largest, samples] of how far log-probabilities are from the most common outcome's, in nats.

    Compared are samples of other bits, as long as they share its tokens; the mean is over these. Where there are more tokens than
    `POINTS`, a point stands for several. {} where nothing differs, or there are no log-probabilities.
    """
    mode = outcomes[min(counts, key=lambda o: (-counts[o], o))] if counts else None
    if mode is None or mode.logprobs is None or not len(mode.tokens):
        return {}
    length = len(mode.tokens)
    total, samples, largest = np.zeros(length), np.zeros(length, np.int64), np.zeros(length)
    for name, n in counts.items():
        other = outcomes[name]
        if other is mode or other.logprobs is None or other.logprobs.dtype != mode.logprobs.dtype:
            continue
        left = first_difference(mode.tokens, other.tokens)
        shared = min(length if left is None else left, len(mode.logprobs), len(other.logprobs))
        a, b = mode.logprobs[:shared], other.logprobs[:shared]
        with np.errstate(invalid="ignore"):
            apart = np.where(as_integers(a) == as_integers(b), 0.0, np.abs(a.astype(np.float64) - b))
        apart = np.where(np.isfinite(apart), apart, 0.0)
        total[:shared] += n * apart
        samples[:shared] += n
        largest[:shared] = np.maximum(largest[:shared], apart)
    compared = int(np.count_nonzero(samples))  # the first so many: who has left does not come back
    if not largest.any():
        return {}
    width = -(-compared // POINTS)
    points = []
    for begin in range(0, compared, width):
        part = slice(begin, min(begin + width, compared))
        mean = total[part].sum() / samples[part].sum()
        points.append([begin, float(mean), float(largest[part].max()), int(samples[part].max())])
    return {"along": points}
