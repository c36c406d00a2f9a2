"""The judge against one that is too simple to be wrong, on small random sets."""

import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detcheck.judge.conditions import judge
from detcheck.judge.statistics import clopper_pearson
from detcheck.outcomes import outcome
from detcheck.records import Case, Condition, Observation, Prompt
from detcheck.verdict import Verdict

CASE = Case("completions", "m", "stock", "float32", "0")
SPECIAL = [0.0, -0.0, float("nan"), -1.0, float(np.nextafter(np.float32(-1), np.float32(0)))]

payload = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(SPECIAL)), min_size=1, max_size=4)
sample = st.tuples(st.integers(1, 3), st.integers(0, 1), payload)  # batch size, slot, (token, log-probability)...
samples = st.lists(sample, min_size=1, max_size=12)


def judged(drawn):
    outcomes, observations = {}, []
    for batch, (size, slot, tokens) in enumerate(drawn):
        ids, logprobs = zip(*tokens, strict=True)
        found = outcome(np.asarray(ids, np.int64), logprobs=np.asarray(logprobs, np.float32))
        outcomes[found.id] = found
        condition = Condition(f"batch-{size}", size, slot, f"rows-{size}")
        observations.append(Observation(CASE, condition, 0, batch, 0, found.id, (size,)))
    return judge([CASE], None, observations, outcomes)[0]


def tokens_of(drawn):
    return [tuple(t for t, _ in tokens) for _, _, tokens in drawn]


def bits_of(drawn):
    return [tuple((t, np.float32(v).tobytes()) for t, v in tokens) for _, _, tokens in drawn]


def parting(a, b):
    """First index at which two unequal sequences part."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@given(samples)
def test_counts_prefix_and_histogram(drawn):
    finding = judged(drawn)
    for sequences, distinct, prefix, histogram in (
        (tokens_of(drawn), finding.distinct, finding.common_prefix, finding.histogram),
        (bits_of(drawn), finding.distinct_bits, finding.common_prefix_bits, finding.histogram_bits),
    ):
        assert distinct == len(set(sequences))
        assert prefix == next(
            i
            for i in itertools.count()
            if len({s[: i + 1] for s in sequences}) > 1 or any(len(s) <= i for s in sequences)
        )
        most = max(Counter(sequences).values())
        modes = [s for s, n in Counter(sequences).items() if n == most]
        possible = [Counter(parting(m, s) for s in sequences if s != m) for m in modes]
        assert Counter(dict(histogram)) in possible
    assert finding.mode_count == max(Counter(tokens_of(drawn)).values())


@given(samples)
def test_forks_are_the_inner_nodes_of_the_prefix_tree(drawn):
    sequences = tokens_of(drawn)
    forks = judged(drawn).forks
    assert Counter((f.index, frozenset((b.token, b.count) for b in f.branches)) for f in forks) == Counter(
        (len(p), frozenset(w.items()))
        for p in {s[:i] for s in sequences for i in range(len(s) + 1)}
        if len(w := Counter(s[len(p)] if len(s) > len(p) else None for s in sequences if s[: len(p)] == p)) > 1
    )
    for fork in forks[1:]:
        above = forks[fork.parent]
        assert above.index < fork.index
        assert above.branches[fork.parent_branch].count == sum(b.count for b in fork.branches)


@given(samples)
def test_verdict(drawn):
    finding = judged(drawn)
    groups = {}
    for (size, slot, _), bits in zip(drawn, bits_of(drawn), strict=True):
        groups.setdefault((size, slot), []).append(bits)
    distinct = len(set(bits_of(drawn)))
    repeats_differ = any(len(set(found)) > 1 for found in groups.values())
    settled = {found[0] for found in groups.values() if len(found) > 1 and len(set(found)) == 1}
    if distinct > 1 and repeats_differ:
        assert finding.verdict is Verdict.RUN_VARIANT
    elif distinct > 1:
        assert finding.verdict is (Verdict.BATCH_VARIANT if len(settled) > 1 else Verdict.DIVERGENT)
    else:
        met = {size for size, _, _ in drawn}
        numbers = [number for _, _, tokens in drawn for _, number in tokens]
        says_something = not numbers or not np.isnan(numbers).all()
        sound = len(drawn) > 1 and len(met) > 1 and says_something
        assert finding.verdict is (Verdict.IDENTICAL if sound else Verdict.INCONCLUSIVE)


@given(st.integers(0, 40), st.integers(1, 40))
def test_interval_is_the_binomial_one(k, n):
    """Its ends are the rates at which seeing k or more, or k or fewer, has a chance of 2.5%."""
    from scipy.stats import binom

    k = min(k, n)
    low, high = clopper_pearson(k, n)
    assert low <= k / n <= high
    assert low == 0 if k == 0 else abs(binom.sf(k - 1, n, low) - 0.025) < 1e-6
    assert high == 1 if k == n else abs(binom.cdf(k, n, high) - 0.025) < 1e-6


@given(st.lists(st.sampled_from(SPECIAL), min_size=2, max_size=2, unique_by=lambda v: np.float32(v).tobytes()))
def test_equality_is_bits(pair):
    """-0.0 is not 0.0, and a NaN equals itself."""
    finding = judged([(1, 0, [(1, pair[0]), (2, 1.0)]), (2, 0, [(1, pair[0]), (2, 1.0)])])
    assert finding.verdict is Verdict.IDENTICAL
    finding = judged([(1, 0, [(1, pair[0])]), (1, 0, [(1, pair[1])])])
    assert (finding.verdict, finding.distinct, finding.distinct_bits) == (Verdict.RUN_VARIANT, 1, 2)


def test_a_prompt_is_the_same_by_what_it_is_and_not_by_the_digits_of_its_name():
    found = [outcome(np.asarray([token])) for token in (5, 6)]
    cases = [Case("completions", "m", "stock", "float32", f"{place}:50f98888") for place in (0, 1)]
    seen = [
        Observation(case, Condition("alone", 1, 0), trial, trial, 0, one.id, (1,))
        for case, one in zip(cases, found, strict=True)
        for trial in (0, 1)
    ]
    known = {one.id: one for one in found}
    verdicts = lambda *prompts: [f.verdict for f in judge(cases, None, seen, known, True, prompts=prompts)]  # noqa: E731
    first, again = Prompt(cases[0].input, "one", (1, 2)), Prompt(cases[1].input, "one", (1, 2))
    assert Verdict.RUN_VARIANT in verdicts(first, again)
    assert Verdict.RUN_VARIANT not in verdicts(first, Prompt(cases[1].input, "one", (1, 3)))
    assert Verdict.RUN_VARIANT not in verdicts(first, Prompt(cases[1].input, "two", ()))
    assert Verdict.RUN_VARIANT not in verdicts()
