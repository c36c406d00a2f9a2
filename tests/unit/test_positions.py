"""Logits at every position: what a finding says of them, from outcomes that we wrote."""

from collections import Counter

import numpy as np
import pytest

from detcheck.judge.positions import note, positions
from detcheck.judge.statistics import describe
from detcheck.outcomes import Earlier, row_outcome
from detcheck.records import Case
from detcheck.storage.baselines import prefixes, unit_of
from detcheck.storage.tables import outcome_row, read_outcome

NAN = float("nan")


def outcome(last, hashes, apart=None):
    far = np.zeros((2, len(hashes))) if apart is None else np.asarray(apart)
    return row_outcome(
        np.asarray(last, np.float32).view(np.int32), "float32", Earlier(np.asarray(hashes), far.astype(np.float32))
    )


SOUND = outcome([1.0, 2.0], [7, 8, 9])
TABLE = {  # name -> (other outcomes beside the sound one, what is found, what the note adds)
    "nothing differs": ([], {"of": 4, "differing": 0, "first": None, "last_differs": False}, ""),
    "the first": (
        [outcome([1.0, 2.0], [6, 8, 9], [[3, 0, 0], [0.5, 0, 0]])],
        {"of": 4, "differing": 1, "first": 0, "last_differs": False, "max_ulp": 3.0, "max_abs": 0.5},
        "; logits differ at 1 of the prompt's 4 positions, it is 0, and those behind the last token are equal",
    ),
    "the last alone": (
        [outcome([1.0, 2.5], [7, 8, 9])],
        {"of": 4, "differing": 1, "first": 3, "last_differs": True},
        "; logits differ at 1 of the prompt's 4 positions, it is 3",
    ),
    "several outcomes": (
        [
            outcome([1.0, 2.0], [7, 1, 9], [[0, 2, 0], [0, 0.5, 0]]),
            outcome([1.5, 2.0], [7, 8, 2], [[0, 0, 9], [0, 0, 0.25]]),
        ],
        {"of": 4, "differing": 3, "first": 1, "last_differs": True, "max_ulp": 9.0, "max_abs": 0.5},
        "; logits differ at 3 of the prompt's 4 positions, the first is 1",
    ),
    "not a number": (
        [outcome([1.0, 2.0], [7, 1, 9], [[0, NAN, 0], [0, NAN, 0]])],
        {"of": 4, "differing": 1, "first": 1, "last_differs": False},
        "; logits differ at 1 of the prompt's 4 positions, it is 1, and those behind the last token are equal",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_is_found(name):
    others, seen, said = TABLE[name]
    assert positions([SOUND, *others]) == seen
    assert note({"positions": seen}) == said


def test_without_positions_nothing_is_said_of_them():
    last = row_outcome(np.zeros(3, np.int32), "float32")
    assert positions([]) is None and positions([last]) is None and positions([SOUND, last]) is None and note({}) == ""


def test_outcomes_with_the_same_last_logits_are_distinct_and_not_latent():
    """`--fail-on tokens` forgives what is latent, and a difference at another position is none of a log-probability's bits."""
    other = TABLE["the first"][0][0]
    found = describe(
        Case("batch", "m", "stock", "float32", "0:0"),
        Counter({SOUND.id: 3, other.id: 1}),
        Counter(),
        {o.id: o for o in (SOUND, other)},
    )
    assert (found.distinct, found.distinct_bits, found.mode_count, found.latent) == (2, 2, 3, False)


def test_a_baseline_of_the_last_position_alone_is_not_compared_with_one_of_all():
    last = row_outcome(np.asarray([1.0, 2.0], np.float32).view(np.int32), "float32")
    assert (unit_of(SOUND), unit_of(last)) == ("position", "element") and prefixes(SOUND, bits=True) == ""


def test_they_are_stored_to_the_bit_and_named_by_what_is_compared():
    far = TABLE["not a number"][0][0]
    read = read_outcome(outcome_row(far))
    assert read.id == far.id and np.array_equal(read.positions, far.positions)
    assert read.apart.tobytes() == far.apart.tobytes() and read.apart.shape == (2, 3)
    assert outcome([1.0, 2.0], [7, 8, 9], [[1, 1, 1]] * 2).id == SOUND.id  # a distance is no part of the name
    assert len({SOUND.id, far.id, row_outcome(np.asarray([1.0, 2.0], np.float32).view(np.int32), "float32").id}) == 3
