"""The same check as a test. Run it with `pytest` in this folder."""

import my_kernels
import pytest
import torch

import detcheck

INPUTS = my_kernels.make_inputs(16, torch.float32, 0)


def test_norm_is_batch_invariant():
    detcheck.assert_batch_invariant(my_kernels.norm, INPUTS)


def test_split_sum_is_not():
    with pytest.raises(AssertionError, match="rows"):
        detcheck.assert_batch_invariant(my_kernels.split_sum, INPUTS)


def test_a_model_in_the_block_is():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    with detcheck.batch_invariant() as coverage:
        detcheck.assert_batch_invariant(lambda x: torch.nn.functional.linear(x, weight), INPUTS[:1])
    assert coverage.overridden["aten::mm"]
