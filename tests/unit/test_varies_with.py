"""What bits depend on: an aspect is named only where it took several values, and nothing else did."""

from collections import Counter

import pytest

from detcheck.judge.aspects import varies_with
from detcheck.judge.tally import Tally
from detcheck.records import Condition


def told(**conditions):
    """Outcome by condition, each seen twice: "NAME" -> (outcome, fields of the condition)."""
    tally = Tally()
    for outcome, made in conditions.values():
        tally.by_process[0][made] = Counter({outcome: 2})
    return varies_with(tally)


LONE = Condition("alone", 1, 0, "mine")


def test_a_cold_answer_that_differs_depends_on_the_cache_alone():
    """All else is as in a lone request."""
    assert told(cold=("a", Condition("cold", 1, 0, "mine")), alone=("b", LONE)) == ["cache"]
    assert told(cold=("a", Condition("cold", 1, 0, "mine")), alone=("a", LONE)) == []
    wide = Condition("wave-4", 4, 0, "four")
    assert told(cold=("a", Condition("cold", 1, 0, "mine")), alone=("b", LONE), wide=("b", wide)) == ["cache"]


@pytest.mark.parametrize(
    ("other", "aspects"),
    [
        (Condition("batch-4", 4, 0, "four"), ["batch"]),
        (Condition("alone", 1, 0, "mine", threads=2), ["threads"]),
        (Condition("alone", 1, 1, "mine"), ["slot"]),
        (Condition("cached-1", 1, 0, "mine", fed="cache"), ["cache"]),
        (Condition("prefill", 1, 0, "mine", fed="prefill"), ["prefill"]),
        (Condition("wave-4", 1, 0, "mine", trace="steps"), ["batch"]),
    ],
)
def test_the_one_aspect_that_changed_is_named(other, aspects):
    assert told(alone=("a", LONE), other=("b", other)) == aspects
