"""A model that overflowed gives the same NaN everywhere: that is no pass."""

import numpy as np
import pytest

from detcheck.judge import nan
from detcheck.outcomes import outcome

NAN = np.full(3, np.nan, np.float32)
TOKENS = np.arange(3)


def tensor(values):
    return outcome(values.view(np.uint32).astype(np.int64), unit="element", dtype="float32")


@pytest.mark.parametrize("made", [tensor(NAN), outcome(TOKENS, logprobs=NAN)], ids=["tensor", "log-probabilities"])
def test_nothing_but_nan_is_nothing(made):
    assert nan.doubt(nan.seen([made])).startswith("each number is NaN, so nothing was compared")


def test_one_number_is_enough_and_tokens_alone_have_none():
    some = np.array([np.nan, 1, np.nan], np.float32)
    for sound in (
        [tensor(some)],
        [tensor(NAN), tensor(some)],
        [outcome(TOKENS)],
        [outcome(TOKENS[:0], logprobs=NAN[:0])],
        [],
    ):
        assert nan.seen(sound) == {} and not nan.doubt(nan.seen(sound))
