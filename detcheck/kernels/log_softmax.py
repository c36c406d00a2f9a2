"""Logarithm of the softmax over the last axis: what samplers and trainers compare.

Batch-invariant because a row's maximum and sum are computed from that row alone, in an order that its length decides
(`_cpu/rowwise.cpp` states it); the logarithm of the sum is taken in float64.

It is x less its logsumexp, which is rounded to float32 before. Trainers take one element less the logsumexp, samplers the log-softmax of all,
losses the cross entropy: with one definition all have the same bits. What it costs: a log-probability is as exact as the logits are large
(half a unit in the last place of the logsumexp), so that of a token that is all but certain is 0.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from detcheck.kernels._shared import float64, gradients
from detcheck.kernels._shared.rowwise import along, make_rows, reduced, rowwise
from detcheck.kernels._shared.unreadable import LOGARITHM_OF_A_SUM
from detcheck.kernels.elementwise import unary
from detcheck.op import Op

if TYPE_CHECKING:
    import torch


def stock(x: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.log_softmax(x, -1)


def log_softmax(x: torch.Tensor) -> torch.Tensor:
    """x[..., n] -> [..., n]. Sums in float64."""
    return rowwise("log_softmax", x, torch_row=stock)


def logsumexp(x: torch.Tensor) -> torch.Tensor:
    """x[..., n] -> [..., 1]. Sums in float64."""
    import torch

    if float64.takes(x):
        exp, log = (unary(name) if x.is_cpu else getattr(torch, name) for name in ("exp", "log"))
        most = x.amax(-1, keepdim=True) if x.shape[-1] else x.new_zeros(*x.shape[:-1], 1)
        most = most.masked_fill(most.isinf(), 0.0)
        return log(float64.added(exp(x - most))) + most
    return rowwise("logsumexp", x, torch_row=lambda row: row.logsumexp(-1, keepdim=True), columns_out=1)


def reference(x: torch.Tensor) -> torch.Tensor:
    return stock(x.double())


TRITON = ("detcheck.kernels._triton.rowwise:softmax_kernel",)
OP = Op(
    "log_softmax", ("67", "1024"), make_rows, stock, reference, log_softmax, devices=("cpu", "cuda"), triton=TRITON, order=LOGARITHM_OF_A_SUM,
    aten={
        "_log_softmax": lambda x, dim, half_to_float: along(log_softmax, x, dim, half_to_float),
        "_log_softmax_backward_data": gradients.softmax("log_softmax"),
        "logsumexp": functools.partial(reduced, logsumexp),
    },
)  # fmt: skip
