"""Sum over the last axis, or over any.

Batch-invariant because each number of the result is a sum by itself, in an order that its length decides (`_cpu/rowwise.cpp` states it):
other rows, and where in memory the numbers lie, change nothing. On a CPU zeros behind its own numbers change nothing either, as a longer
neighbour brings them where a mask is multiplied and tokens are summed. A sum over the batch itself has the batch in it, and is no row's own
result: on a CPU it takes the rows from first to last, and a row of zeros changes nothing wherever it lies (`_cpu/over_rows.cpp`), since that is
what the gradient of a bias, a norm's weight or an embedding is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detcheck.kernels._shared import float64, gradients, over_rows
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


def over(
    x: torch.Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Over any dimensions, as aten has it. Where the first is among them, and others beside it, it is a sum over rows."""
    x = x if dtype is None else x.to(dtype)
    dims = sorted(d % x.ndim for d in dim) if dim and x.ndim else list(range(x.ndim))
    if x.ndim < 2 or 0 not in dims or not x.is_cpu:
        return reduced(sum, x, dim, keepdim)
    rest = [d for d in range(x.ndim) if d not in dims]
    kept = math.prod(x.shape[d] for d in rest)
    total = over_rows.sums(x.permute(*dims, *rest).reshape(x.numel() // kept if kept else 0, kept))
    return total.view([1 if d in dims else n for d, n in enumerate(x.shape)] if keepdim else [x.shape[d] for d in rest])


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
    aten={
        "sum.dim_IntList": over,
        "embedding_dense_backward": gradients.embedding,
        "scatter_add": gradients.scatter_add,
    },
)
