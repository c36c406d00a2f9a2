"""Calls `_cpu/rowwise.cpp`, on a GPU `_triton/rowwise.py`: ops on rows by themselves. On a CPU without a compiler, torch a row at a
time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.kernels._triton import launch
from detcheck.op import dtype_code

if TYPE_CHECKING:
    import torch

# In the order of _cpu/rowwise.cpp's What.
OPS = (
    "softmax",
    "log_softmax",
    "mean",
    "rmsnorm",
    "silu",
    "gelu",
    "gelu_tanh",
    "silu_mul",
    "gelu_mul",
    "gelu_tanh_mul",
    "sum",
    "cumsum",
    "sigmoid",
    "softplus",
    "softmax_backward",
    "log_softmax_backward",
    "sigmoid_backward",
    "tanh_backward",
    "silu_backward",
    "gelu_backward",
    "gelu_tanh_backward",
    "logsumexp",
)


def rowwise(
    op: str,
    x: torch.Tensor,
    second: torch.Tensor | None = None,
    *,
    torch_row: Callable[..., torch.Tensor],
    eps: float = 0.0,
    columns_out: int | None = None,
) -> torch.Tensor:
    """The op on each row of x[..., n] -> [..., columns_out or n].

    `second`: a weight [n] for all rows, or an operand of x's shape. `torch_row` computes one row [1, n] with torch, for the
    fallback: the same shape every time, so the same program. Raises ValueError for dtypes and devices that it cannot take.
    """
    import torch

    n = x.shape[-1]
    code = dtype_code(op, x, second)
    if second is not None and second.shape not in (x.shape, (n,)):
        raise ValueError(
            f"{op} needs a second operand like x{tuple(x.shape)} or a weight ({n},); got {tuple(second.shape)}"
        )
    one_row = second is not None and second.shape == (n,) and second.shape != x.shape
    width = n if columns_out is None else columns_out
    rows = dense_rows(x.reshape(math.prod(x.shape[:-1]), n))
    operand = None if second is None else dense_rows(second.reshape(math.prod(second.shape[:-1]), n))
    if x.is_cuda:
        launch.need()
        from detcheck.kernels._triton import rowwise as triton_rowwise

        return triton_rowwise.rowwise(op, rows, operand, eps, width).view(*x.shape[:-1], width)
    out = torch.empty(len(rows), width, dtype=x.dtype)
    if build.available():
        sizes = (len(rows), n, eps, torch.get_num_threads())
        first = (rows.data_ptr(), rows.stride(0))
        other = (None, 0) if operand is None else (operand.data_ptr(), 0 if one_row else operand.stride(0))
        run = build.function("rowwise", "iipipipiiidi")
        run(OPS.index(op), code, out.data_ptr(), width, *first, *other, *sizes)
    else:
        for i, row in enumerate(rows):
            arguments = [row[None].clone()] + ([] if operand is None else [operand[0 if one_row else i][None].clone()])
            out[i] = torch_row(*arguments)[0]
    return out.view(*x.shape[:-1], width)


def reduced(
    op: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    dim: Sequence[int] | None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """A row op that leaves one number, over any dimensions (None, or none: all), as aten has it; of x in another dtype."""
    x = x if dtype is None else x.to(dtype)
    if x.ndim == 0:
        return op(x.view(1)).view(())
    dims = sorted(d % x.ndim for d in dim) if dim else list(range(x.ndim))
    rest = [d for d in range(x.ndim) if d not in dims]
    flat = x.permute(*rest, *dims).reshape(*(x.shape[d] for d in rest), math.prod(x.shape[d] for d in dims))
    result = op(flat)[..., 0]
    return result.view([1 if d in dims else x.shape[d] for d in range(x.ndim)]) if keepdim else result


def along(op: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    """A row op along any dimension, as aten has it; `half_to_float`: the result is float32."""
    moved = x.float() if half_to_float else x
    if x.ndim == 0:
        return op(moved.view(1)).view(())
    return op(moved.movedim(dim, -1)).movedim(-1, dim).contiguous()


def dense_rows(x: torch.Tensor) -> torch.Tensor:
    """x[M, n] as it is where each row is dense; a half of a wider tensor need not be copied."""
    return x if x.shape[1] < 2 or x.stride(1) == 1 else x.contiguous()


def make_rows(shape: str, rows: int, dtype: torch.dtype, seed: int, operands: int = 1) -> tuple[torch.Tensor, ...]:
    """shape "N": that many tensors [rows, N]; row i is the same for every number of rows."""
    import torch

    n = int(shape)
    made = []
    for k in range(operands):
        generators = [torch.Generator().manual_seed(seed + 1000 * k + row) for row in range(rows)]
        made.append(torch.stack([torch.randn(n, generator=g) for g in generators]) if rows else torch.empty(0, n))
    return tuple(x.to(dtype) for x in made)
