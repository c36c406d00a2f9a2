"""Triangular systems of equations: within a chunk of the gated delta rule, each token's update follows from those before.

Batch-invariant because each system, and each column of its right side, is solved by itself, unknown after unknown, with the products of
each in the same order (`_cpu/solve.cpp`). It is torch's LAPACK that stays on a GPU.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.kernels._shared.rowwise import make_rows
from detcheck.kernels._shared.unreadable import FOLLOWS
from detcheck.op import NotInvariantError, Op, dtype_code

if TYPE_CHECKING:
    import torch


def stock(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a[M, n, n] below a diagonal of ones, b[M, n, m]. In float32, since torch has it in no narrower dtype."""
    import torch

    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.linalg.solve_triangular(a.to(wide), b.to(wide), upper=False, unitriangular=True).to(a.dtype)


def reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return stock(a.double(), b.double())


def solve_triangular(
    a: torch.Tensor, b: torch.Tensor, *, upper: bool = False, left: bool = True, unitriangular: bool = True
) -> torch.Tensor:
    """The X of a[..., n, n] X = b[..., n, m]; not left: of X a = b[..., m, n]. Sums in float64, with one rounding."""
    import torch

    code = dtype_code("solve_triangular", a, b)
    if a.is_cuda:
        raise NotInvariantError("solve_triangular has no batch-invariant kernel on cuda; it has on cpu")
    if not left:
        return solve_triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular).mT
    if min(a.ndim, b.ndim) < 2 or a.shape[-1] != a.shape[-2] or a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"solve_triangular needs a[..., n, n] and b[..., n, m]; got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    (n, m), count = b.shape[-2:], math.prod(batch)
    a, b = (t.expand(*batch, *t.shape[-2:]).reshape(count, *t.shape[-2:]).contiguous() for t in (a, b))
    if build.available():
        out = torch.empty_like(b)
        sizes = (count, n, m, upper, unitriangular, torch.get_num_threads())
        build.function("solve", "ipppiiiiii")(code, out.data_ptr(), a.data_ptr(), b.data_ptr(), *sizes)
    else:  # each step is elementwise in float64
        matrix, made = a.double(), b.double()
        order = range(n - 1, -1, -1) if upper else range(n)
        for step, i in enumerate(order):
            for j in order[:step]:
                made[:, i] = made[:, i] - matrix[:, i, j, None] * made[:, j]
            made[:, i] = made[:, i] if unitriangular else made[:, i] / matrix[:, i, i, None]
        out = made.to(b.dtype)
    return out.view(*batch, n, m)


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """shape "NxM": a[rows, N, N], small below its diagonal, b[rows, N, M]."""
    n, m = map(int, shape.split("x"))
    (a,), (b,) = make_rows(str(n * n), rows, dtype, seed), make_rows(str(n * m), rows, dtype, seed + 7)
    return a.view(rows, n, n) / n**0.5, b.view(rows, n, m)


def native(
    a: torch.Tensor, b: torch.Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> torch.Tensor:
    return solve_triangular(a, b, upper=upper, left=left, unitriangular=unitriangular)


OP = Op(
    "solve_triangular", ("13x5", "64x32"), make, stock, reference, solve_triangular,
    batched=(0, 1), order=FOLLOWS, aten={"linalg_solve_triangular": native},
)  # fmt: skip
