"""`assert_deterministic`: the same call, again and again. Whatever is returned, bits are compared, and the place is named."""

import itertools
import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import detcheck

Pair = namedtuple("Pair", "a b")


@dataclass
class Scored:
    logits: object
    text: str = "same"


def from_third(usual, other):
    """A function that returns something else from its third call on."""
    calls = itertools.count()

    def function():
        return usual if next(calls) < 2 else other

    return function


NAN, OTHER_NAN = (np.array([bits], np.uint32).view(np.float32) for bits in (0x7FC00000, 0x7FC00001))
SAME = [
    torch.ones(2, 3), torch.tensor(2.5), torch.zeros(2, dtype=torch.bfloat16), torch.tensor([1 + 2j]), torch.eye(3).to_sparse(), np.ones(3), np.float32(1),
    np.array(["a", "b"]), NAN, "text", b"bytes", 7, True, 1.5, 1j, float("nan"), [1, (2, {"k": 3})], {"a", "b"}, Scored(torch.ones(2)), Pair(1, "x"),
    OrderedDict(logits=torch.ones(1)), np.array([1, "x", None], object), torch.ones(2, dtype=torch.float8_e4m3fn), ["\ud800"],
]  # fmt: skip


@pytest.mark.parametrize("value", SAME, ids=lambda v: type(v).__name__)
def test_equal_bits_pass(value):
    detcheck.assert_deterministic(lambda: value, trials=3)


@pytest.mark.parametrize(
    ("usual", "other", "says"),
    [
        (torch.ones(2, 3), torch.ones(2, 3).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(1 + 2**-23)),
         r"result: 1 of 6 elements differ, the first is \[1, 2\]: 1.0 and 1.0000001\d*, up to 1 ulp apart\."),
        (torch.tensor([0.0]), torch.tensor([-0.0]), r"the first is \[0\]: 0.0 and -0.0"),
        (NAN, OTHER_NAN, r"result: 1 of 1 elements differ, the first is \[0\]: nan and nan\."),
        (torch.zeros(2, dtype=torch.bfloat16), torch.tensor([0, 1], dtype=torch.bfloat16), r"\[1\]: 0.0 and 1.0, up to \d+ ulp"),
        (torch.zeros(1, dtype=torch.float8_e4m3fn), torch.ones(1, dtype=torch.float8_e4m3fn), r"\[0\]: 0x00 and 0x38\."),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), r"\[1\]: 2 and 3\."),
        (torch.ones(2), torch.ones(3), r"result: a float32 tensor \(2,\) in the one, and result a float32 tensor \(3,\) in the other"),
        (torch.ones(2), torch.ones(2).double(), "a float64 tensor"),
        (1, 1.0, "result: an int in the one, and result a float"),
        (1.5, 1.25, "the first is the number itself: 1.5 and 1.25"),
        ("the Queens borough", "the Queen city", r"first character that differs is 9: 'the Queens borough' and 'the Queen city'"),
        ([1, (2, {"k": 3})], [1, (2, {"k": 4})], r"result\[1\]\[1\]\['k'\]: the first character that differs is 0: '3' and '4'"),
        ([1], [1, 2], "list of 1 in the one, and result a list of 2"),
        ({"a": 1}, {"b": 1}, r"dict of \['a'\]"),
        ({"a"}, {"b"}, "result: the first character"),
        ({torch.tensor(1.3)}, {torch.tensor(1.3 + 2**-20)}, "result: the first character"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), np.ma.array([1.0, 2.0], mask=[1, 0]), r"result\.mask: 2 of 2 elements differ"),
        (Scored(torch.ones(1)), Scored(torch.ones(1), "other"), r"result\.text: the first character that differs is 0: 'same' and 'other'"),
        (Pair(1, "x"), Pair(1, "y"), r"result\[1\]"),
        (None, 1, "a NoneType|a None in the one"),
    ],
)  # fmt: skip
def test_other_bits_are_named_with_their_place(usual, other, says):
    with pytest.raises(AssertionError, match=says) as raised:
        detcheck.assert_deterministic(from_third(usual, other), trials=5)
    text = str(raised.value)
    assert text.startswith("function is not deterministic: call 2 returned other bits than call 0.")
    assert "5 calls gave 2 different results; the most common came in 3 of them." in text
    assert "What to do: look for atomic additions" in text


def draws_of_torch():
    return torch.rand(2)


def draws_of_python():
    import random

    return random.random()


def draws_of_numpy():
    return np.random.rand(2)


def seeded():
    torch.manual_seed(0)
    return torch.rand(2)


@pytest.mark.parametrize(
    ("function", "whose"), [(draws_of_torch, "torch"), (draws_of_numpy, "numpy"), (draws_of_python, "Python")]
)
def test_random_numbers_are_the_reason(function, whose):
    with pytest.raises(
        AssertionError,
        match=f"It drew from the random numbers of {whose}. What to do: seed them inside {function.__name__}",
    ):
        detcheck.assert_deterministic(function)
    detcheck.assert_deterministic(seeded)


def test_each_call_has_arguments_of_its_own():
    def in_place(x, more, scale=1):
        more["weights"][0].mul_(2)
        return x.add_(1) * more["weights"][0] * scale

    x, weights = np.zeros(3), torch.ones(3)
    detcheck.assert_deterministic(in_place, torch.zeros(3), {"weights": [weights]}, scale=torch.tensor(2.0))
    detcheck.assert_deterministic(lambda a: a.__iadd__(1), x)
    assert weights.tolist() == [1, 1, 1] and x.tolist() == [0, 0, 0]


@pytest.mark.parametrize("nothing", [None, "", [], {}, torch.ones(0, 3), [None, {}]])
def test_nothing_is_no_pass(nothing):
    with pytest.raises(AssertionError, match="returned nothing that could be compared"):
        detcheck.assert_deterministic(lambda: nothing)


def test_what_cannot_be_asked():
    with pytest.raises(ValueError, match="at least 2 trials; got 1"):
        detcheck.assert_deterministic(str, trials=1)
    with pytest.raises(TypeError, match=r"returned an object at \[0\], whose bits are not known"):
        detcheck.assert_deterministic(lambda: [object()])
    with pytest.raises(TypeError, match="returned an object, whose bits"):
        detcheck.assert_deterministic(lambda: {object()})
    with pytest.raises(TypeError, match="returned a ndarray, whose bits"):  # its bytes are addresses
        detcheck.assert_deterministic(lambda: np.array([(1, "x")], [("n", int), ("o", object)]))
    with pytest.raises(TypeError, match="returned a generator, whose bits are not known; collect it into a list first"):
        detcheck.assert_deterministic(lambda: (n for n in range(3)))


def test_it_needs_no_torch():
    code = "import sys, detcheck; detcheck.assert_deterministic(sorted, [3, 1]); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
