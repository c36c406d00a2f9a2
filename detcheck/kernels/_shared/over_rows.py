"""Calls `_cpu/over_rows.cpp`: sums over rows, one row after the other. On a CPU without a compiler, torch a row at a time, in other bits.

A row's own result never needs them; gradients of what rows share do. A row of zeros changes nothing, wherever it lies, so that of one
sample's loss the gradient is the same alone and among others, whatever pads it. Of several samples it is their sum, in the order of the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.op import NAMES, NoKernelError, dtype_code

if TYPE_CHECKING:
    import torch

FLOAT64 = len(NAMES)  # its number there


def products(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """a[M, P], g[M, Q] -> [P, Q], the sum of the rows' outer products. Sums in float32, one rounding at the end; of float64 in float64.

    Raises NoKernelError for devices and dtypes that it cannot take.
    """
    import torch

    code = code_of("the gradient of a weight", a, g)
    a, g = (t if t.stride(1) == 1 or t.shape[1] < 2 else t.contiguous() for t in (a, g))
    out = torch.empty(a.shape[1], g.shape[1], dtype=a.dtype)
    if build.available():
        run = build.function("products_over_rows", "ippipiiiii", "over_rows")
        first, second = (a.data_ptr(), a.stride(0)), (g.data_ptr(), g.stride(0))
        run(code, out.data_ptr(), *first, *second, len(a), *out.shape, torch.get_num_threads())
        return out
    total = torch.zeros(out.shape, dtype=torch.float64 if code == FLOAT64 else torch.float32)
    for x, y in zip(a.to(total.dtype), g.to(total.dtype), strict=True):
        total += x[:, None] * y
    return total.to(a.dtype)


def sums(x: torch.Tensor) -> torch.Tensor:
    """x[M, n] -> [n]. Sums in float64. Raises NoKernelError for devices and dtypes that it cannot take."""
    import torch

    code = code_of("a sum over rows", x)
    x = x if x.stride(1) == 1 or x.shape[1] < 2 else x.contiguous()
    out = torch.empty(x.shape[1], dtype=x.dtype)
    if build.available():
        run = build.function("sums_over_rows", "ippiiii", "over_rows")
        run(code, out.data_ptr(), x.data_ptr(), x.stride(0), *x.shape, torch.get_num_threads())
        return out
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for row in x.double():
        total += row
    return total.to(x.dtype)


def placed(x: torch.Tensor, places: torch.Tensor, rows: int, left_out: int = -1) -> torch.Tensor:
    """x[M, n], places int64[M] -> [rows, n]: row m is added to row places[m], but where that is left_out. Sums in float32."""
    import torch

    code = code_of("the gradient of an embedding", x)
    if code == FLOAT64:
        raise NoKernelError("the gradient of an embedding has no batch-invariant kernel for float64")
    x, places = x.contiguous(), places.to(torch.int64).contiguous()
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < rows:
        raise ValueError(
            f"places must be within the table of {rows} rows; got {int(places.min())} to {int(places.max())}"
        )
    table = torch.zeros(rows, x.shape[1])
    if build.available():
        run = build.function("placed_over_rows", "ipppiiiii", "over_rows")
        sizes = (*x.shape, rows, left_out, torch.get_num_threads())
        run(code, table.data_ptr(), x.data_ptr(), places.data_ptr(), *sizes)
    else:
        for place, row in zip(places.tolist(), x.float(), strict=True):
            if place != left_out:
                table[place] += row
    return table.to(x.dtype)


def code_of(what: str, *tensors: torch.Tensor) -> int:
    """The dtype that all share, as the kernels number it."""
    import torch

    if not all(t.is_cpu for t in tensors):
        raise NoKernelError(f"{what} has no batch-invariant kernel on {tensors[0].device.type}; it has on cpu")
    return FLOAT64 if all(t.dtype == torch.float64 for t in tensors) else dtype_code(what, *tensors)
