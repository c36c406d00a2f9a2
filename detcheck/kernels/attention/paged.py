"""Attention over keys that lie in the blocks of a paged cache: the same bits as over the same keys in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.kernels._triton import launch
from detcheck.kernels.attention.cache import check_integers
from detcheck.kernels.attention.dense import NUMBERS, torch_attention
from detcheck.kernels.attention.masks import causal
from detcheck.op import dtype_code

if TYPE_CHECKING:
    import torch


def paged_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_table: torch.Tensor,
    query_start: torch.Tensor,
    lengths: torch.Tensor,
    scale: float | None = None,
    soft_cap: float = 0.0,
    window: int | None = None,
    out: torch.Tensor | None = None,
    longest: tuple[int, int] | None = None,
) -> torch.Tensor:
    """q[T, H, D], keys, values[blocks, KH, block_size, D] -> [T, H, D], the same bits as `attention` over the same keys.

    block_table: int32[R, B]; key j of request r is keys[block_table[r, j // block_size], :, j % block_size]. lengths: int32[R],
    keys of a request. query_start: int32[R + 1]; request r has the queries query_start[r] to query_start[r + 1] - 1, the last
    of which stands at its last key; a query sees its own key and all before it, at most `window` of them. Rows of `out` that
    are no request's stay as they are; of a new `out` they are zeros. Raises ValueError for what it cannot take.

    On a GPU what block_table, query_start and lengths hold is not looked at, since that would wait for the device; `longest`, the
    most queries and the most keys of a request, spares the one look that is needed without it. And there a window does not move
    where splits are counted from: it is the request's first key.
    """
    import torch

    cache = keys.shape
    fits = q.ndim == 3 and keys.ndim == 4 and values.shape == cache and q.shape[2] == cache[3] and cache[1] and cache[2]
    if not fits or q.shape[1] % cache[1]:
        given = ", ".join(str(tuple(t.shape)) for t in (q, keys, values))
        needs = "q[T, H, D], keys and values[blocks, KH, block_size, D] with H a multiple of KH"
        raise ValueError(f"paged_attention needs {needs}; got {given}")
    requests = lengths.shape[0] if lengths.ndim == 1 else -1
    if block_table.ndim != 2 or block_table.shape[0] != requests or query_start.shape != (requests + 1,):
        given = ", ".join(str(tuple(t.shape)) for t in (block_table, query_start, lengths))
        raise ValueError(f"paged_attention needs block_table[R, B], query_start[R + 1] and lengths[R]; got {given}")
    check_integers("paged_attention", q, torch.int32, block_table=block_table, query_start=query_start, lengths=lengths)
    if window is not None and window < 1:
        raise ValueError(f"paged_attention needs a window of at least 1 key, or None; got {window}")
    if out is None:
        out = q.new_zeros(q.shape)
    elif out.shape != q.shape:
        raise ValueError(f"paged_attention needs an out of q's shape {tuple(q.shape)}; got {tuple(out.shape)}")
    code = dtype_code("paged_attention", q, keys, values, out)
    k_strides, v_strides, out_strides = keys.stride(), values.stride(), out.stride()
    if k_strides[3] != 1 or v_strides[3] != 1 or out_strides[2] != 1:
        given = f"{k_strides}, {v_strides}, {out_strides}"
        raise ValueError(
            f"paged_attention needs keys, values and out whose last dimension is dense; got strides {given}"
        )
    scale = q.shape[2] ** -0.5 if scale is None else scale
    if q.is_cuda:
        launch.need()
        from detcheck.kernels._triton import attention_launch

        where = (block_table, query_start, lengths)
        attention_launch.paged(q, keys, values, *where, scale, soft_cap, window, out, longest)
        return out
    if not build.available():
        torch_paged_attention(q, keys, values, block_table, query_start, lengths, scale, soft_cap, window, out)
        return out
    q = q if q.stride(2) == 1 else q.contiguous()
    block_table = block_table if block_table.stride(1) == 1 else block_table.contiguous()
    query_start, lengths = query_start.contiguous(), lengths.contiguous()
    tokens, heads, dim = q.shape
    columns, (q_t, q_h, _) = block_table.shape[1], q.stride()
    shape = NUMBERS(
        *(requests, heads, 0, dim, cache[1], cache[2]),
        *(0, q_h, q_t, 0, out_strides[1], out_strides[0], *k_strides[:3], *v_strides[:3]),
        *(window or 0, tokens, cache[0], columns, block_table.stride(0), requests),
    )
    tensors = (block_table, query_start, lengths, out)
    pointers = (q.data_ptr(), keys.data_ptr(), values.data_ptr(), None, None, *(t.data_ptr() for t in tensors))
    call = build.function("attention", "ppppppppppiddi")
    call(*pointers, shape, code, scale, soft_cap, torch.get_num_threads())
    if (refused := shape[-1]) < requests:
        raise unfit(refused, tokens, keys, block_table, query_start, lengths)
    return out


def torch_paged_attention(
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
) -> None:
    """Without a compiler: a request at a time, its keys gathered, as the dense form goes through them. Refuses what the
    kernel refuses, before anything is written."""
    blocks, size = keys.shape[0], keys.shape[2]
    work = []
    for r, length in enumerate(lengths.tolist()):
        begin, end = query_start[r : r + 2].tolist()
        count = end - begin
        if count == 0 and 0 <= begin <= len(q):
            continue
        behind = -(-length // size)
        ahead = max(0, length - count + 1 - window) // size if window else 0  # blocks that the window has left behind
        table = block_table[r, ahead:behind].long()
        in_cache = behind <= block_table.shape[1] and bool(((table >= 0) & (table < blocks)).all())
        if not (0 <= begin <= end <= len(q) and count <= length and in_cache):
            raise unfit(r, len(q), keys, block_table, query_start, lengths)
        work.append((begin, end, length - ahead * size, table))
    for begin, end, length, table in work:
        k, v = (t[table].transpose(0, 1).flatten(1, 2)[None, :, :length] for t in (keys, values))
        low, high = causal(1, end - begin, length, window)
        queries = q[begin:end].transpose(0, 1)[None]
        out[begin:end] = torch_attention(queries, k, v, low, high, scale, soft_cap)[0].transpose(0, 1)


def unfit(
    request: int,
    tokens: int,
    keys: torch.Tensor,
    block_table: torch.Tensor,
    query_start: torch.Tensor,
    lengths: torch.Tensor,
) -> ValueError:
    """What the kernel refused, in words."""
    begin, end = query_start[request : request + 2].tolist()
    return ValueError(
        f"paged_attention needs queries in q, at least as many keys, and blocks in the cache for them; request {request} has "
        f"queries {begin} to {end} of {tokens}, {int(lengths[request])} keys and blocks {block_table[request].tolist()} of "
        f"{keys.shape[2]} keys, in a cache of {keys.shape[0]} blocks"
    )
