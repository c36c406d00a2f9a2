"""Depthwise causal convolution: each channel by its own filter, over the tokens up to this one, as state-space and hybrid models have it.

Batch-invariant because an output is a sum of as many products as the filter has taps, in their order (`_cpu/conv.cpp`): which other rows
there are, and how long they are, changes nothing. Zeros in front of a row give what its own edge gives.

In aten's place every convolution is ours: what is not depthwise, or takes larger steps, is a product of matrices, each output a dot
product by itself (`matmul`). Transposed convolutions are refused. The backward pass is stock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.kernels._shared.rowwise import make_rows
from detcheck.kernels._shared.unreadable import NEIGHBOURS
from detcheck.kernels.matmul import linear
from detcheck.op import NoKernelError, NotInvariantError, Op, dtype_code

if TYPE_CHECKING:
    import torch


def stock(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    import torch

    channels, taps = weight.shape
    return torch.nn.functional.conv1d(x, weight[:, None], bias, padding=taps - 1, groups=channels)[..., : x.shape[-1]]


def conv1d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x[M, C, L], weight[C, K], bias[C] -> [M, C, L]: output l is of places l - K + 1 to l. Sums in float64, with one rounding."""
    return depthwise(x, weight, bias, weight.shape[-1] - 1, x.shape[-1])


def depthwise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: int, outputs: int
) -> torch.Tensor:
    """x[M, C, L], weight[C, K], bias[C] -> [M, C, outputs]: output l begins `padding` before place l."""
    import torch

    if x.ndim != 3 or weight.shape[:1] != x.shape[1:2] or (bias is not None and bias.shape != weight.shape[:1]):
        given = [tuple(t.shape) for t in (x, weight, bias) if t is not None]
        raise ValueError(f"conv1d needs x[M, C, L], weight[C, K] and bias[C]; got {', '.join(map(str, given))}")
    code = dtype_code("conv1d", x, weight, bias)
    if x.is_cuda:
        raise NotInvariantError("conv1d has no batch-invariant kernel on cuda; it has on cpu")
    (rows, channels, length), taps = x.shape, weight.shape[1]
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    if not build.available():  # each step is elementwise in float64, where nothing depends on a place
        wide = torch.nn.functional.pad(x.double(), (padding, max(0, outputs + taps - 1 - length - padding)))
        out = x.new_zeros(rows, channels, outputs, dtype=torch.float64)
        for k in range(taps):
            out = out + wide[..., k : k + outputs] * weight[:, k : k + 1].double()
        return (out if bias is None else out + bias[:, None].double()).to(x.dtype)
    x = x if length < 2 or x.stride(2) == 1 else x.contiguous()
    out = torch.empty(rows, channels, outputs, dtype=x.dtype)
    sizes = (rows, channels, length, taps, padding, outputs, torch.get_num_threads())
    affine = (weight.data_ptr(), None if bias is None else bias.data_ptr())
    run = build.function("conv1d", "ippiippiiiiiii", "conv")
    run(code, out.data_ptr(), x.data_ptr(), x.stride(0), x.stride(1), *affine, *sizes)
    return out


def convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> torch.Tensor:  # fmt: skip
    """As aten has it: x[M, C, ...], weight[N, C / groups, ...]."""
    import torch

    if transposed:
        raise NoKernelError("a transposed convolution has no batch-invariant kernel")
    n, kernel = x.ndim - 2, weight.shape[2:]
    stride, padding, dilation = ([*each] * (1 if len(each) == n else n) for each in (stride, padding, dilation))
    reach = [(taps - 1) * step + 1 for taps, step in zip(kernel, dilation, strict=True)]
    wide = [size + 2 * more for size, more in zip(x.shape[2:], padding, strict=True)]
    outputs = [(size - one) // step + 1 for size, one, step in zip(wide, reach, stride, strict=True)]
    if min(outputs) < 1 or weight.shape[1] * groups != x.shape[1]:
        raise ValueError(
            f"convolution needs x[M, C, ...] no smaller than its filters [N, C / {groups}, ...]; got {tuple(x.shape)}, {tuple(weight.shape)}"
        )
    if n == 1 and groups == x.shape[1] == len(weight) and stride == dilation == [1]:
        return depthwise(x, weight[:, 0], bias, padding[0], outputs[0])
    x = torch.nn.functional.pad(x, [more for each in reversed(padding) for more in (each, each)]).contiguous()
    steps = [s * by for s, by in zip(x.stride()[2:], stride, strict=True)]
    within = [s * by for s, by in zip(x.stride()[2:], dilation, strict=True)]
    patches = x.as_strided((*x.shape[:2], *outputs, *kernel), (*x.stride()[:2], *steps, *within))
    patches = patches.movedim(1, n + 1).flatten(1, n)  # [M, places, C, *kernel]
    count, filters = math.prod(outputs), weight.flatten(1)
    made = []
    for each, own in enumerate(patches.chunk(groups, 2)):
        part = slice(each * len(weight) // groups, (each + 1) * len(weight) // groups)
        rows = own.reshape(len(x) * count, filters.shape[1])
        made.append(linear(rows, filters[part], None if bias is None else bias[part]))
    found = torch.cat(made, 1).view(len(x), count, len(weight))
    return found.transpose(1, 2).reshape(len(x), len(weight), *outputs).contiguous()


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return stock(x.double(), weight.double(), bias.double())


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """shape "CxLxK": x[rows, C, L], weight[C, K], bias[C]."""
    channels, length, taps = map(int, shape.split("x"))
    (x,) = make_rows(str(channels * length), rows, dtype, seed)
    (weight,) = make_rows(str(taps), channels, dtype, seed + 7)
    (bias,) = make_rows(str(channels), 1, dtype, seed + 5)
    return x.view(rows, channels, length), weight, bias[0]


OP = Op(
    "conv1d", ("6x13x4", "96x67x4"), make, stock, reference, conv1d, order=NEIGHBOURS, aten={"convolution": convolution},
)  # fmt: skip
