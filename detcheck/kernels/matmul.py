"""Matrix products: mm, addmm, bmm, linear with a bias.

Batch-invariant because every output is a dot product by itself, added in an order that K alone decides; tiles and threads
only group outputs (`_cpu/matmul.cpp` and `_triton/matmul.py` state the order). Decode and prefill take the same order.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build, fallback
from detcheck.kernels._shared import float64, product_gradients
from detcheck.kernels._triton import launch
from detcheck.op import Op, dtype_code

if TYPE_CHECKING:
    import torch

STEP = 16  # elements that the lanes take at once, at most: of bfloat16. Part of the result's definition
CALL = "pipiippiiii"  # the arguments of detcheck_matmul


def linear(x: torch.Tensor, w: torch.Tensor | Packed, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x[..., K] @ w[N, K].T + bias[N] -> [..., N]. Sums in float32, one rounding at the end; of float64 in float64.

    Raises ValueError for shapes, dtypes and devices that it cannot take, NotInvariantError in the fallback.
    """
    import torch

    packed = w if isinstance(w, Packed) else None
    columns, length = packed.shape if packed else w.shape if w.ndim == 2 else (-1, -1)
    if length < 0 or x.ndim < 1 or x.shape[-1] != length or (bias is not None and bias.shape != (columns,)):
        given = [tuple(t.shape) for t in (x, w, bias) if t is not None]
        raise ValueError(f"linear needs x[..., K], w[N, K] and bias[N]; got {', '.join(map(str, given))}")
    weight = packed.weight if packed else w
    rows = x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), length)
    if float64.takes(x, weight, bias):
        out = float64.product(rows, weight)
        return (out if bias is None else out + bias).view(*x.shape[:-1], columns)
    code = dtype_code("matmul", x, weight, bias)
    if x.is_cuda:
        launch.need()
        from detcheck.kernels._triton import matmul as triton_matmul

        out = triton_matmul.matmul(rows, weight, bias)
    elif not build.available():
        out = fallback.matmul(rows, weight)
        out = out if bias is None else out + bias
    else:
        if not packed and weight.stride(1) != 1:
            weight = weight.contiguous()
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        bias = None if bias is None else bias.contiguous()
        out = torch.empty((rows.shape[0], columns), dtype=x.dtype)
        build.function("matmul", CALL)(
            rows.data_ptr(),
            rows.stride(0),
            weight.data_ptr(),
            -1 if packed else weight.stride(0),
            code,
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            *out.shape,
            length,
            torch.get_num_threads(),
        )
    return out if x.ndim == 2 else out.view(*x.shape[:-1], columns)


class Packed:
    """A weight w[N, K] laid out as the kernel reads it, for products that come again and again: the same bits, sooner.

    As large as the weight. On a GPU, and where the kernels cannot be compiled, it is the weight itself.
    """

    def __init__(self, w: torch.Tensor) -> None:
        import torch

        self.shape = w.shape
        code = dtype_code("matmul", w)
        self.weight = w
        if w.is_cpu and build.available():
            w = w if w.stride(1) == 1 else w.contiguous()
            n, k = w.shape
            group, step = layout(code)
            self.weight = torch.empty(-(-n // group), -(-k // step), group, step, dtype=w.dtype)
            call = build.function("pack", "piipiii", "matmul")
            call(w.data_ptr(), w.stride(0), code, self.weight.data_ptr(), n, k, torch.get_num_threads())


def layout(code: int) -> tuple[int, int]:
    """How a weight of that dtype is packed: rows side by side, elements a step."""
    found = ctypes.c_int64(), ctypes.c_int64()
    build.function("layout", "ipp", "matmul")(code, *map(ctypes.addressof, found))
    return found[0].value, found[1].value


def mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a[M, K] @ b[K, N]."""
    return linear(a, b.t())


def bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a[B, M, K] @ b[B, K, N], a product at a time.

    On a CPU a row's sum begins at its first number that is not zero, and its end is filled up with zeros to whole steps of the lanes. Attention
    that a model writes out has zeros where a mask hides keys: so neither those before a row's own nor those behind change its bits.
    """
    import torch

    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        raise ValueError(f"bmm needs a[B, M, K] and b[B, K, N]; got {tuple(a.shape)} and {tuple(b.shape)}")
    if not float64.takes(a, b):
        dtype_code("bmm", a, b)
    if a.is_cuda and not float64.takes(a, b):
        launch.need()
        from detcheck.kernels._triton import matmul as triton_matmul

        return triton_matmul.bmm(a, b)
    out = a.new_empty(len(a), a.shape[1], b.shape[2])
    length = a.shape[2]
    begins = (a != 0).to(torch.uint8).argmax(-1) if length else a.new_zeros(a.shape[:2])
    moved = begins.any(-1).tolist()
    for i in range(len(a)):
        for begin in begins[i].unique().tolist() if moved[i] else [0]:
            rows = begins[i] == begin if moved[i] else slice(None)
            skips = begin if bool(b[i, :begin].isfinite().all()) else 0  # a zero by an infinity is no zero
            fill = (0, (skips - length) % STEP)
            out[i, rows] = linear(*(torch.nn.functional.pad(t, fill) for t in (a[i, rows, skips:], b[i, skips:].t())))
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


def added(c: torch.Tensor, product: torch.Tensor, beta: float, alpha: float) -> torch.Tensor:
    """beta * c + alpha * product, element by element: rounded once more than a fused bias, the same way in every batch."""
    scaled = product if alpha == 1 else product * alpha
    if beta == 0:  # whatever c holds, NaN too, is not read
        return scaled
    return scaled + (c if beta == 1 else c * beta)


def addmm(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    if c.ndim == 1 and len(c) == b.shape[1] and beta == alpha == 1:
        return linear(a, b.t(), c)  # a bias is added before the one rounding
    return added(c, mm(a, b), beta, alpha)


def mv(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return linear(a, x[None])[:, 0]


ATEN: dict[str, Callable[..., torch.Tensor]] = {
    "mm": mm,
    "addmm": addmm,
    "bmm": bmm,
    "baddbmm": lambda c, a, b, *, beta=1, alpha=1: added(c, bmm(a, b), beta, alpha),
    "mv": mv,
    "addmv": lambda c, a, x, *, beta=1, alpha=1: added(c, mv(a, x), beta, alpha),
}
TRITON = ("detcheck.kernels._triton.matmul:matmul_kernel", "detcheck.kernels._triton.matmul:bmm_kernel")
OP = Op(
    "matmul", ("67x33", "1024x1024"), make, stock, reference, linear,
    devices=("cpu", "cuda"), triton=TRITON, order="linear", aten=ATEN, also=("grouped_mm",),
    elsewhere=product_gradients.put,
)  # fmt: skip
