"""Scaled dot-product attention: causal, grouped queries, sliding window, soft cap, padding on either side.

Batch-invariant because every query goes through its own keys in splits of a fixed size, counted from the first key that it
sees (`_cpu/attention.cpp` and `_triton/attention.py` state the order). A fixed *number* of splits would follow the length of the longest neighbour; a
count from the start of the padding would follow how much there is of it. The same order serves prefill, chunked prefill and
decode, and keys that lie in one piece or in the blocks of a paged cache: a split is counted in keys, never in blocks.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from detcheck.checks import NotInvariantError, dtype_code
from detcheck.kernels._cpu import build
from detcheck.kernels._triton import launch
from detcheck.op import Op

if TYPE_CHECKING:
    import torch

NUMBERS = ctypes.c_int64 * 24  # _cpu/attention.cpp's Shape


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor | None = None,
    high: torch.Tensor | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> torch.Tensor:
    """q[B, H, L, D], k, v[B, KH, S, D] -> [B, H, L, D]; query i of request b sees the keys low[b, i] to high[b, i] - 1.

    low, high: int32[B, L]; by default causal, the last query seeing every key. A query that sees no key gives zeros.
    soft_cap: scores become cap * tanh(score / cap); 0: not. Sums in float32. Raises ValueError for what it cannot take.
    """
    import torch

    shapes_fit = q.ndim == k.ndim == 4 and k.shape == v.shape and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]
    if not shapes_fit or q.shape[1] % k.shape[1]:
        given = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"attention needs q[B, H, L, D], k and v[B, KH, S, D] with H a multiple of KH; got {given}")
    code = dtype_code("attention", q, k, v)
    batch, heads, length, dim = q.shape
    scale = dim**-0.5 if scale is None else scale
    if (low is None and length > k.shape[2]) or (low is None) != (high is None):
        low, high = causal(batch, length, k.shape[2], device=q.device)
    if q.is_cuda:
        launch.need()
        from detcheck.kernels._triton import attention as triton_attention

        if low is None:
            low, high = causal(batch, length, k.shape[2], device=q.device)
            return triton_attention.dense(q, k, v, low, high, scale, soft_cap, alone=False)
        return triton_attention.dense(q, k, v, low, high, scale, soft_cap)
    if not build.available():
        low, high = causal(batch, length, k.shape[2]) if low is None else (low, high)
        return _torch_attention(q, k, v, low, high, scale, soft_cap)
    q, k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype)
    if low is not None:
        low, high = (t.to(torch.int32).contiguous() for t in (low, high))
    strides = (*q.stride()[:3], *out.stride()[:3], *k.stride()[:3], *v.stride()[:3])
    shape = NUMBERS(batch, heads, length, dim, *k.shape[1:3], *strides)
    pointers = [None if t is None else t.data_ptr() for t in (q, k, v, low, high)]
    call = build.function("attention", "ppppppppppiddi")
    call(*pointers, None, None, None, out.data_ptr(), shape, code, scale, soft_cap, torch.get_num_threads())
    return out


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
    _check_integers(
        "paged_attention", q, torch.int32, block_table=block_table, query_start=query_start, lengths=lengths
    )
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
        from detcheck.kernels._triton import attention as triton_attention

        where = (block_table, query_start, lengths)
        triton_attention.paged(q, keys, values, *where, scale, soft_cap, window, out, longest)
        return out
    if not build.available():
        _torch_paged_attention(q, keys, values, block_table, query_start, lengths, scale, soft_cap, window, out)
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
        raise _unfit(refused, tokens, keys, block_table, query_start, lengths)
    return out


def write_cache(
    k: torch.Tensor, v: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor
) -> None:
    """k, v[T, KH, D] into keys, values[blocks, KH, block_size, D]: token t to block slots[t] // block_size, there to place
    slots[t] % block_size. slots: int64[T], all different; tokens of a negative slot are passed over. Raises ValueError for
    what it cannot take, and writes nothing then."""
    import torch

    cache = keys.shape
    fits = (
        k.ndim == 3 and keys.ndim == 4 and k.shape == v.shape and cache == values.shape and slots.shape == k.shape[:1]
    )
    if not fits or k.shape[1:] != (cache[1], cache[3]):
        given = ", ".join(str(tuple(t.shape)) for t in (k, v, keys, values, slots))
        needs = "k and v[T, KH, D], keys and values[blocks, KH, block_size, D] and slots[T]"
        raise ValueError(f"write_cache needs {needs}; got {given}")
    _check_integers("write_cache", k, torch.int64, slots=slots)
    dtype_code("write_cache", k, v, keys, values)
    k_strides, v_strides = keys.stride(), values.stride()
    if k_strides[3] != 1 or v_strides[3] != 1:
        given = f"{k_strides}, {v_strides}"
        raise ValueError(f"write_cache needs keys and values whose last dimension is dense; got strides {given}")
    tokens, blocks, size = slots.shape[0], cache[0], cache[2]
    if k.is_cpu and build.available():
        k, v = (t if t.stride(2) == 1 else t.contiguous() for t in (k, v))
        slots = slots.contiguous()
        strides = (*k.stride()[:2], *v.stride()[:2], *k_strides[:3], *v_strides[:3])
        shape = NUMBERS(tokens, cache[1], cache[3], blocks, size, *strides)
        pointers = [t.data_ptr() for t in (k, v, keys, values, slots)]
        build.function("write_cache", "ppppppi", "attention")(*pointers, shape, k.element_size())
        refused = shape[15]
    else:
        beyond = slots >= blocks * size
        refused = int(beyond.int().argmax()) if bool(beyond.any()) else tokens
        if refused == tokens:
            used = slots >= 0
            block, place = slots[used] // size, slots[used] % size
            keys[block, :, place], values[block, :, place] = k[used], v[used]
    if refused < tokens:
        given = f"token {refused} has slot {int(slots[refused])}"
        raise ValueError(f"write_cache needs slots below {blocks} blocks * {size} = {blocks * size}; {given}")


def _check_integers(op: str, q: torch.Tensor, dtype: torch.dtype, **tensors: torch.Tensor) -> None:
    where = q.device if q.is_cuda else "cpu"
    for name, t in tensors.items():
        if t.dtype != dtype or not (t.device == q.device if q.is_cuda else t.is_cpu):
            needs = f"{name} of {str(dtype).removeprefix('torch.')} on {where}"
            raise ValueError(f"{op} needs {needs}; got {str(t.dtype).removeprefix('torch.')} on {t.device.type}")


def _unfit(
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


def differentiable(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> torch.Tensor:
    """`attention`, with gradients for q, k and v where they are asked for."""
    import torch

    if not (torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))):
        return attention(q, k, v, low, high, scale, soft_cap)

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(context: object, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            context.save_for_backward(q, k, v)
            return attention(q, k, v, low, high, scale, soft_cap)

        @staticmethod
        def backward(context: object, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return gradients(grad, *context.saved_tensors, low, high, scale, soft_cap)

    return Attention.apply(q, k, v)


def gradients(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `attention` for q, k, v, from grad[B, H, L, D]: weights are computed again, in float32."""
    import torch

    batch, heads, _, dim = q.shape
    share, keys = heads // k.shape[1], k.shape[2]
    scale = dim**-0.5 if scale is None else scale
    q32, g32 = q.float(), grad.float()
    k32, v32 = (t.float().repeat_interleave(share, 1) for t in (k, v))
    at = torch.arange(keys, device=q.device)
    visible = ((at >= low[..., None]) & (at < high[..., None]))[:, None]
    scores = q32 @ k32.transpose(-1, -2) * scale
    capped = soft_cap * torch.tanh(scores / soft_cap) if soft_cap else scores
    weights = torch.softmax(capped.masked_fill(~visible, float("-inf")), -1).masked_fill(~visible, 0.0)
    d_weights = g32 @ v32.transpose(-1, -2)
    d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True)) * scale
    if soft_cap:
        d_scores = d_scores * (1 - (capped / soft_cap) ** 2)

    def shared(t: torch.Tensor) -> torch.Tensor:  # heads that share keys add their gradients up
        return t.view(batch, k.shape[1], share, keys, dim).sum(2)

    d_k, d_v = shared(d_scores.transpose(-1, -2) @ q32), shared(weights.transpose(-1, -2) @ g32)
    return (d_scores @ k32).to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)


def causal(
    batch: int, length: int, keys: int, window: int | None = None, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(low, high), int32[batch, length], where the last query sees key `keys` - 1, and nobody more than `window` keys."""
    import torch

    high = torch.arange(keys - length + 1, keys + 1, dtype=torch.int32, device=device).clamp(min=0)
    low = torch.zeros_like(high) if window is None else (high - window).clamp(min=0)
    return low.expand(batch, length), high.expand(batch, length)


def seen(mask: torch.Tensor, batch: int, length: int, keys: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(low, high) of a mask [B or 1, 1 or H, L or 1, S]: booleans (true: seen) or numbers that are added (0: seen).

    Raises NotInvariantError where heads see different keys, where a query's keys are not one run, or where a bias is added.
    """
    import torch

    if mask.dtype != torch.bool:
        unseen = mask <= torch.finfo(mask.dtype).min / 2
        if bool(((mask != 0) & ~unseen).any()):
            raise NotInvariantError(
                "attention with an additive bias has no batch-invariant kernel; it has one for masks of 0 and -inf"
            )
        mask = ~unseen
    if mask.shape[1] > 1 and not bool((mask == mask[:, :1]).all()):
        raise NotInvariantError("attention whose heads see different keys has no batch-invariant kernel")
    seen_by = mask[:, 0, :, :keys].expand(batch, length, keys)
    count = seen_by.sum(-1, dtype=torch.int32)
    low = seen_by.to(torch.int8).argmax(-1).to(torch.int32)
    run = torch.arange(keys, dtype=torch.int32, device=mask.device)[None, None] - low[..., None]
    if not bool(((run >= 0) & (run < count[..., None]) == seen_by).all()):
        raise NotInvariantError("attention over keys with gaps between them has no batch-invariant kernel")
    return low, low + count


def _torch_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    scale: float,
    soft_cap: float,
) -> torch.Tensor:
    """Without a compiler: a query at a time, over its own keys from a fresh copy, so that the shape is its own."""
    import torch

    out = torch.zeros_like(q)
    share = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for i in range(q.shape[2]):
            begin, end = int(low[b, i]), int(high[b, i])
            if begin >= end:
                continue
            keys, values = (t[b, :, begin:end].float().repeat_interleave(share, 0).clone() for t in (k, v))
            scores = (q[b, :, i, None].float() * keys).sum(-1) * scale
            if soft_cap:
                scores = soft_cap * torch.tanh(scores / soft_cap)
            out[b, :, i] = (scores.softmax(-1)[..., None] * values).sum(1).to(q.dtype)
    return out


def _torch_paged_attention(
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
            raise _unfit(r, len(q), keys, block_table, query_start, lengths)
        work.append((begin, end, length - ahead * size, table))
    for begin, end, length, table in work:
        k, v = (t[table].transpose(0, 1).flatten(1, 2)[None, :, :length] for t in (keys, values))
        low, high = causal(1, end - begin, length, window)
        queries = q[begin:end].transpose(0, 1)[None]
        out[begin:end] = _torch_attention(queries, k, v, low, high, scale, soft_cap)[0].transpose(0, 1)


def stock(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    import torch

    length, keys = q.shape[2], k.shape[2]
    visible = torch.ones(length, keys, dtype=torch.bool, device=q.device).tril(keys - length)
    grouped = q.shape[1] != k.shape[1]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=grouped)


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return stock(q.double(), k.double(), v.double())


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """shape "HxKHxLxSxD": q[rows, H, L, D], k, v[rows, KH, S, D]."""
    import torch

    heads, kv_heads, length, keys, dim = map(int, shape.split("x"))
    sizes = [(heads, length, dim), (kv_heads, keys, dim), (kv_heads, keys, dim)]
    made = []
    for n, size in enumerate(sizes):
        generators = [torch.Generator().manual_seed(seed + 1000 * n + row) for row in range(rows)]
        made.append(
            torch.stack([torch.randn(size, generator=g) for g in generators]) if rows else torch.empty(0, *size)
        )
    return tuple(t.to(dtype) for t in made)


TRITON = tuple(f"detcheck.kernels._triton.attention:{name}_kernel" for name in ("attention", "split", "merge"))
OP = Op(
    "attention", ("4x2x1x130x40", "4x2x17x300x64"), make, stock, reference, attention,
    batched=(0, 1, 2), devices=("cpu", "cuda"), triton=TRITON,
)  # fmt: skip
