"""Sum over the last axis, or over any.

Batch-invariant because each number of the result is a sum by itself, in an order that its length decides (`_cpu/rowwise.cpp` states it):
other rows, and where in memory the numbers lie, change nothing. On a CPU zeros behind its own numbers change nothing either, as a longer
neighbour brings them where a mask is multiplied and tokens are summed. A sum over the batch itself has the batch in it: its order is
fixed too, but it is no row's own result.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from detcheck.kernels._shared import float64
from detcheck.kernels._shared.rowwise import make_rows, reduced, rowwise
from detcheck.op import Op

if TYPE_CHECKING:
    import torch


def stock(x: torch.Tensor) -> torch.Tensor:
    return x.sum(-1, keepdim=True)


def sum(x: torch.Tensor) -> torch.Tensor:
    """x[..., n] -> [..., 1]. Sums in float64."""
    if float64.takes(x):
        return float64.added(x)
    return rowwise("sum", x, torch_row=stock, columns_out=1)


def reference(x: torch.Tensor) -> torch.Tensor:
    return stock(x.double())


TRITON = ("detcheck.kernels._triton.rowwise:sum_kernel",)
OP = Op(
    "sum",
    ("67", "1024"),
    make_rows,
    stock,
    reference,
    sum,
    devices=("cpu", "cuda"),
    triton=TRITON,
    order="sum",
    aten={"sum.dim_IntList": functools.partial(reduced, sum)},
)
