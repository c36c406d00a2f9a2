"""How far a row is from itself alone, by what was done to it, on observations that we wrote."""

from collections import Counter

import numpy as np
import pytest

from detcheck.judge.apart import apart
from detcheck.judge.aspects import varies_with
from detcheck.judge.tally import Tally
from detcheck.outcomes import Earlier, outcome, row_outcome
from detcheck.records import Condition


def row(*numbers):
    return row_outcome(np.asarray(numbers, np.float32).view(np.int32), "float32")


ALONE = row(10.0, 1.0)
LAST_DIGIT = row(10.0, np.float32(1.0).__add__(np.float32(2e-7)))
FAR = row(10.0, 3.0)
NONE = row(10.0, float("nan"))


def told(dtype="float32", alone=ALONE, **found):
    """Evidence on rows by condition: batch, mixed, ragged, padded."""
    names = {"batch": "batch-4", "mixed": "mixed-4", "ragged": "ragged-4", "padded": "padded-33"}
    tally, outcomes = Tally(), {alone.id: alone}
    conditions = tally.by_process[0]
    conditions[Condition("alone", 1, 0, "a", 1)] = Counter({alone.id: 2})
    for kind, made in found.items():
        fed = "padding" if kind == "padded" else ""
        conditions[Condition(names[kind], 1 if fed else 4, 0, kind, 1, fed)] = Counter({made.id: 2})
        outcomes[made.id] = made
    return apart(tally, outcomes, dtype)


@pytest.mark.parametrize(
    ("found", "beyond"),
    [
        ({"batch": LAST_DIGIT, "padded": LAST_DIGIT}, []),
        ({"batch": LAST_DIGIT, "padded": FAR}, ["padding"]),
        ({"batch": ALONE, "ragged": FAR, "padded": ALONE}, ["unequal lengths"]),
        ({"batch": FAR, "padded": FAR}, ["batches"]),  # padding does no more than the batch
        ({"batch": ALONE, "mixed": FAR}, ["neighbours"]),
        ({"batch": FAR, "mixed": FAR}, ["batches"]),
        ({"batch": FAR, "mixed": LAST_DIGIT}, ["batches", "neighbours"]),
        ({"batch": ALONE, "mixed": LAST_DIGIT}, []),
    ],
)
def test_what_rounding_does_not_explain(found, beyond):
    assert told(**found)["beyond_rounding"] == beyond


def test_it_says_how_far_and_of_what():
    found = told(batch=ALONE, padded=FAR, mixed=NONE)
    assert found["apart"] == {"batches": 0.0, "padding": 2.0} and found["largest"] == 10.0  # a NaN is no distance
    assert (
        told("bfloat16", batch=ALONE, padded=row(10.0, 1.5))["beyond_rounding"] == []
    )  # of so few digits it may be rounding
    assert told("", batch=ALONE, padded=FAR)["beyond_rounding"] == []  # nobody knows how many digits there are


def test_where_nothing_can_be_said_nothing_is():
    assert told(batch=ALONE) == {}
    tally = Tally()
    tally.by_process[0][Condition("batch-4", 4, 0, "b", 1)] = Counter({FAR.id: 2})
    assert apart(tally, {FAR.id: FAR}, "float32") == {}


def test_of_completions_the_tokens_before_the_fork_count():
    def completion(tokens, *logprobs):
        return outcome(np.asarray(tokens), logprobs=np.asarray(logprobs, np.float32), finish_reason="length")

    alone, other = completion([5, 6, 7], -1.0, -1.0, -1.0), completion([5, 6, 8], -1.0, -1.5, -9.0)
    found = told(alone=alone, batch=alone, padded=other)
    assert found["apart"] == {"batches": 0.0, "padding": 0.5} and found["beyond_rounding"] == ["padding"]
    assert told(alone=alone, batch=other)["beyond_rounding"] == []  # from token to token rounding grows


def test_positions_before_the_last_count():
    def logits(far):
        bits = np.asarray([10.0, 1.0], np.float32).view(np.int32)
        return row_outcome(
            bits, "float32", Earlier(np.asarray([far != 0, 0]), np.asarray([[9.0 * far, 0.0], [far, 0.0]]))
        )

    found = told(alone=logits(0.0), batch=logits(0.0), padded=logits(3.0))
    assert found["apart"] == {"batches": 0.0, "padding": 3.0} and found["beyond_rounding"] == ["padding"]


@pytest.mark.parametrize(
    ("first", "second", "trace", "neighbours"),
    [
        ("batch-4", "mixed-4", "", True),
        ("rows-4", "hostile-4", "", True),
        ("batch-4", "ragged-4", "", False),  # of other lengths
        ("wave-4", "staggered-4", "t", False),  # of other lengths or times: an engine's own batches
        ("wave-4", "edges-4", "t", False),
    ],
)
def test_neighbours_are_named_only_where_nothing_else_changed(first, second, trace, neighbours):
    tally = Tally()
    for name, made in (("alone", ALONE), (first, ALONE), (second, FAR)):
        size = 1 if name == "alone" else 4
        condition = Condition(name, size, 0, name, 1, "", trace and f"{trace} {name}")
        tally.by_process[0][condition] = Counter({made.id: 2})
    assert ("neighbours" in varies_with(tally)) == neighbours and varies_with(tally)
