"""Mean over the last axis.

Batch-invariant because a row is summed by itself, in an order that its length decides (`_cpu/rowwise.cpp` states it).
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
    return x.mean(-1, keepdim=True)


def mean(x: torch.Tensor) -> torch.Tensor:
    """x[..., n] -> [..., 1]. Sums in float64."""
    if float64.takes(x):
        return float64.added(x) / x.shape[-1]
    return rowwise("mean", x, torch_row=stock, columns_out=1)


def reference(x: torch.Tensor) -> torch.Tensor:
    return stock(x.double())


TRITON = ("detcheck.kernels._triton.rowwise:mean_kernel",)
OP = Op(
    "mean",
    ("67", "1024"),
    make_rows,
    stock,
    reference,
    mean,
    devices=("cpu", "cuda"),
    triton=TRITON,
    order="sum",
    aten={"mean.dim": functools.partial(reduced, mean)},
)
