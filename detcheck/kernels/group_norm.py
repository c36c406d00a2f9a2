"""GroupNorm: channels in groups, each group of each sample by its own mean and deviation.

Batch-invariant because a group of one sample is a row, summed by itself as LayerNorm's rows are (`_cpu/rowwise.cpp` states the order).
The backward pass is stock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._shared import norm
from detcheck.kernels._shared.rowwise import make_rows
from detcheck.kernels._shared.unreadable import SQUARES_BEHIND_A_MEAN
from detcheck.op import Op

if TYPE_CHECKING:
    import torch

EPS = 1e-5
GROUPS = 4


def stock(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, groups: int = GROUPS, eps: float = EPS
) -> torch.Tensor:
    import torch

    return torch.nn.functional.group_norm(x, groups, weight, bias, eps)


def group_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, groups: int = GROUPS, eps: float = EPS
) -> torch.Tensor:
    """x[N, C, ...], weight[C], bias[C] -> like x. On a CPU in float64, with one rounding."""
    return norm.norm("group_norm", x.flatten(2) if x.ndim > 2 else x[..., None], weight, bias, groups, eps)[0].view(
        x.shape
    )


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return stock(x.double(), weight.double(), bias.double())


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """shape "CxN": x[rows, C, N], weight[C], bias[C]; C is a multiple of GROUPS."""
    channels, length = map(int, shape.split("x"))
    (x,) = make_rows(str(channels * length), rows, dtype, seed)
    weight, bias = (each[0] for each in make_rows(str(channels), 1, dtype, seed + 7, operands=2))
    return x.view(rows, channels, length), weight, bias


def native(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    n: int,
    c: int,
    length: int,
    groups: int,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    out, mean, scale = norm.carried("group_norm", x.reshape(n, c, length), weight, bias, groups, eps)
    return out.view(x.shape), mean, scale


TRITON = ("detcheck.kernels._triton.norm:norm_kernel",)
OP = Op(
    "group_norm", ("20x7", "64x64"), make, stock, reference, group_norm,
    devices=("cpu", "cuda"), triton=TRITON, order=SQUARES_BEHIND_A_MEAN, aten={"native_group_norm": native},
)  # fmt: skip
