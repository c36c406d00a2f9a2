"""Norms that take a mean off first, on a GPU: layer norm, group norm.

Batch-invariant because one program takes one whole row, twice: its mean, then the squares of what the mean leaves. Each time it goes
through the row in steps of BLOCK columns, each lane adding up its own, and adds the lanes up once at the end: an order that the row's
length alone decides, as in `rowwise`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from detcheck.kernels._triton.launch import Declared, fit, on_its_device, strides, type_of, unit
from detcheck.kernels._triton.rowwise import COLUMNS, tile
from detcheck.op import Signature

if TYPE_CHECKING:
    import torch


@triton.jit(do_not_specialize=["x_m", "out_m"])
def norm_kernel(
    x, weight, bias, out, means, scales, N, eps, x_m, out_m, GROUPS: tl.constexpr, SPAN: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Element i of row m has the weight and the bias of channel m % GROUPS * (N // SPAN) + i // SPAN."""
    row = tl.program_id(0).to(tl.int64)
    x += row * x_m * UNIT
    out += row * out_m * UNIT
    sums = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        sums += tl.load(x + column, mask=column < N, other=0.0).to(tl.float32)
    mean = tl.sum(sums, 0) / N
    squares = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        v = tl.load(x + column, mask=column < N, other=0.0).to(tl.float32)
        v = tl.where(column < N, v - mean, 0.0)
        squares += v * v
    scale = tl.rsqrt(tl.sum(squares, 0) / N + eps)
    tl.store(means + row, mean)
    tl.store(scales + row, scale)
    first = row % GROUPS * (N // SPAN)
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        v = tl.load(x + column, mask=column < N, other=0.0).to(tl.float32)
        w = tl.load(weight + first + column // SPAN, mask=column < N, other=0.0).to(tl.float32)
        b = tl.load(bias + first + column // SPAN, mask=column < N, other=0.0).to(tl.float32)
        tl.store(out + column, ((v - mean) * scale * w + b).to(out.dtype.element_ty), mask=column < N)


@on_its_device
def norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, span: int, groups: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x[M, n] -> (like x, mean[M, 1], 1 / std[M, 1]); `_shared/norm.norm` has checked."""
    import torch

    rows, n = x.shape
    out = torch.empty(rows, n, dtype=x.dtype, device=x.device)
    mean, scale = (torch.full((rows, 1), float("nan"), dtype=torch.float32, device=x.device) for _ in range(2))
    if not rows or not n:
        return out, mean, scale
    step, channels = unit(n, type_of(x)), n // span * groups
    weight = fit(x.new_ones(channels) if weight is None else weight, 1)
    bias = fit(x.new_zeros(channels) if bias is None else bias, 1)
    x, chosen = fit(x, step), tile(n)
    norm_kernel[(rows,)](
        x, weight, bias, out, mean, scale, n, eps, *strides(x, step), *strides(out, step),
        GROUPS=groups, SPAN=span, UNIT=step, **chosen.sizes, **chosen.options,
    )  # fmt: skip
    return out, mean, scale


def _signature(dtype: str, target: str) -> Signature:
    chosen = tile(COLUMNS)
    pointers = ("x", "weight", "bias", "out")
    return Signature(
        arguments={
            **dict.fromkeys(pointers, "*T"), "means": "*fp32", "scales": "*fp32", "N": "i32", "eps": "fp32", "x_m": "i32", "out_m": "i32",
        },
        constexprs={"GROUPS": (1, 32), "SPAN": (1, 64), "UNIT": unit(COLUMNS, dtype), **chosen.sizes},
        batch=("x_m", "out_m"),
        reduction=("N",),
        batch_axes=(0,),
        aligned=(*pointers, "means", "scales"),
        options=chosen.options,
        dtypes=("bf16", "fp16", "fp32"),
    )  # fmt: skip


DETCHECK: Declared = {"norm_kernel": _signature}
