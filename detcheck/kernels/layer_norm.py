"""LayerNorm over the last axis, or over several.

Batch-invariant because a row's mean, and then the squares of what the mean leaves, are summed by themselves in an order that the row's
length decides (`_cpu/rowwise.cpp` states it). On a GPU the backward pass is stock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detcheck.kernels._shared import gradients, norm
from detcheck.kernels._shared.rowwise import make_rows
from detcheck.kernels._shared.unreadable import SQUARES_BEHIND_A_MEAN
from detcheck.op import Op

if TYPE_CHECKING:
    import torch

EPS = 1e-5


def stock(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float = EPS) -> torch.Tensor:
    import torch

    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float = EPS
) -> torch.Tensor:
    """(x[..., n] - mean) / sqrt(variance + eps) * weight[n] + bias[n]. On a CPU in float64, with one rounding."""
    return norm.norm("layer_norm", rows(x, math.prod(x.shape[:-1]), x.shape[-1]), weight, bias, 1, eps)[0].view(x.shape)


def rows(x: torch.Tensor, count: int, length: int) -> torch.Tensor:
    return x.reshape(count, length, 1)


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return stock(x.double(), weight.double(), bias.double())


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """shape "N": x[rows, N], weight[N], bias[N]."""
    (x,) = make_rows(shape, rows, dtype, seed)
    weight, bias = (each[0] for each in make_rows(shape, 1, dtype, seed + 7, operands=2))
    return x, weight, bias


def native(
    x: torch.Tensor, shape: Sequence[int], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, ...]:
    flat = (None if t is None else t.reshape(-1) for t in (weight, bias))
    kept = [*x.shape[: x.ndim - len(shape)], *(1 for _ in shape)]
    out, mean, scale = norm.carried("layer_norm", rows(x, math.prod(kept), math.prod(shape)), *flat, 1, eps)
    return out.view(x.shape), mean.view(kept), scale.view(kept)


TRITON = ("detcheck.kernels._triton.norm:norm_kernel",)
OP = Op(
    "layer_norm", ("67", "1024"), make, stock, reference, layer_norm,
    devices=("cpu", "cuda"), triton=TRITON, order=SQUARES_BEHIND_A_MEAN,
    aten={"native_layer_norm": native, "native_layer_norm_backward": gradients.layer_norm},
)  # fmt: skip
