"""Ops on rows by themselves on a GPU: norms, softmaxes, means, gated activations.

Batch-invariant because one program takes one whole row. It goes through the row in steps of BLOCK columns from the first on,
each lane adding up its own columns, and adds the lanes up once at the end: an order that the row's length alone decides, as
it decides BLOCK and the warps. More rows mean more programs, never a different sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from detcheck.kernels._triton.launch import Declared, Tile, fit, on_its_device, strides, type_of, unit
from detcheck.op import Signature

if TYPE_CHECKING:
    import torch

MOST = 4096  # columns a step. Part of the result's definition
GATE_BLOCK = 1024  # elements of a row that one program takes of an elementwise op
ELEMENTWISE = ("silu", "gelu", "gelu_tanh", "silu_mul", "gelu_mul", "gelu_tanh_mul")
SOFTMAXES = ("softmax", "log_softmax", "logsumexp")


def tile(columns: int) -> Tile:
    """BLOCK and the warps of a row that is summed."""
    block = min(max(triton.next_power_of_2(columns), 128), MOST)
    return Tile({"BLOCK": block}, min(max(block // 256, 1), 8), 1)


@triton.jit(do_not_specialize=["x_m", "out_m"])
def rmsnorm_kernel(x, weight, out, N, eps, x_m, out_m, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * x_m * UNIT
    out += row * out_m * UNIT
    squares = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        v = tl.load(x + column, mask=column < N, other=0.0).to(tl.float32)
        squares += v * v
    scale = tl.rsqrt(tl.sum(squares, 0) / N + eps)  # and rounded below where models that write it out round
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        v = tl.load(x + column, mask=column < N, other=0.0).to(tl.float32)
        w = tl.load(weight + column, mask=column < N, other=0.0).to(tl.float32)
        normed = (v * scale).to(out.dtype.element_ty).to(tl.float32)
        tl.store(out + column, (normed * w).to(out.dtype.element_ty), mask=column < N)


@triton.jit(do_not_specialize=["x_m", "out_m"])
def softmax_kernel(x, out, N, x_m, out_m, WHAT: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * x_m * UNIT
    greatest = tl.full([BLOCK], float("-inf"), tl.float32)
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        v = tl.load(x + column, mask=column < N, other=float("-inf")).to(tl.float32)
        greatest = tl.maximum(greatest, v, propagate_nan=tl.PropagateNan.ALL)
    most = tl.max(greatest, 0)
    sums = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        v = tl.load(x + column, mask=column < N, other=float("-inf")).to(tl.float32)
        sums += tl.exp(v - most)
    total = tl.sum(sums, 0)
    logarithm = most + tl.log(total)
    if WHAT == "logsumexp":
        logarithm = tl.where(tl.abs(most) == float("inf"), most, logarithm)
        tl.store(out + row * out_m, logarithm.to(out.dtype.element_ty))
    else:
        out += row * out_m * UNIT
        for begin in range(0, N, BLOCK):
            column = begin + tl.arange(0, BLOCK)
            v = tl.load(x + column, mask=column < N, other=0.0).to(tl.float32)
            y = v - logarithm if WHAT == "log_softmax" else tl.exp(v - most) / total
            tl.store(out + column, y.to(out.dtype.element_ty), mask=column < N)


@triton.jit(do_not_specialize=["x_m", "out_m"])
def mean_kernel(x, out, N, x_m, out_m, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * x_m * UNIT
    sums = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        sums += tl.load(x + column, mask=column < N, other=0.0).to(tl.float32)
    tl.store(out + row * out_m, (tl.sum(sums, 0) / N).to(out.dtype.element_ty))


@triton.jit(do_not_specialize=["x_m", "out_m"])
def sum_kernel(x, out, N, x_m, out_m, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * x_m * UNIT
    sums = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        sums += tl.load(x + column, mask=column < N, other=0.0).to(tl.float32)
    tl.store(out + row * out_m, tl.sum(sums, 0).to(out.dtype.element_ty))


@triton.jit(do_not_specialize=["x_m", "up_m", "out_m"])
def gate_kernel(x, up, out, N, x_m, up_m, out_m, WHAT: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """Elementwise: nothing is summed, and each element is computed by the same instructions wherever it is."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + row * x_m * UNIT + column, mask=column < N, other=0.0).to(tl.float32)
    if WHAT == "silu" or WHAT == "silu_mul":
        y = v / (1.0 + tl.exp(-v))
    elif WHAT == "gelu" or WHAT == "gelu_mul":
        y = 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))
    else:  # v * (1 + tanh(u)) / 2 = v / (1 + exp(-2 u)), which has no tanh and nothing that cancels
        y = v / (1.0 + tl.exp(-1.5957691216057308 * (v + 0.044715 * v * v * v)))
    y = y.to(out.dtype.element_ty)  # rounded before the product, as two ops would
    if WHAT == "silu_mul" or WHAT == "gelu_mul" or WHAT == "gelu_tanh_mul":
        other = tl.load(up + row * up_m * UNIT + column, mask=column < N, other=0.0).to(tl.float32)
        y = (y.to(tl.float32) * other).to(out.dtype.element_ty)
    tl.store(out + row * out_m * UNIT + column, y, mask=column < N)


@on_its_device
def rowwise(op: str, x: torch.Tensor, second: torch.Tensor | None, eps: float, width: int) -> torch.Tensor:
    """The op on each row of x[M, n] -> [M, width]. second: a weight [1, n], or an operand [M, n]; `_rowwise.rowwise` has checked."""
    import torch

    (rows, n), dtype = x.shape, type_of(x)
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    if not rows or not n:
        empty = {"mean": float("nan"), "sum": 0.0, "logsumexp": float("-inf")}
        return out.fill_(empty[op]) if op in empty else out
    step = unit(n, dtype)
    x = fit(x, step)
    (x_m,), (out_m,) = strides(x, step), strides(out, step if width == n else 1)
    constants: dict[str, object] = {"UNIT": step}
    if op in ELEMENTWISE:
        up = x if second is None else fit(second, step)
        grid = (rows, triton.cdiv(n, GATE_BLOCK))
        gate_kernel[grid](
            x, up, out, n, x_m, *strides(up, step), out_m, WHAT=op, **constants, **GATE.sizes, **GATE.options
        )
        return out
    chosen = tile(n)
    constants |= dict(chosen.sizes)
    if op == "rmsnorm":
        weight = fit(second.view(-1), 1)
        rmsnorm_kernel[(rows,)](x, weight, out, n, eps, x_m, out_m, **constants, **chosen.options)
    elif op in ("mean", "sum"):
        kernel = mean_kernel if op == "mean" else sum_kernel
        kernel[(rows,)](x, out, n, x_m, out_m, **constants, **chosen.options)
    else:
        softmax_kernel[(rows,)](x, out, n, x_m, out_m, WHAT=op, **constants, **chosen.options)
    return out


GATE = Tile({"BLOCK": GATE_BLOCK}, 4, 1)
COLUMNS = 4096  # of the rows that certificates and benchmarks/compiled.py are about


def _signature(
    pointers: tuple[str, ...], more: dict[str, object], chosen: Tile, batch: tuple[str, ...], eps: bool = False
) -> Callable[[str, str], Signature]:
    def of(dtype: str, target: str) -> Signature:
        return Signature(
            arguments={**dict.fromkeys(pointers, "*T"), "N": "i32", **({"eps": "fp32"} if eps else {}), **dict.fromkeys(batch, "i32")},
            constexprs={"UNIT": unit(COLUMNS, dtype), **more, **chosen.sizes},
            batch=batch,
            reduction=("N",),
            batch_axes=(0,),
            aligned=pointers,
            options=chosen.options,
            dtypes=("bf16", "fp16", "fp32"),
        )  # fmt: skip

    return of


_ROWS = ("x_m", "out_m")
DETCHECK: Declared = {
    "rmsnorm_kernel": _signature(("x", "weight", "out"), {}, tile(COLUMNS), _ROWS, eps=True),
    "softmax_kernel": _signature(("x", "out"), {"WHAT": SOFTMAXES}, tile(COLUMNS), _ROWS),
    "mean_kernel": _signature(("x", "out"), {}, tile(COLUMNS), _ROWS),
    "sum_kernel": _signature(("x", "out"), {}, tile(COLUMNS), _ROWS),
    "gate_kernel": _signature(("x", "up", "out"), {"WHAT": ELEMENTWISE}, GATE, ("x_m", "up_m", "out_m")),
}
