"""Which outcome is which: names, the matrix of conditions and outcomes, and the differences along the tokens."""

from collections import Counter

import numpy as np
import pytest

from detcheck.judge.conditions import judge
from detcheck.judge.variants import NAMED, POINTS, along, letters
from detcheck.outcomes import outcome
from detcheck.records import Case, Condition, Observation

CASE = Case("judge", "m", "user", "", "0")


def made(tokens, logprobs=None, text=""):
    return outcome(
        np.asarray(tokens, np.int64),
        logprobs=None if logprobs is None else np.asarray(logprobs, np.float32),
        text=text,
    )


def judged(samples):
    """samples: (condition, outcome) in order, each in a batch of its own."""
    seen = [
        Observation(CASE, Condition(name, 1 + n % 3, 0), n, n, 0, one.id, (1 + n % 3,))
        for n, (name, one) in enumerate(samples)
    ]
    (finding,) = judge([CASE], None, seen, {one.id: one for _, one in samples})
    return finding


USUAL = made([1, 2, 3, 4], [-1, -1, -1, -1], "a b c d")
BITS = made([1, 2, 3, 4], [-1, -1.5, -1, -1], "a b c d")
OTHER = made([1, 2, 7], [-1, -1, -2], "a b x")


def test_names_say_which_have_equal_tokens():
    finding = judged([("alone", USUAL)] * 3 + [("batch-2", BITS)] * 2 + [("batch-2", OTHER)])
    assert [(v.name, v.group, v.samples, v.leaves, v.leaves_bits, v.text) for v in finding.variants] == [
        ("A1", 0, 3, None, None, "a b c d"),
        ("A2", 0, 2, None, 1, "a b c d"),
        ("B", 1, 1, 2, 2, "a b x"),
    ]
    assert finding.evidence["outcomes"]["conditions"] == {"alone": {"A1": 3}, "batch-2": {"A2": 2, "B": 1}}
    assert finding.evidence["outcomes"]["others"] == 0


def test_the_first_name_is_the_mode_that_the_figures_are_of():
    """Of equally common sequences too."""
    finding = judged([("alone", OTHER), ("alone", USUAL)])
    assert finding.variants[0].text == finding.mode_text and finding.variants[0].leaves is None
    leaving = Counter(v.leaves for v in finding.variants if v.leaves is not None)
    assert tuple(sorted(leaving.items())) == finding.histogram


def test_bits_are_told_from_those_of_the_first_name():
    """Also where another outcome came more often than each of the several bits of the most common tokens."""
    finding = judged([("alone", USUAL)] * 2 + [("alone", BITS)] * 2 + [("batch-2", OTHER)] * 3)
    first, second, other = finding.variants
    assert (first.name, first.leaves_bits, second.leaves_bits) == ("A1", None, 1)
    assert other.leaves == 2 and other.leaves_bits in (1, 2)  # of equally common bits the first by its hash is A1


def test_of_ten_thousand_outcomes_the_rest_are_counted():
    samples = [("alone", USUAL)] * 2 + [("batch-2", made([1, n], [-1, -1])) for n in range(9_999)]
    finding = judged(samples)
    found = finding.evidence["outcomes"]
    assert len(finding.variants) == len(found["named"]) == NAMED and found["others"] == 10_000 - NAMED
    assert found["conditions"]["batch-2"]["others"] == 9_999 - (NAMED - 1)
    assert sum(sum(n.values()) for n in found["conditions"].values()) == finding.samples


@pytest.mark.parametrize(("n", "name"), [(0, "A"), (25, "Z"), (26, "AA"), (51, "AZ"), (52, "BA")])
def test_letters(n, name):
    assert letters(n) == name


def test_differences_are_of_shared_tokens_only():
    """OTHER has token 7 where the mode has 3: how likely it was is no difference of the same thing."""
    known = {o.id: o for o in (USUAL, BITS, OTHER)}
    found = along(Counter({USUAL.id: 4, BITS.id: 2, OTHER.id: 1}), known)["along"]
    assert found == [[0, 0.0, 0.0, 3], [1, pytest.approx(1 / 3), 0.5, 3], [2, 0.0, 0.0, 2], [3, 0.0, 0.0, 2]]
    assert along(Counter({USUAL.id: 4}), known) == {}
    assert along(Counter({USUAL.id: 4, OTHER.id: 1}), known) == {}


def test_a_long_curve_has_few_points_and_loses_no_peak():
    tokens, usual = list(range(1000)), [-1.0] * 1000
    peak = usual.copy()
    peak[777] = -3.0
    known = {o.id: o for o in (made(tokens, usual), made(tokens, peak))}
    a, b = known
    found = along(Counter({a: 2, b: 1}), known)["along"]
    assert len(found) <= POINTS
    (place,) = [n for n, (_, _, largest, _) in enumerate(found) if largest]
    assert found[place][0] <= 777 < found[place + 1][0] and found[place][2] == 2.0


def test_what_no_number_is_is_no_distance():
    known = {o.id: o for o in (made([1, 2], [-1, np.nan]), made([1, 2], [-1.25, -np.inf]))}
    a, b = known
    assert along(Counter({a: 2, b: 1}), known)["along"] == [[0, 0.25, 0.25, 1], [1, 0.0, 0.0, 1]]
