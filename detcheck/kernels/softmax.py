"""Softmax over the last axis.

Batch-invariant because a row's maximum, sum and quotients are computed from that row alone, in an order that its length
decides (`_cpu/rowwise.cpp` states it). exp is ours, so that every lane and every tail computes the same function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._shared import gradients
from detcheck.kernels._shared.rowwise import along, make_rows, rowwise
from detcheck.kernels._shared.unreadable import SUM_OF_EXPONENTIALS
from detcheck.op import Op

if TYPE_CHECKING:
    import torch


def stock(x: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.softmax(x, -1)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """x[..., n] -> [..., n], each row summing to 1. Sums in float64."""
    return rowwise("softmax", x, torch_row=stock)


def reference(x: torch.Tensor) -> torch.Tensor:
    return stock(x.double())


TRITON = ("detcheck.kernels._triton.rowwise:softmax_kernel",)
OP = Op(
    "softmax", ("67", "1024"), make_rows, stock, reference, softmax, devices=("cpu", "cuda"), triton=TRITON, order=SUM_OF_EXPONENTIALS,
    aten={
        "_softmax": lambda x, dim, half_to_float: along(softmax, x, dim, half_to_float),
        "_softmax_backward_data": gradients.softmax("softmax"),
    },
)  # fmt: skip
