"""A condition in which nothing was computed again is not one that was met."""

import numpy as np

from detcheck.engine import Completion, Decoded
from detcheck.harness.lone import prefilled

ONE = Completion((7,), np.zeros(1, np.float32), np.zeros(1, np.float32), (3,), "length")


def test_of_a_single_token_nothing_is_computed_again():
    found = prefilled(None, None, lambda: Decoded({0: ONE}, (1,)))
    assert not found.completions and found.missing[0].startswith("a single token was made")
