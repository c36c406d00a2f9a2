"""How far two sides are apart: figures that were worked out by hand, and shares that no rounding may move."""

import math

import numpy as np
import pytest

from detcheck.probes.logprobs.measures import ScoredPair, along, effective, first_unequal, measure


def pair(a, b, name="0", **more):
    return ScoredPair(name, np.arange(len(a)), np.asarray(a, np.float32), np.asarray(b, np.float32), **more)


def test_estimates_are_those_of_schulman():
    found = measure([pair([-1.0, -2.0], [-1.5, -2.0]), pair([-3.0, -1.0], [-2.0, -1.0])])
    r = np.array([-0.5, 0.0, 1.0, 0.0])
    assert found.tokens == 4 and found.mismatching == 2 and found.different == 2 and found.share == 0.5
    assert found.max_abs == 1.0 and found.mean_abs == pytest.approx(0.375)
    assert found.k1.mean == pytest.approx(float(-r.mean()))
    assert found.k2.mean == pytest.approx(float((r**2 / 2).mean()))
    assert found.k3.mean == pytest.approx(float((np.exp(r) - 1 - r).mean()))
    sums = [-0.5 - 2 * r.mean(), 1.0 - 2 * r.mean()]  # of the two sequences
    assert found.k1.error == pytest.approx(math.sqrt(sum(s * s for s in sums) * 2) / 4)


def test_the_spread_is_that_between_sequences():
    """Forty tokens of two sequences that differ by a whole are two numbers, not eighty."""
    together = measure([pair([-1.0] * 40, [-1.1] * 40), pair([-1.0] * 40, [-0.9] * 40)])
    apart = measure([pair([-1.0, -1.0], [-1.1, -0.9]) for _ in range(40)])
    assert together.k1.error > 0.09 and apart.k1.error < 1e-6


def test_effective_sample_size():
    assert effective(np.zeros(7)) == pytest.approx(1)
    assert effective(np.array([0.0, -1000.0])) == pytest.approx(0.5)
    assert effective(np.array([2000.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)  # no overflow
    found = measure([pair([-1.0] * 30, [-1.3] * 30), pair([-1.0] * 30, [-0.7] * 30)])
    w = np.exp([-9.0, 9.0])
    assert found.ess_sequences == pytest.approx(w.sum() ** 2 / (w**2).sum() / 2, rel=1e-5)


def test_bits_decide_and_not_equality():
    nan, inf = float("nan"), float("inf")
    found = measure([pair([0.0, nan, -inf, -inf, nan], [-0.0, nan, -inf, -1.0, -1.0])])
    assert found.mismatching == 3  # -0.0 is not 0.0; the same NaN and the same infinity are equal
    assert found.not_finite == 2 and found.nan == 1
    assert found.max_abs == 0 and found.k3.mean == 0  # what is no number is in no estimate
    assert first_unequal(pair([1.0, 2.0], [1.0, 2.0])) is None


def test_nothing_to_compare_is_no_error():
    assert measure([]).tokens == 0 and measure([pair([], [])]).metrics()["ess_tokens"] == 1.0 and along([]) == []


def test_along_the_sequence():
    points = along([pair([-1.0] * 5, [-1.0, -1.0, -1.0, -1.5, -3.0]), pair([-1.0] * 4, [-1.0] * 4)], most=3)
    assert [(p.first, p.last, p.tokens, p.mismatching) for p in points] == [(0, 1, 4, 0), (2, 3, 4, 1), (4, 4, 1, 1)]
    assert points[1].mean_abs == pytest.approx(0.125) and points[2].max_abs == 2.0


def test_a_token_of_another_id_is_in_no_estimate():
    found = measure([pair([-1.0, -1.0], [-1.0, -9.0], other_tokens=np.array([0, 5]))])
    assert found.max_abs == 0 and found.mismatching == 1


def test_a_sequence_without_numbers_weighs_nothing_wherever_it_stands():
    empty, a, b = pair([math.nan] * 2, [-1.0] * 2), pair([-1.0] * 2, [-3.0] * 2), pair([-1.0] * 2, [-3.5] * 2)
    alone = measure([a, b]).ess_sequences
    assert [measure(order).ess_sequences for order in ([a, empty, b], [a, b, empty], [empty, a, b])] == [alone] * 3
