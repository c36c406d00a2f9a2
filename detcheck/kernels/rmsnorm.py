"""RMSNorm over the last axis, with and without a residual that is added first.

Batch-invariant because a row's squares are summed by itself, in an order that its length decides (`_cpu/rowwise.cpp` states
it). More rows mean more rows, never a different sum.

It is rounded wherever models that write their norm out round (`written_out`), so that a model in transformers, whose norm is made of `mean`
and `elementwise`, and the same model in vLLM, whose norm is this, have the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._shared.rowwise import make_rows, rowwise
from detcheck.kernels._shared.unreadable import SUMS_OF_SQUARES
from detcheck.op import Op

if TYPE_CHECKING:
    import torch

EPS = 1e-6


def stock(x: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    import torch

    return torch.nn.functional.rms_norm(x, weight.shape[-1:], weight.view(-1), eps)


def written_out(x: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    """As transformers' Llama and Qwen have it. Gemma's has a float32 weight, and rounds to x's dtype at the end alone."""
    import torch

    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (weight * normed.to(weight.dtype)).to(x.dtype)


def rmsnorm(x: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    """x[..., n] / sqrt(mean(x**2) + eps), rounded to the dtype, * weight[n]. Sums in float64."""
    return rowwise("rmsnorm", x, weight, torch_row=lambda row, w: written_out(row, w, eps), eps=eps)


def add_rmsnorm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float = EPS
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of x + residual, and the sum itself: what a decoder layer carries on. The sum is rounded to the dtype first."""
    total = x + residual
    return rmsnorm(total, weight, eps), total


def reference(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return stock(x.double(), weight.double())


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """shape "N": x[rows, N], weight[N]."""
    (x,) = make_rows(shape, rows, dtype, seed)
    (weight,) = make_rows(shape, 1, dtype, seed + 7)
    return x, weight[0]


TRITON = ("detcheck.kernels._triton.rowwise:rmsnorm_kernel",)
OP = Op(
    "rmsnorm",
    ("67", "1024"),
    make,
    stock,
    reference,
    rmsnorm,
    devices=("cpu", "cuda"),
    roundings=2,
    triton=TRITON,
    order=SUMS_OF_SQUARES,
)
