"""Attention on a GPU, over keys in one piece or in the blocks of a paged cache: the kernels, and what `detcheck certify` is told of them.

Batch-invariant because every query goes through its own keys in splits of SPLIT keys, counted from a first key that is its
request's own: a fixed size, never a fixed number. Within a split, BLOCK_N keys after BLOCK_N keys raise a fresh (maximum, sum,
output); one helper, `merge`, then takes the splits together from the first to the last. A program takes a tile of queries, and
goes as far as the one that sees most; what the others do not see has weight zero, and adds exactly nothing. So prefill, chunked
prefill and decode are one order.

Few queries over many keys leave a device idle. `split_kernel` then has a program for every split, which writes down what
`attend_split` gives, and `merge_kernel` calls `merge` on them in the same order: the same operations, and fused multiply-adds
are off (see launch.py), so the same bits. They are other binaries all the same, and attention_splits.py compares them.

With a window the splits are counted from the request's first key, where the caller knows it (`first`, and in a paged cache);
else from the query's own first key, and then a tile holds one query, since its neighbours' splits begin elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import triton
import triton.language as tl

from detcheck.kernels._triton.attention_tiles import constants_of, tile, tile_of_merge
from detcheck.kernels._triton.launch import Declared
from detcheck.op import Signature


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
        constants = constants_of(dim, dtype, GROUP_OF, SHARED_OF, 16, 0, False, chosen)
        constants |= {"PAGE": page, "WINDOW": window}
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
