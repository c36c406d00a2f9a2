"""Matrix products: mm, addmm, bmm, linear with a bias.

Batch-invariant because every output is a dot product by itself, added in an order that K alone decides; tiles and threads
only group outputs (`_cpu_matmul.cpp` states the order). Decode and prefill take the same order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from detcheck.kernels import _fallback, _native
from detcheck.kernels._checks import dtype_code
from detcheck.kernels._op import Op

if TYPE_CHECKING:
    import torch


def linear(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x[..., K] @ w[N, K].T + bias[N] -> [..., N]. Sums in float32, one rounding at the end.

    Raises ValueError for shapes, dtypes and devices that it cannot take, NotInvariantError in the fallback.
    """
    import torch

    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1] or (bias is not None and bias.shape != w.shape[:1]):
        given = [tuple(t.shape) for t in (x, w, bias) if t is not None]
        raise ValueError(f"linear needs x[..., K], w[N, K] and bias[N]; got {', '.join(map(str, given))}")
    code = dtype_code("matmul", x, w, bias)
    dtype = x.dtype
    rows = x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    if not _native.available():
        out = _fallback.matmul(rows, w)
        out = out if bias is None else out + bias
    else:
        if w.stride(1) != 1:
            w = w.contiguous()
        if code:  # sums are in float32
            rows, bias = rows.float(), None if bias is None else bias.float()
        rows = rows.contiguous()
        bias = None if bias is None else bias.contiguous()
        out = torch.empty((rows.shape[0], w.shape[0]), dtype=torch.float32)
        _native.function("matmul", "ppiippiiii")(
            rows.data_ptr(),
            w.data_ptr(),
            w.stride(0),
            code,
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            *out.shape,
            w.shape[1],
            torch.get_num_threads(),
        )
        out = out.to(dtype) if code else out
    return out if x.ndim == 2 else out.view(*x.shape[:-1], w.shape[0])


def mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a[M, K] @ b[K, N]."""
    return linear(a, b.t())


def bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a[B, M, K] @ b[B, K, N], a product at a time."""
    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        raise ValueError(f"bmm needs a[B, M, K] and b[B, K, N]; got {tuple(a.shape)} and {tuple(b.shape)}")
    out = a.new_empty(len(a), a.shape[1], b.shape[2])
    for i in range(len(a)):
        out[i] = linear(a[i], b[i].t())
    return out


def stock(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.linear(x, w)


def reference(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x.double() @ w.double().t()


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """shape "KxN": x[rows, K], w[N, K]."""
    import torch

    k, n = map(int, shape.split("x"))
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) / k**0.5
    made = [torch.randn(k, generator=torch.Generator().manual_seed(seed + 1 + row)) for row in range(rows)]
    return (torch.stack(made) if made else torch.empty(0, k)).to(dtype), w.to(dtype)


OP = Op("matmul", ("67x33", "1024x1024"), make, stock, reference, linear)
