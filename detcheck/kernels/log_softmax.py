"""Logarithm of the softmax over the last axis: what samplers and trainers compare.

Batch-invariant because a row's maximum and sum are computed from that row alone, in an order that its length decides
(`_cpu/rowwise.cpp` states it); the logarithm of the sum is taken in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._shared import gradients
from detcheck.kernels._shared.rowwise import along, make_rows, rowwise
from detcheck.kernels._shared.unreadable import LOGARITHM_OF_A_SUM
from detcheck.op import Op

if TYPE_CHECKING:
    import torch


def stock(x: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.log_softmax(x, -1)


def log_softmax(x: torch.Tensor) -> torch.Tensor:
    """x[..., n] -> [..., n]. Sums in float64."""
    return rowwise("log_softmax", x, torch_row=stock)


def reference(x: torch.Tensor) -> torch.Tensor:
    return stock(x.double())


TRITON = ("detcheck.kernels._triton.rowwise:softmax_kernel",)
OP = Op(
    "log_softmax", ("67", "1024"), make_rows, stock, reference, log_softmax, devices=("cpu", "cuda"), triton=TRITON, order=LOGARITHM_OF_A_SUM,
    aten={
        "_log_softmax": lambda x, dim, half_to_float: along(log_softmax, x, dim, half_to_float),
        "_log_softmax_backward_data": gradients.softmax("log_softmax"),
    },
)  # fmt: skip
