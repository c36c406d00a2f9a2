"""Matrix products on a GPU: x[M, K] @ w[N, K].T + bias, and batches of them.

Batch-invariant because a program adds the whole of K for its tile of outputs, from the first element on: in half precision into
one float32 accumulator, by the matrix unit's own groups; in float32 a sum of its own for each BLOCK_K elements, and the sums one
after the other (one chain of 4096 additions is less exact than what stock does). K, N and the dtype choose the tile that defines the
result. More rows mean more tiles, dealt out to as many programs as the device runs side by side: which program computes a tile changes
nothing of what is added. Rows past M are zeros, and a row of a tile is multiplied by itself alone.

Few rows waste a tall tile, and many want a large one. `_triton/tiles.py` names others by the number of rows, and has each compared with
the defining one on the device before it is used.

Where the hardware has a unit that loads whole tiles (TMA), descriptors feed it; else threads load by pointers. Both bring the
same blocks of K, zeros past its end, to the same tl.dot: which of the two it is changes no order, and M does not choose it.

What no source can show is that the matrix unit treats all rows of a tile alike; tests/gpu/test_gpu.py looks at that.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from detcheck.kernels._triton.launch import (
    Declared,
    Tile,
    family,
    fit,
    on_its_device,
    processors,
    strides,
    target_of_device,
    type_of,
    unit,
)
from detcheck.kernels._triton.tiles import BY_ROWS, by_rows
from detcheck.op import Signature

if TYPE_CHECKING:
    import torch

# By target and size of element. Source: benchmarks/compiled.py (nothing spills, matrix instructions throughout), not yet a clock:
# no GPU was at hand. NARROW keeps 64 to 128 KiB a multiprocessor in flight, so that a product of few rows can read its weight
# at the memory's speed from 64 programs on; WIDE reuses more, and needs a weight of many columns to occupy the device.
NARROW = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 128}
WIDE = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}
WIDE_FROM = 16384  # columns of the weight: 128 tiles, one for nearly every multiprocessor
FLOAT = {
    "BLOCK_M": 32,
    "BLOCK_N": 64,
    "BLOCK_K": 32,
}  # float32 is multiplied outside the matrix units, exactly rounded (ieee)
BATCHED = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}  # bmm: its loads are narrow, and their addresses take registers
BATCHED_FLOAT = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}
GROUP_M = 8  # tiles of rows that go through the same columns together, for the cache


def tile(n: int, dtype: str, target: str) -> Tile:
    """The one tile of a weight. BLOCK_K makes the order of addition; the rest may make the matrix instruction."""
    amd = family(target) == "gfx"  # 64 KiB of shared memory
    if dtype == "fp32":
        return Tile(FLOAT, 4, 2)
    if n < WIDE_FROM:
        return Tile({**NARROW, "BLOCK_K": 64} if amd else NARROW, 4, 2 if amd else 4)
    return Tile(WIDE, 8, 2 if amd else 3)


def tile_of_batches(dtype: str) -> Tile:
    return Tile(BATCHED_FLOAT if dtype == "fp32" else BATCHED, 4, 2)


def descriptors(k: int, dtype: str, target: str) -> bool:
    """Whether x and w are loaded by TMA: it is there, and their rows can be multiples of 16 bytes without a copy.

    Not in float32: outside the matrix units its operands go through registers whichever way they come.
    """
    return family(target) in ("sm_90", "sm_100") and dtype != "fp32" and unit(k, dtype) > 1


@triton.jit
def accumulate(x, w, k_length, x_rows, w_rows, w_step, x_there, w_there, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
               BLOCK_K: tl.constexpr):  # fmt: skip
    """The sum over K of one tile. x_rows, w_rows: offsets of its rows, w_step: of the next k in w."""
    exact: tl.constexpr = x.dtype.element_ty == tl.float32
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for begin in range(0, k_length, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        inside = k < k_length
        a = tl.load(x + x_rows[:, None] + k[None, :], mask=x_there[:, None] & inside[None, :], other=0.0)
        b = tl.load(w + w_rows[None, :] + k[:, None] * w_step, mask=w_there[None, :] & inside[:, None], other=0.0)
        if exact:
            total += tl.dot(a, b, input_precision="ieee")
        else:
            total = tl.dot(a, b, total, input_precision="ieee")
    return total


@triton.jit
def accumulate_tiles(x_tiles, w_tiles, row, column, k_length, SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                     BLOCK_K: tl.constexpr):  # fmt: skip
    """The same sum by descriptors, which know where x and w end, of halves. row, column: the first of the tile.

    SWAP: the weight's rows are those of the tile, [BLOCK_N, BLOCK_M]: few rows of x fill a matrix instruction so.
    """
    total = tl.zeros([BLOCK_N, BLOCK_M] if SWAP else [BLOCK_M, BLOCK_N], tl.float32)
    for begin in range(0, k_length, BLOCK_K):
        a, b = x_tiles.load([row, begin]), w_tiles.load([column, begin])
        total = tl.dot(b, a.T, total) if SWAP else tl.dot(a, b.T, total)
    return total


@triton.jit(do_not_specialize=["M", "x_m", "out_m"])
def matmul_kernel(x, w, bias, out, M, N, K, x_m, w_n, w_k, out_m, BIAS: tl.constexpr, X_UNIT: tl.constexpr, OUT_UNIT: tl.constexpr,
                  BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
                  DESCRIPTORS: tl.constexpr, SWAP: tl.constexpr):  # fmt: skip
    tl.static_assert(DESCRIPTORS or not SWAP)
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    if DESCRIPTORS:
        x_tiles = tl.make_tensor_descriptor(x, [M, K], [tl.cast(x_m, tl.int64) * X_UNIT, 1], [BLOCK_M, BLOCK_K])
        w_tiles = tl.make_tensor_descriptor(w, [N, K], [w_n, 1], [BLOCK_N, BLOCK_K])
    for number in range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0)):
        group = number // (GROUP_M * tiles_n)
        height = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
        within = number % (GROUP_M * tiles_n)
        first_row, first_column = (group * GROUP_M + within % height) * BLOCK_M, (within // height) * BLOCK_N
        row, column = first_row + tl.arange(0, BLOCK_M), first_column + tl.arange(0, BLOCK_N)
        if DESCRIPTORS:
            total = accumulate_tiles(x_tiles, w_tiles, first_row, first_column, K, SWAP, BLOCK_M, BLOCK_N, BLOCK_K)
        else:
            x_rows = row.to(tl.int64) * x_m * X_UNIT
            w_rows = column.to(tl.int64) * w_n
            total = accumulate(x, w, K, x_rows, w_rows, w_k, row < M, column < N, BLOCK_M, BLOCK_N, BLOCK_K)
        if SWAP:
            to = out + row.to(tl.int64)[None, :] * out_m * OUT_UNIT + column[:, None]
            mask = (row < M)[None, :] & (column < N)[:, None]
        else:
            to = out + row.to(tl.int64)[:, None] * out_m * OUT_UNIT + column[None, :]
            mask = (row < M)[:, None] & (column < N)[None, :]
        if BIAS:
            added = tl.load(bias + column, mask=column < N, other=0.0).to(tl.float32)
            total += added[:, None] if SWAP else added[None, :]
        tl.store(to, total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["M", "N", "K", "x_b", "x_m", "w_b", "w_n", "w_k", "out_b", "out_m"])
def bmm_kernel(x, w, out, M, N, K, x_b, x_m, w_b, w_n, w_k, out_b, out_m,
               BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Here all sizes may follow the batch: N and K are its longest sequence in attention that is made of products."""
    tiles_n = tl.cdiv(N, BLOCK_N)
    number, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = (number // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = (number % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    x_rows, w_rows = b * x_b + row.to(tl.int64) * x_m, b * w_b + column.to(tl.int64) * w_n
    total = accumulate(x, w, K, x_rows, w_rows, w_k.to(tl.int64), row < M, column < N, BLOCK_M, BLOCK_N, BLOCK_K)
    to = out + b * out_b + row.to(tl.int64)[:, None] * out_m + column[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=(row < M)[:, None] & (column < N)[None, :])


@on_its_device
def matmul(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, chosen: Tile | None = None) -> torch.Tensor:
    """x[M, K] @ w[N, K].T + bias[N] -> [M, N], of arguments that `matmul.linear` has checked. chosen: a tile; None: by the rows."""
    import torch

    (m, k), n, dtype = x.shape, len(w), type_of(x)
    out = torch.empty(m, n, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    if not k:
        return out.zero_() if bias is None else out.copy_(bias)
    target = target_of_device()
    by_tiles = descriptors(k, dtype, target) and w.stride(1) == 1
    if chosen is None:
        chosen = tile(n, dtype, target)
        if by_tiles and w.stride(0) == k:  # rows of a slice have another stride, and perhaps another binary
            added = bias is not None
            multiply = lambda a, b, other: matmul(a, b, b[:, 0].contiguous() if added else None, other)  # noqa: E731
            chosen = by_rows(x, n, target, chosen, multiply, added)
    constants = _constants(n, k, dtype, bias is not None) | dict(chosen.sizes)
    step, out_step = constants["X_UNIT"], constants["OUT_UNIT"]
    x, w = (fit_tiles(x, step), fit_tiles(w, step)) if by_tiles else (fit(x, step), fit_weight(w))
    bias = out if bias is None else fit(bias, 1)  # not read where there is none
    programs = min(triton.cdiv(m, constants["BLOCK_M"]) * triton.cdiv(n, constants["BLOCK_N"]), processors())
    rows = (*strides(x, step), *w.stride(), *strides(out, out_step))

    def launch() -> None:
        triton.set_allocator(lambda size, *_: x.new_empty(size, dtype=torch.int8))  # descriptors are written to memory
        matmul_kernel[(programs,)](x, w, bias, out, m, n, k, *rows, **constants, DESCRIPTORS=by_tiles, **chosen.options)

    contextvars.copy_context().run(launch)  # the allocator is the context's: the user's own stays
    return out


@on_its_device
def bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a[B, M, K] @ b[B, K, N] -> [B, M, N], of arguments that `matmul.bmm` has checked. One tile for all sizes."""
    batch, m, k = a.shape
    n, dtype = b.shape[2], type_of(a)
    out = a.new_empty(batch, m, n)
    if not out.numel() or not k:
        return out.zero_()
    a, w = fit(a, 1), fit_weight(b.transpose(1, 2))
    chosen = tile_of_batches(dtype)
    count = triton.cdiv(m, chosen.sizes["BLOCK_M"]) * triton.cdiv(n, chosen.sizes["BLOCK_N"])
    steps = (*a.stride()[:2], *w.stride(), *out.stride()[:2])
    for first in range(0, batch, 65535):  # the most that the grid's second axis takes
        part = slice(first, first + 65535)
        grid = (count, len(out[part]))
        bmm_kernel[grid](
            fit(a[part], 1), fit_weight(w[part]), out[part], m, n, k, *steps, **chosen.sizes, **chosen.options
        )
    return out


def fit_weight(w: torch.Tensor) -> torch.Tensor:
    """Aligned, and dense along one of its last two dimensions; a model's weight is, and is not copied."""
    other = w.transpose(-1, -2)
    return fit(w, 1) if w.stride(-1) == 1 else fit(other, 1).transpose(-1, -2)


def fit_tiles(t: torch.Tensor, step: int) -> torch.Tensor:
    """As CUDA wants it of a tensor map: strides fit, that of a single row too, and no row lies in another (as expanded ones do)."""
    return fit(t.reshape(-1).view(t.shape) if len(t) == 1 or t.stride(0) < t.shape[1] else t, step)


def _constants(n: int, k: int, dtype: str, bias: bool) -> dict[str, object]:
    return {"BIAS": bias, "X_UNIT": unit(k, dtype), "OUT_UNIT": unit(n, dtype), "GROUP_M": GROUP_M, "SWAP": False}


OTHERS = "the launcher takes other tiles by the number of rows, once their bits were equal to this one's on the device"
N, K = 4096, 4096  # of the weight that certificates and benchmarks/compiled.py are about


def matmul_signature(dtype: str, target: str, n: int = N, k: int = K, chosen: Tile | None = None) -> Signature:
    """chosen: one of those that follow the rows; None: the one that defines the result."""
    loads = descriptors(k, dtype, target)
    others = chosen is None and loads and family(target) in BY_ROWS
    # A weight that is dense along N has pointers, and then the defining tile.
    ways = (True if chosen else (True, False)) if loads else False
    chosen = chosen or tile(n, dtype, target)
    integers = dict.fromkeys(("M", "N", "K", "x_m", "w_n", "w_k", "out_m"), "i32")
    return Signature(
        arguments={"x": "*T", "w": "*T", "bias": "*T", "out": "*T", **integers},
        constexprs={**_constants(n, k, dtype, bias=True), **chosen.sizes, "DESCRIPTORS": ways},
        batch=("M", "x_m", "out_m"),
        reduction=("K",),
        batch_axes=(0,),
        aligned=("x", "w", "bias", "out"),
        trusted=(OTHERS,) if others else (),
        options=chosen.options,
        dtypes=("bf16", "fp16", "fp32"),
    )


def bmm_signature(dtype: str, target: str) -> Signature:
    chosen = tile_of_batches(dtype)
    batch = ("M", "x_b", "x_m", "w_b", "out_b", "out_m")
    integers = dict.fromkeys((*batch, "N", "K", "w_n", "w_k"), "i32")
    return Signature(
        arguments={"x": "*T", "w": "*T", "out": "*T", **integers},
        constexprs=dict(chosen.sizes),
        batch=batch,
        reduction=("K",),
        batch_axes=(0, 1),
        aligned=("x", "w", "out"),
        options=chosen.options,
        dtypes=("bf16", "fp16", "fp32"),
    )


DETCHECK: Declared = {"matmul_kernel": matmul_signature, "bmm_kernel": bmm_signature}
