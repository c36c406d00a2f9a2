"""The figures of a finding: distinct, mode, common prefix, histogram, forks, interval, distance. Pure, no torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from detcheck.bits import as_integers, first_difference, furthest, ulp_distance
from detcheck.finding import Divergence, Finding
from detcheck.judge.forks import TokenSequence, find_forks
from detcheck.outcomes import token_key
from detcheck.records import Case, Outcome
from detcheck.verdict import Verdict

CONFIDENCE = 0.95
NUMBERS = ("element", "word")  # units that no prefix tree is made of: what follows a difference does not follow from it


def by_tokens(sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
    """Conversations whose tokens are the same and whose answers end elsewhere are one path of the tree."""
    found: dict[bytes, TokenSequence] = {}
    for one in sequences:
        key = one.tokens.tobytes()
        found[key] = replace(found[key], count=found[key].count + one.count) if key in found else one
    return list(found.values())


def describe(
    case: Case, counts: Counter[str], batches: Counter[frozenset[str]], outcomes: Mapping[str, Outcome]
) -> Finding:
    """A finding with its figures and no verdict yet.

    `counts`: outcome -> samples; `batches`: sets of outcomes that were in one batch -> number of such batches.
    """
    draft = Finding(case, Verdict.INCONCLUSIVE, "")
    if not counts:
        return draft
    same_tokens: dict[object, list[str]] = defaultdict(list)
    for name in sorted(counts, key=lambda o: (-counts[o], o)):
        same_tokens[token_key(outcomes[name])].append(name)
    sequences = []
    for names in same_tokens.values():
        sequences.append(TokenSequence(outcomes[names[0]].tokens, sum(counts[n] for n in names), outcomes[names[0]]))
    mode = min(sequences, key=lambda s: (-s.count, s.key))
    mode_bits = outcomes[min(counts, key=lambda o: (-counts[o], o))]

    if mode.outcome.unit == "word":  # where digests part says nothing
        together = {"samples": counts.total(), "distinct": len(counts), "distinct_bits": len(counts)}
        apart, n = sum(c for found, c in batches.items() if found != {mode_bits.id}), batches.total()
        interval = clopper_pearson(apart, n)
        return replace(draft, **together, mode_count=mode.count, interval=interval, interval_bits=interval)
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
    n = batches.total()
    metrics = {}
    for metric in ("max_ulp", "max_abs"):
        values = [v for d in distances if (v := getattr(d, metric)) is not None and np.isfinite(v)]
        if values:
            metrics[metric] = max(values)
    return replace(
        draft,
        samples=counts.total(),
        distinct=len(sequences),
        distinct_bits=len(counts),
        mode_count=mode.count,
        common_prefix=min(leaves, default=len(mode.tokens)),
        common_prefix_bits=min(leaves_bits, default=len(mode_bits.tokens)),
        histogram=tuple(sorted(leaves.items())),
        histogram_bits=tuple(sorted(leaves_bits.items())),
        forks=() if mode.outcome.unit in NUMBERS else find_forks(by_tokens(sequences)),
        interval=clopper_pearson(sum(c for together, c in batches.items() if not together <= in_mode), n),
        interval_bits=clopper_pearson(sum(c for together, c in batches.items() if together != {mode_bits.id}), n),
        metrics=metrics,
        mode_text=mode.outcome.text,
    )


def divergence(mode: Outcome, other: Outcome) -> Divergence:
    """Where `other` parts from `mode`, and how far apart the log-probabilities of the tokens before that are, or all elements."""
    index = first_difference(mode.tokens, other.tokens)
    if mode.dtype and mode.dtype == other.dtype and len(mode.tokens) == len(other.tokens):
        return Divergence(
            index, len(mode.tokens) if index is None else index, *furthest(mode.tokens, other.tokens, mode.dtype)
        )
    shared = min(len(mode.tokens), len(other.tokens)) if index is None else index
    if mode.logprobs is None or other.logprobs is None or mode.logprobs.dtype != other.logprobs.dtype:
        return Divergence(index, shared, None, None)
    index_bits = first_difference(*(as_integers(o.logprobs[:shared]) for o in (mode, other)))
    if index_bits is None:
        return Divergence(index, shared, None, None)
    both = min(shared, len(mode.logprobs), len(other.logprobs))  # an engine may leave some out
    a, b = mode.logprobs[:both], other.logprobs[:both]
    unequal = as_integers(a) != as_integers(b)
    if not unequal.any():
        return Divergence(index, index_bits, None, None)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a[unequal].astype(np.float64) - b[unequal])
    # A float64 is a number that somebody wrote down; of which width it was when it was computed is not known.
    ulp = None if a.dtype == np.float64 else float(np.max(ulp_distance(a[unequal], b[unequal])))
    return Divergence(index, index_bits, ulp, float(np.max(apart)))


def clopper_pearson(k: int, n: int) -> tuple[float, float]:
    """Exact binomial interval on a rate of which k in n trials were seen (Clopper and Pearson, Biometrika 1934)."""
    from scipy.special import betaincinv

    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high
