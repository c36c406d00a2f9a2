"""Rotary positions (RoPE): pairs of a head's numbers, turned by an angle that the token's place gives.

Elementwise, and one definition for sampler and trainer: each product is rounded to the dtype, then their sum is, as models in transformers
write it out, and as torch's own multiplications and additions do it. vLLM's own op on the CPU rounds once, at the end.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.kernels._shared.unreadable import TWO_PRODUCTS
from detcheck.op import Op, dtype_code

if TYPE_CHECKING:
    import torch


def stock(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As transformers' models write it out."""
    import torch

    cos, sin = (torch.cat((t, t), -1)[:, None] for t in (cos, sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x[T, H, D], cos, sin[T, D / 2] -> [T, H, D]."""
    import torch

    places = torch.arange(len(x), device=x.device)
    return rotate(x.clone(memory_format=torch.contiguous_format), places, torch.cat((cos, sin), -1))


def rotate(x: torch.Tensor, places: torch.Tensor, table: torch.Tensor, neighbours: bool = False) -> torch.Tensor:
    """x[T, H, D], turned in place: the first R of its D numbers, by row places[t] of table[N, R], which holds R / 2 cosines and as many sines.

    Pairs are i and R / 2 + i; with `neighbours` 2 i and 2 i + 1. places: int64[T]. Raises ValueError for shapes and dtypes that it cannot take.
    """
    import torch

    width = table.shape[-1]
    fits = x.ndim == 3 and table.ndim == 2 and places.shape == x.shape[:1] and width <= x.shape[2] and width % 2 == 0
    if not fits or places.dtype != torch.int64:
        given = ", ".join(f"{t.dtype}{list(t.shape)}".removeprefix("torch.") for t in (x, places, table))
        raise ValueError(
            f"rotate needs x[T, H, D], places int64[T] and table[N, R] with R even, at most D; got {given}"
        )
    code = dtype_code("rotary", x, table)
    if not build.available() or x.is_cuda:
        wrong = places[(places < 0) | (places >= len(table))] if x.is_cpu else ()  # a GPU would be waited for
        if len(wrong):
            raise ValueError(f"rotate needs places from 0 to {len(table) - 1}; got {int(wrong[0])}")
        cos, sin = table[places][:, None].chunk(2, -1)
        pairs = x[..., :width].unflatten(-1, (-1, 2) if neighbours else (2, -1))
        first, second = pairs.unbind(-1 if neighbours else -2)
        turned = first * cos - second * sin, second * cos + first * sin
        pairs.copy_(torch.stack(turned, -1 if neighbours else -2))
        return x
    if x.stride(2) != 1:
        raise ValueError(f"rotate needs an x whose last dimension is dense; got strides {x.stride()}")
    table, places = table if table.stride(1) == 1 else table.contiguous(), places.contiguous()
    unknown = ctypes.c_int64()
    pointers = x.data_ptr(), *x.stride()[:2], table.data_ptr(), table.stride(0), len(table), places.data_ptr()
    sizes = *x.shape[:2], width // 2, int(neighbours), torch.get_num_threads()
    build.function("rotary", "ipiipiipiiiiip")(code, *pointers, *sizes, ctypes.addressof(unknown))
    if unknown.value < len(places):
        raise ValueError(f"rotate needs places from 0 to {len(table) - 1}; got {int(places[unknown.value])}")
    return x


def reference(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return stock(x.double(), cos.double(), sin.double())


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """shape "HxD": x[rows, H, D], and cosines and sines [rows, D / 2] of any angles."""
    import torch

    heads, dim = map(int, shape.split("x"))
    made = [torch.randn(heads + 1, dim, generator=torch.Generator().manual_seed(seed + row)) for row in range(rows)]
    drawn = torch.stack(made) if made else torch.empty(0, heads + 1, dim)
    angles = 3 * drawn[:, heads, : dim // 2].double()
    return tuple(t.to(dtype) for t in (drawn[:, :heads], angles.cos(), angles.sin()))


OP = Op(
    "rotary", ("3x22", "8x64"), make, stock, reference, rotary, batched=(0, 1, 2), roundings=2, order=TWO_PRODUCTS
)  # fmt: skip
