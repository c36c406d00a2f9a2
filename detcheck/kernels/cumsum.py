"""Running sum over the last axis, or along any.

Batch-invariant because a row has one accumulator, in float64, that takes its numbers from first to last and is rounded for each result
(`_cpu/rowwise.cpp`). Zeros before or behind a row's own numbers change none of its results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._shared.rowwise import along, make_rows, rowwise
from detcheck.kernels._shared.unreadable import PARTIAL_SUMS
from detcheck.op import Op

if TYPE_CHECKING:
    import torch


def stock(x: torch.Tensor) -> torch.Tensor:
    return x.cumsum(-1)


def cumsum(x: torch.Tensor) -> torch.Tensor:
    """x[..., n] -> [..., n]."""
    return rowwise("cumsum", x, torch_row=stock)


def reference(x: torch.Tensor) -> torch.Tensor:
    return stock(x.double())


def cumsum_of(x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    return along(cumsum, x if dtype is None else x.to(dtype), dim, False)


OP = Op("cumsum", ("67", "1024"), make_rows, stock, reference, cumsum, order=PARTIAL_SUMS, aten={"cumsum": cumsum_of})
