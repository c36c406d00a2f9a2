"""Mean over the last axis.

Batch-invariant because a row is summed by itself, in an order that its length decides (`_cpu/rowwise.cpp` states it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._shared.rowwise import make_rows, rowwise
from detcheck.op import Op

if TYPE_CHECKING:
    import torch


def stock(x: torch.Tensor) -> torch.Tensor:
    return x.mean(-1, keepdim=True)


def mean(x: torch.Tensor) -> torch.Tensor:
    """x[..., n] -> [..., 1]. Sums in float64."""
    return rowwise("mean", x, torch_row=stock, columns_out=1)


def reference(x: torch.Tensor) -> torch.Tensor:
    return stock(x.double())


def mean_of(
    x: torch.Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    x = x if dtype is None else x.to(dtype)
    dims = sorted(d % x.ndim for d in dim) if dim else list(range(x.ndim))
    rest = [d for d in range(x.ndim) if d not in dims]
    flat = x.permute(*rest, *dims).reshape(*(x.shape[d] for d in rest), -1)
    result = mean(flat)[..., 0]
    return result.view([1 if d in dims else x.shape[d] for d in range(x.ndim)]) if keepdim else result


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
    aten={"mean.dim": mean_of},
)
