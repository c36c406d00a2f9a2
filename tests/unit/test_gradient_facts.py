"""Gradients that are no numbers are equal by bits too, and say nothing."""

import numpy as np
import pytest

from detcheck.judge import gradients
from detcheck.judge.conditions import judge
from detcheck.records import Case, Condition, Observation, Outcome
from detcheck.verdict import Verdict


def of(*numbers, names=("lm_head.weight",)):
    bits = np.asarray(numbers, np.float32).view(np.uint32).astype(np.int64)
    return Outcome("a", bits, dtype="float32", names=names, positions=np.zeros(len(names), np.int64))


@pytest.mark.parametrize("numbers", [(np.nan, np.nan), (np.inf, 0.0), (0.0, -0.0)])
def test_gradients_without_a_number_are_doubted(numbers):
    assert "is finite and not zero" in " ".join(gradients.doubts([of(*numbers)]))


def test_gradients_with_a_number_and_what_is_none_are_not():
    assert not [*gradients.doubts([of(np.nan, 0.5)])]
    assert not [*gradients.doubts([of(np.nan, names=())])]
    assert not [*gradients.doubts([])]


@pytest.mark.parametrize(
    ("number", "verdict"), [(np.nan, Verdict.INCONCLUSIVE), (0.0, Verdict.INCONCLUSIVE), (0.5, Verdict.IDENTICAL)]
)
def test_equal_gradients_are_a_pass_where_they_are_numbers(number, verdict):
    case, found = Case("batch", "m", "stock", "float32", "0"), of(number)
    observations = [
        Observation(case, Condition(f"batch-{n}", n, 0, f"rows-{n}"), 0, n, 0, "a", (n,)) for n in (1, 2, 4)
    ]
    (finding,) = judge([case], None, observations, {"a": found})
    assert finding.verdict is verdict, finding.note
