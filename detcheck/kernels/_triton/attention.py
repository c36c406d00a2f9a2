"""Attention on a GPU, over keys in one piece or in the blocks of a paged cache.

Batch-invariant because every query goes through its own keys in splits of SPLIT keys, counted from a first key that is its
request's own: a fixed size, never a fixed number. Within a split, BLOCK_N keys after BLOCK_N keys raise a fresh (maximum, sum,
output); one helper, `merge`, then takes the splits together from the first to the last. A program takes a tile of queries, and
goes as far as the one that sees most; what the others do not see has weight zero, and adds exactly nothing. So prefill, chunked
prefill and decode are one order.

Few queries over many keys leave a device idle. `split_kernel` then has a program for every split, which writes down what
`attend_split` gives, and `merge_kernel` calls `merge` on them in the same order: the same operations, and fused multiply-adds
are off (see _triton.py), so the same bits. They are other binaries all the same: the device is asked for the bits of both before the
second way is taken (`splits_agree`), and where they differ it never is.

With a window the splits are counted from the request's first key, where the caller knows it (`first`, and in a paged cache);
else from the query's own first key, and then a tile holds one query, since its neighbours' splits begin elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from detcheck.kernels._cpu.fallback import bits_equal
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
from detcheck.kernels._triton.tiles import holds
from detcheck.op import NotInvariantError, Signature

if TYPE_CHECKING:
    import torch

SPLIT = 256  # keys. Part of the result's definition, as BLOCK_N is
FEW = 16  # rows of a tile at most for which merge_kernel takes a small one: in decode few of the tile's rows exist
MANY = 64  # requests of the data on which they are compared
_agreed: dict[tuple[object, ...], bool] = {}  # what splits_agree found, of this process
LOG2_E = tl.constexpr(1.4426950408889634)  # powers of 2 are what the hardware computes


# (BLOCK_M, BLOCK_N, warps) for heads of at most 128 elements. Source: benchmarks/compiled.py, the largest at which nothing spills,
# windows and soft caps included. Not yet a clock.
TILES = {"sm_80": (64, 64, 8), "sm_90": (128, 32, 8), "sm_100": (128, 32, 8), "gfx": (64, 32, 4)}
SMALL_HEAD = (128, 64, 8)  # at most 64 elements, on every target
LARGE_HEAD = (32, 32, 8)  # 129 to 256
# float32 is multiplied outside the matrix units. By the padded width of a head, at most:
FLOAT = {64: (16, 16, 4), 128: (32, 16, 8), 256: (16, 16, 8)}
FLOAT_SM_100 = FLOAT | {
    256: (16, 16, 4)
}  # 8 bytes spill there where a split has a window and a soft cap; elsewhere nothing
WIDEST = 256


def tile(dim: int, dtype: str, target: str) -> Tile:
    """The one tile of a head's width: of prefill and of decode, since another number of rows may be another matrix instruction."""
    wide = max(triton.next_power_of_2(dim), 16)
    if dtype == "fp32":
        tiles = FLOAT_SM_100 if family(target) == "sm_100" else FLOAT
        m, n, warps = next((tile for most, tile in tiles.items() if wide <= most), tiles[WIDEST])
    elif wide <= 64:
        m, n, warps = SMALL_HEAD
    elif wide <= 128:
        m, n, warps = TILES[family(target)]
    else:
        m, n, warps = LARGE_HEAD
    return Tile({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_D": wide}, warps, 1 if dtype == "fp32" else 2)


def tile_of_merge(dim: int, dtype: str, target: str, few: bool = False) -> Tile:
    """The same rows, or of them the first FEW; nothing is multiplied across rows, so they and the warps are free."""
    sizes = tile(dim, dtype, target).sizes
    sizes = sizes | {"BLOCK_M": min(sizes["BLOCK_M"], FEW)} if few else sizes
    return Tile(sizes, min(max(sizes["BLOCK_M"] * sizes["BLOCK_D"] // 512, 1), 16), 2)


@triton.jit
def merge(most, total, values, most_s, total_s, values_s):
    """(maximum, sum, output) of the splits so far with those of the next one."""
    highest = tl.maximum(most, most_s)
    safe = tl.where(highest == float("-inf"), 0.0, highest)  # a query that has seen no key yet
    before, now = tl.exp2(most - safe), tl.exp2(most_s - safe)
    return highest, total * before + total_s * now, values * before[:, None] + values_s * now[:, None]


@triton.jit
def attend_split(q, keys, values, table, k_b, k_s, v_b, v_s, low, high, begin, end, limit, scale, cap,
                 PAGE: tl.constexpr, UNIT: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                 BLOCK_D: tl.constexpr, CAP: tl.constexpr):  # fmt: skip
    """(maximum, sum, output) of the queries q[BLOCK_M, BLOCK_D] over the keys from begin to end - 1, of which row i sees those
    from low[i] to high[i] - 1; the request has `limit` of them. Scores are in powers of 2."""
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    output = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    d = tl.arange(0, BLOCK_D)
    for n in range(begin, end, BLOCK_N):
        key = n + tl.arange(0, BLOCK_N)
        there = key < limit
        if PAGE:
            block = tl.load(table + key // PAGE, mask=there, other=0).to(tl.int64)
            k_at, v_at = (block * k_b + (key % PAGE) * k_s) * UNIT, (block * v_b + (key % PAGE) * v_s) * UNIT
        else:
            k_at, v_at = key.to(tl.int64) * k_s * UNIT, key.to(tl.int64) * v_s * UNIT
        k = tl.load(keys + k_at[None, :] + d[:, None], mask=there[None, :] & (d < D)[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        if CAP:  # cap * tanh(scores / cap), with what is left of the scale in `cap`
            scores = cap - 2.0 * cap / (tl.exp2(scores) + 1.0)
        seen = (key[None, :] >= low[:, None]) & (key[None, :] < high[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        highest = tl.maximum(most, tl.max(scores, 1))
        safe = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(scores - safe[:, None])
        before = tl.exp2(most - safe)
        total = total * before + tl.sum(weights, 1)
        v = tl.load(values + v_at[:, None] + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0)
        output = tl.dot(weights.to(v.dtype), v, output * before[:, None], input_precision="ieee")
        most = highest
    return most, total, output


@triton.jit
def rows_of_tile(number, r, low, high, start, lengths, first, low_b, first_b, first_l, L, S, QUERIES, WINDOW: tl.constexpr,
                 GROUP: tl.constexpr, HEADS: tl.constexpr, PAGE: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr):  # fmt: skip
    """Of tile `number` of request r, QUERIES queries by HEADS of the GROUP heads that share keys: (each row's query, its head,
    whether there is such a row, its low and high, the tile's first key, an end of its keys, how many the request has, its first token)."""
    at = tl.arange(0, BLOCK_M)
    pieces: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    first_query = number // pieces * QUERIES
    query, head = first_query + at // HEADS, number % pieces * HEADS + at % HEADS
    there = (head < GROUP) & (at < QUERIES * HEADS)
    if PAGE:
        token = tl.load(start + r)
        count, length = tl.load(start + r + 1) - token, tl.load(lengths + r)
        limit = length
        there = there & (query < count)
        row_high = length - count + 1 + query
        row_low = tl.zeros_like(row_high)
        begin = 0
        if WINDOW:  # whole splits that the window has left behind are passed over
            row_low = row_high - WINDOW
            begin = tl.maximum(length - count + 1 + first_query - WINDOW, 0) // SPLIT * SPLIT
        end = tl.minimum(length - count + first_query + QUERIES, length)
        end = tl.where(first_query < count, end, begin)
    else:
        token, limit = 0, S
        there = there & (query < L)
        row_low = tl.load(low + r * low_b + query, mask=there, other=2147483647)
        row_high = tl.load(high + r * low_b + query, mask=there, other=0)
        begin = tl.load(first + r * first_b + first_query * first_l)
        if WINDOW:
            begin += tl.maximum(tl.min(row_low, 0) - begin, 0) // SPLIT * SPLIT
        end = tl.max(row_high, 0)
    return query, head, there, row_low, row_high, begin, end, limit, token


_DYNAMIC = (
    "q_b", "q_h", "q_l", "out_b", "out_h", "out_l", "k_b", "k_h", "k_s", "v_b", "v_h", "v_s", "table_b", "low_b", "first_b",
    "first_l", "L", "S", "QUERIES", "parts", "rows",
)  # fmt: skip


@triton.jit(do_not_specialize=[n for n in _DYNAMIC if n not in ("parts", "rows")])
def attention_kernel(q, keys, values, out, low, high, first, table, start, lengths, q_b, q_h, q_l, out_b, out_h, out_l, k_b, k_h,
                     k_s, v_b, v_h, v_s, table_b, low_b, first_b, first_l, L, S, QUERIES, scale, cap, GROUP: tl.constexpr,
                     HEADS: tl.constexpr, WINDOW: tl.constexpr,
                     PAGE: tl.constexpr, UNIT: tl.constexpr, D: tl.constexpr, CAP: tl.constexpr, SPLIT: tl.constexpr,
                     BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    number, shared, r = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    tl.static_assert(SPLIT % BLOCK_N == 0)  # else a block would reach into the next split
    query, head, there, row_low, row_high, begin, end, limit, token = rows_of_tile(
        number, r, low, high, start, lengths, first, low_b, first_b, first_l, L, S, QUERIES, WINDOW, GROUP, HEADS, PAGE, SPLIT,
        BLOCK_M)  # fmt: skip
    d = tl.arange(0, BLOCK_D)
    inside = there[:, None] & (d < D)[None, :]
    line, heads = (token + query).to(tl.int64), (shared * GROUP + head).to(tl.int64)
    q_at = (r * q_b + line * q_l + heads * q_h) * UNIT
    queries = tl.load(q + q_at[:, None] + d[None, :], mask=inside, other=0.0)
    if not PAGE:
        keys += r * k_b * UNIT
        values += r * v_b * UNIT
    keys += shared.to(tl.int64) * k_h * UNIT
    values += shared.to(tl.int64) * v_h * UNIT
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    output = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for split in range(begin, end, SPLIT):
        most_s, total_s, output_s = attend_split(
            queries, keys, values, table + r * table_b, k_b, k_s, v_b, v_s, row_low, row_high, split,
            tl.minimum(split + SPLIT, end), limit, scale, cap, PAGE, UNIT, D, BLOCK_M, BLOCK_N, BLOCK_D, CAP)  # fmt: skip
        most, total, output = merge(most, total, output, most_s, total_s, output_s)
    output = output / tl.where(total == 0.0, 1.0, total)[:, None]  # a query that sees no key gives zeros
    out_at = (r * out_b + line * out_l + heads * out_h) * UNIT
    tl.store(out + out_at[:, None] + d[None, :], output.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=[n for n in _DYNAMIC if not n.startswith("out_")])
def split_kernel(q, keys, values, sums, partial, low, high, first, table, start, lengths, q_b, q_h, q_l, k_b, k_h, k_s, v_b, v_h,
                 v_s, table_b, low_b, first_b, first_l, L, S, QUERIES, parts, rows, scale, cap, GROUP: tl.constexpr,
                 HEADS: tl.constexpr, SHARED: tl.constexpr, WINDOW: tl.constexpr,
                 PAGE: tl.constexpr, UNIT: tl.constexpr, D: tl.constexpr, CAP: tl.constexpr, SPLIT: tl.constexpr,
                 BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """One split of one tile: (maximum, sum) to sums[r, tile, shared, part, 2, rows], output to partial[..., rows, BLOCK_D].

    rows: of a tile, as many as there can be.
    """
    part, r = tl.program_id(0), tl.program_id(2).to(tl.int64)
    number, shared = tl.program_id(1) // SHARED, tl.program_id(1) % SHARED
    tl.static_assert(SPLIT % BLOCK_N == 0)  # else a block would reach into the next split
    query, head, there, row_low, row_high, begin, end, limit, token = rows_of_tile(
        number, r, low, high, start, lengths, first, low_b, first_b, first_l, L, S, QUERIES, WINDOW, GROUP, HEADS, PAGE, SPLIT,
        BLOCK_M)  # fmt: skip
    there = there & (tl.arange(0, BLOCK_M) < rows)
    d = tl.arange(0, BLOCK_D)
    inside = there[:, None] & (d < D)[None, :]
    line, heads = (token + query).to(tl.int64), (shared * GROUP + head).to(tl.int64)
    q_at = (r * q_b + line * q_l + heads * q_h) * UNIT
    queries = tl.load(q + q_at[:, None] + d[None, :], mask=inside, other=0.0)
    if not PAGE:
        keys += r * k_b * UNIT
        values += r * v_b * UNIT
    keys += shared.to(tl.int64) * k_h * UNIT
    values += shared.to(tl.int64) * v_h * UNIT
    split = begin + part * SPLIT
    most, total, output = attend_split(
        queries, keys, values, table + r * table_b, k_b, k_s, v_b, v_s, row_low, row_high, split,
        tl.minimum(split + SPLIT, end), limit, scale, cap, PAGE, UNIT, D, BLOCK_M, BLOCK_N, BLOCK_D, CAP)  # fmt: skip
    slot = (r * tl.num_programs(1) + tl.program_id(1)) * parts + part
    at = tl.arange(0, BLOCK_M)
    tl.store(sums + slot * 2 * rows + at, most, mask=there)
    tl.store(sums + slot * 2 * rows + rows + at, total, mask=there)
    tl.store(partial + slot * rows * BLOCK_D + at[:, None] * BLOCK_D + d[None, :], output, mask=there[:, None])


@triton.jit(do_not_specialize=[n for n in _DYNAMIC if n[:2] not in ("q_", "k_", "v_", "ta")])
def merge_kernel(sums, partial, out, low, high, first, start, lengths, out_b, out_h, out_l, low_b, first_b, first_l, L, S, QUERIES,
                 parts, rows, GROUP: tl.constexpr, HEADS: tl.constexpr, SHARED: tl.constexpr, WINDOW: tl.constexpr, PAGE: tl.constexpr, UNIT: tl.constexpr, D: tl.constexpr, SPLIT: tl.constexpr,
                 BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """What split_kernel wrote down of one tile, from the first split to the last; a row takes those in which it sees a key."""
    r = tl.program_id(2).to(tl.int64)
    number, shared = tl.program_id(1) // SHARED, tl.program_id(1) % SHARED
    query, head, there, row_low, row_high, begin, end, _, token = rows_of_tile(
        number, r, low, high, start, lengths, first, low_b, first_b, first_l, L, S, QUERIES, WINDOW, GROUP, HEADS, PAGE, SPLIT,
        BLOCK_M)  # fmt: skip
    d, at = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_M)
    there = there & (at < rows)
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    output = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    slot = (r * tl.num_programs(1) + tl.program_id(1)) * parts
    for split in range(begin, end, SPLIT):
        sees = there & (split < row_high) & (split + SPLIT > row_low)
        most_s = tl.where(sees, tl.load(sums + slot * 2 * rows + at, mask=there, other=0.0), float("-inf"))
        total_s = tl.where(sees, tl.load(sums + slot * 2 * rows + rows + at, mask=there, other=0.0), 0.0)
        output_s = tl.load(
            partial + slot * rows * BLOCK_D + at[:, None] * BLOCK_D + d[None, :], mask=there[:, None], other=0.0
        )
        most, total, output = merge(most, total, output, most_s, total_s, tl.where(sees[:, None], output_s, 0.0))
        slot += 1
    output = output / tl.where(total == 0.0, 1.0, total)[:, None]
    line, heads = (token + query).to(tl.int64), (shared * GROUP + head).to(tl.int64)
    out_at = (r * out_b + line * out_l + heads * out_h) * UNIT
    tl.store(
        out + out_at[:, None] + d[None, :], output.to(out.dtype.element_ty), mask=there[:, None] & (d < D)[None, :]
    )


@on_its_device
def dense(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    scale: float,
    soft_cap: float = 0.0,
    first: torch.Tensor | None = None,
    split: bool | None = None,
    alone: bool | None = None,
) -> torch.Tensor:
    """q[B, H, L, D], k, v[B, KH, S, D] -> [B, H, L, D], of arguments that `attention.attention` has checked.

    first: int32[B], no later than any low of its request; splits are counted from there. Without it, from the query's own low.
    split: a program for each split; None: where that has been shown to give the same bits, and there are few queries.
    alone: without `first`, whether queries of a request begin at different keys; None: the device is asked, and waited for.
    """
    import torch

    batch, heads, length, dim = q.shape
    out = torch.empty(batch, length, heads, dim, dtype=q.dtype, device=q.device).transpose(1, 2)
    if not out.numel():
        return out
    low, high = (t.to(torch.int32).contiguous() for t in (low, high))
    windowed = first is not None
    if first is None:
        first = torch.where(high > low, low, torch.iinfo(torch.int32).max).amin(1, keepdim=True)
        alone = length > 1 and (bool(((high > low) & (low != first)).any()) if alone is None else alone)
        first = low if alone else first
    alone = bool(alone) and not windowed
    first = fit(first.view(batch, -1), 1)
    numbers = {
        "low_b": length,
        "first_b": first.shape[1],
        "first_l": int(alone),
        "L": length,
        "S": k.shape[2],
        "table_b": 0,
    }
    pointers = {"low": fit(low, 1), "high": fit(high, 1), "first": first, "table": low, "start": low, "lengths": low}
    step = unit(dim, type_of(q))
    q, k, v = (fit(t, step) for t in (q, k, v))
    named = zip(
        ("q_b", "q_h", "q_l", "k_b", "k_h", "k_s", "v_b", "v_h", "v_s"),
        (s for t in (q, k, v) for s in strides(t, step)),
        strict=True,
    )
    numbers |= dict(named) | dict(zip(("out_b", "out_h", "out_l"), strides(out, step), strict=True))
    window = 1 if windowed else 0
    _launch(
        q, k, v, out, pointers, numbers, (batch, length, k.shape[2]), heads, scale, soft_cap, window, 0, alone, split
    )
    return out


@on_its_device
def paged(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_table: torch.Tensor,
    query_start: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    soft_cap: float,
    window: int | None,
    out: torch.Tensor,
    longest: tuple[int, int] | None = None,
    split: bool | None = None,
) -> None:
    """q[T, H, D], keys, values[blocks, KH, block_size, D] -> out[T, H, D], of arguments that `attention.paged_attention` has checked.

    longest: (queries, keys) that no request exceeds; without it the device is asked, and waited for.
    """
    requests, (heads, dim) = len(lengths), q.shape[1:]
    if not requests or not out.numel() or not keys.shape[0]:
        return
    if longest is None:
        longest = int((query_start[1:] - query_start[:-1]).max()), int(lengths.max())
    step = unit(dim, type_of(q))
    q, keys, values = (fit(t, step) for t in (q, keys, values))
    to = fit(out, step)
    table, start, lengths = (fit(t, 1) for t in (block_table, query_start, lengths))
    pointers = {"low": lengths, "high": lengths, "first": lengths, "table": table, "start": start, "lengths": lengths}
    named = zip(("q_l", "q_h", "out_l", "out_h"), (s for t in (q, to) for s in strides(t, step)), strict=True)
    numbers = {
        "q_b": 0,
        "out_b": 0,
        "low_b": 0,
        "first_b": 0,
        "first_l": 0,
        "L": 0,
        "S": 0,
        "table_b": table.stride(0),
        **dict(named),
    }
    steps = (s for t in (keys, values) for s in strides(t, step))
    numbers |= dict(zip(("k_b", "k_h", "k_s", "v_b", "v_h", "v_s"), steps, strict=True))
    sizes = (requests, *longest)
    _launch(
        q, keys, values, to, pointers, numbers, sizes, heads, scale, soft_cap, window or 0, keys.shape[2], False, split
    )
    if to is not out:
        out.copy_(to)


def _launch(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    pointers: dict[str, torch.Tensor],
    numbers: dict[str, int],
    sizes: tuple[int, int, int],
    heads: int,
    scale: float,
    soft_cap: float,
    window: int,
    page: int,
    alone: bool,
    split: bool | None,
) -> None:
    """sizes: requests, the most queries of one, the most keys of one. alone: a tile holds one query."""
    import torch

    requests, queries, length = sizes
    shared, dim, target = keys.shape[1], q.shape[-1], target_of_device()
    if dim > WIDEST:
        raise NotInvariantError(
            f"attention on a GPU has batch-invariant kernels for heads of up to {WIDEST} elements; got {dim}"
        )
    group = heads // shared
    chosen = tile(dim, type_of(q), target)
    block_m = chosen.sizes["BLOCK_M"]
    constants = _constants(dim, type_of(q), group, shared, page, window, bool(soft_cap), chosen)
    together = int(constants["HEADS"])
    in_tile = 1 if alone else block_m // together
    tiles, parts = triton.cdiv(queries, in_tile) * triton.cdiv(group, together), triton.cdiv(length, SPLIT)
    numbers = numbers | {"QUERIES": in_tile}
    scaled = 2 * scale / soft_cap if soft_cap else scale
    factors = {"scale": scaled * LOG2_E.value, "cap": soft_cap * LOG2_E.value}
    rows = min(in_tile, queries) * together
    if split is None:
        few = parts > 1 and rows <= FEW and tiles * shared * requests < processors()
        split = few and splits_agree(q, group, shared, bool(soft_cap), page, window)
    if not split:
        given = {"q": q, "keys": keys, "values": values, "out": out, **pointers, **numbers, **factors, **constants}
        given = {n: given[n] for n in attention_kernel.arg_names}
        attention_kernel[(tiles, shared, requests)](**given, **chosen.options)
        return
    parts = max(parts, 1)
    slots = requests * tiles * shared * parts
    sums = q.new_empty(slots, 2, rows, dtype=torch.float32)
    partial = q.new_empty(slots, rows, chosen.sizes["BLOCK_D"], dtype=torch.float32)
    given = {
        "q": q,
        "keys": keys,
        "values": values,
        "sums": sums,
        "partial": partial,
        "out": out,
        **pointers,
        **numbers,
        **factors,
        **constants,
        "parts": parts,
        "rows": rows,
    }
    merging = tile_of_merge(dim, type_of(q), target, rows <= FEW)
    split_kernel[(parts, tiles * shared, requests)](**{n: given[n] for n in split_kernel.arg_names}, **chosen.options)
    given |= merging.sizes
    merge_kernel[(1, tiles * shared, requests)](**{n: given[n] for n in merge_kernel.arg_names}, **merging.options)


def telling(group: int, shared: int, dim: int) -> list[tuple[torch.Tensor, ...]]:
    """q[B, shared group, L, D], k, v[B, shared, S, D] in which an order of addition shows, though results are in half precision.

    Scores span many powers of 2 in some requests, so that maxima move from split to split. In the first two each key is there twice, with
    values that cancel: of the sums of values nothing is left but what was rounded on the way. What they are divided by shows in the
    last bit of one result in ten thousand, so the third has many. L: as many queries as few rows hold.
    """
    import torch

    generator, made = torch.Generator().manual_seed(0), []
    many, length = max(3, 2 * MANY // shared), 2 if 2 * group <= FEW else 1
    for requests, keys, cancels in ((3, 2 * SPLIT + 2, True), (3, 8 * SPLIT - 4, True), (many, 2 * SPLIT + 2, False)):
        unlike = 2.0 ** (torch.arange(requests) % 3)[:, None, None, None]
        sizes = ((requests, shared * group, length, dim), *[(requests, shared, keys // 2, dim)] * 2)
        q, k, v = (torch.randn(size, generator=generator) * unlike for size in sizes)
        order = torch.randperm(keys, generator=generator)
        k, v = torch.cat([k, k], 2)[:, :, order], torch.cat([v, -v if cancels else v], 2)[:, :, order]
        made.append((q, k, v))
    return made


def splits_agree(q: torch.Tensor, group: int, shared: int, capped: bool, page: int = 0, window: int = 0) -> bool:
    """Whether q's device gives the same bits at one go and with a program a split, for few rows of that kind of attention.

    It is asked once for each kind, with the binaries that would run, and never while a graph is captured: until then it is one go.
    """
    import torch

    key = (str(q.device), q.dtype, q.shape[-1], group, shared, capped, page, window)
    if key in _agreed:
        return _agreed[key]
    if q.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    found = holds(lambda: _same_split(q, group, shared, 20.0 if capped else 0.0, page, window))
    if found is not None:
        _agreed[key] = found
    return bool(found)


def _same_split(q: torch.Tensor, group: int, shared: int, cap: float, page: int, window: int) -> bool:
    import torch

    dim = q.shape[-1]
    for given in telling(group, shared, dim):
        wide, k, v = (t.to(q.dtype).to(q.device) for t in given)
        (requests, _, length, _), keys = wide.shape, k.shape[2]
        ends = torch.tensor([keys, keys // 2, 2])[torch.arange(requests) % 3].to(q.device).int()
        ways = []
        for split in (False, True):
            if page:
                blocks = -(-keys // page)
                cached = [torch.nn.functional.pad(t, (0, 0, 0, blocks * page - keys)) for t in (k, v)]
                cached = [t.unflatten(2, (blocks, page)).transpose(1, 2).flatten(0, 1).contiguous() for t in cached]
                table = torch.arange(requests * blocks, dtype=torch.int32, device=q.device).view(requests, blocks)
                start = (torch.arange(requests + 1, device=q.device) * length).int()
                flat = wide.transpose(1, 2).flatten(0, 1).contiguous()
                out = torch.zeros_like(flat)
                where = (table, start, ends)
                paged(flat, *cached, *where, dim**-0.5, cap, window or None, out, (length, keys), split)
            else:
                high = (ends[:, None] - torch.arange(length, device=q.device).flip(0)).int()
                low = torch.zeros_like(high)
                first = low[:, 0].contiguous() if window else None
                out = dense(wide, k, v, low, high, dim**-0.5, cap, first, split, alone=False)
            ways.append(out)
        if not bits_equal(*ways):
            return False
    return True


def _constants(
    dim: int, dtype: str, group: int, shared: int, page: int, window: int, cap: bool, chosen: Tile
) -> dict[str, object]:
    """What a model and a cache decide, with the tile."""
    return {
        "GROUP": group,
        "HEADS": min(group, chosen.sizes["BLOCK_M"]),
        "SHARED": shared,
        "PAGE": page,
        "WINDOW": window,
        "UNIT": unit(dim, dtype),
        "D": dim,
        "CAP": cap,
        "SPLIT": SPLIT,
        **chosen.sizes,
    }


DIM, GROUP_OF, SHARED_OF = 128, 4, 8  # of the heads that certificates and benchmarks/compiled.py are about
_INTEGERS = ("table_b", "low_b", "first_b", "first_l", "L", "S", "QUERIES")
_Q, _KV, _OUT = ("q_b", "q_h", "q_l"), ("k_b", "k_h", "k_s", "v_b", "v_h", "v_s"), ("out_b", "out_h", "out_l")


def signature_of(kernel: str, dim: int = DIM) -> Callable[[str, str], Signature]:
    """Of a kernel over a paged cache in blocks of 16 and over keys in one piece, with a window and without.

    What low, high, first and lengths hold is a request's own; where its queries and blocks lie is not.
    """

    def of(dtype: str, target: str, page: tuple[int, ...] = (16, 0), window: tuple[int, ...] = (0, 1024)) -> Signature:
        chosen = (tile_of_merge if kernel == "merge_kernel" else tile)(dim, dtype, target)
        known = globals()[kernel].arg_names
        constants = _constants(dim, dtype, GROUP_OF, SHARED_OF, 16, 0, False, chosen) | {"PAGE": page, "WINDOW": window}
        integers = (*_INTEGERS, *_Q, *_KV, *_OUT, "parts", "rows")
        pointers = dict.fromkeys(("q", "keys", "values", "out"), "*T") | dict.fromkeys(("sums", "partial"), "*fp32")
        pointers |= dict.fromkeys(("low", "high", "first", "table", "start", "lengths"), "*i32")
        every = {**pointers, **dict.fromkeys(integers, "i32"), "scale": "fp32", "cap": "fp32"}
        return Signature(
            arguments={name: every[name] for name in known if name in every},
            constexprs={name: value for name, value in constants.items() if name in known},
            batch=tuple(name for name in known if name in integers or name in ("start", "table")),
            reduction=(),
            batch_axes=(1, 2) if kernel == "split_kernel" else (0, 1, 2),  # axis 0 of that one tells splits apart, not rows
            aligned=tuple(name for name in known if name in pointers),
            masked_tail=True,
            options=chosen.options,
            dtypes=("bf16", "fp16", "fp32"),
        )  # fmt: skip

    return of


DETCHECK: Declared = {name: signature_of(name) for name in ("attention_kernel", "split_kernel", "merge_kernel")}
