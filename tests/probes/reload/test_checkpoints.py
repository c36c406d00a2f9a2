"""Weights to begin with, made of those to end with; and files that are no good, which are refused in words."""

import pytest
import torch

from detcheck.models.perturbed import turned

FLOATS = (
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e8m0fnu,
)


@pytest.mark.parametrize("dtype", FLOATS)
def test_each_finite_number_becomes_another_finite_one_and_the_rest_stays(dtype):
    """All numbers that there are."""
    kind = torch.int16 if dtype.itemsize == 2 else torch.uint8
    bits = torch.arange(1 << 8 * dtype.itemsize).to(kind)
    made = turned(bits.view(dtype))
    before, after = bits.view(dtype).double(), made.double()
    finite = before.isfinite()
    assert torch.equal(finite, after.isfinite())
    assert (made.view(kind)[finite] != bits[finite]).all() and torch.equal(made.view(kind)[~finite], bits[~finite])


def test_numbers_of_four_bits_are_turned_too():
    pairs = torch.arange(256).to(torch.uint8)
    assert torch.equal(turned(pairs.view(torch.float4_e2m1fn_x2)).view(torch.uint8), pairs ^ 1)
