"""Calls `_cpu/rowwise.cpp`, on a GPU `_triton/norm.py`: rows less their mean, by their standard deviation. On a CPU without a compiler,
torch a row at a time."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.kernels._shared.rowwise import dense_rows
from detcheck.kernels._triton import launch
from detcheck.op import dtype_code

if TYPE_CHECKING:
    import torch

    Normed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def norm(
    op: str, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, groups: int, eps: float
) -> Normed:
    """x[N, C, n], each of N * groups rows of C / groups channels by itself; weight and bias [C] -> (like x, mean and 1 / std [N, groups]).

    The latter are float32. Raises ValueError for shapes, dtypes and devices that it cannot take.
    """
    import torch

    code = dtype_code(op, x, weight, bias)
    batch, channels, span = x.shape
    if channels % groups or any(t is not None and t.shape != (channels,) for t in (weight, bias)):
        given = [tuple(t.shape) for t in (x, weight, bias) if t is not None]
        raise ValueError(
            f"{op} needs x[N, C, n], C of whole groups of {groups}, and weight[C], bias[C]; got {', '.join(map(str, given))}"
        )
    rows, width = batch * groups, channels // groups * span
    x = dense_rows(x.reshape(rows, width))
    weight, bias = (None if t is None else t.contiguous() for t in (weight, bias))
    if x.is_cuda:
        launch.need()
        from detcheck.kernels._triton import norm as triton_norm

        out, mean, scale = triton_norm.norm(x, weight, bias, span, groups, eps)
    else:
        out, mean, scale = (
            torch.empty(rows, n, dtype=d) for n, d in ((width, x.dtype), (1, torch.float), (1, torch.float))
        )
        if build.available():
            made = (t.data_ptr() for t in (out, mean, scale))
            affine = (None if t is None else t.data_ptr() for t in (weight, bias))
            sizes = (rows, width, span, groups, eps, torch.get_num_threads())
            build.function("norm", "ippppippiiiidi", "rowwise")(code, *made, x.data_ptr(), x.stride(0), *affine, *sizes)
        else:
            for i, row in enumerate(x):
                part = slice(i % groups * (channels // groups), (i % groups + 1) * (channels // groups))
                own = (None if t is None else t[part].clone() for t in (weight, bias))
                given = torch.native_group_norm(
                    row.clone().view(1, -1, span), *own, 1, channels // groups, span, 1, eps
                )
                out[i], mean[i], scale[i] = (t.view(-1) for t in given)
    return out.view(batch, channels, span), mean.view(batch, groups), scale.view(batch, groups)


def carried(
    op: str, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, groups: int, eps: float
) -> Normed:
    """As aten has it: parameters may be wider than x (then so is everything on the way), and what is carried to the backward pass has
    their dtype on a CPU, float32 on a GPU."""
    import torch

    wider = functools.reduce(torch.promote_types, (t.dtype for t in (x, weight, bias) if t is not None))
    out, mean, scale = norm(op, x.to(wider), weight, bias, groups, eps)
    kept = mean.dtype if x.is_cuda else wider
    return out.to(x.dtype), mean.to(kept), scale.to(kept)
