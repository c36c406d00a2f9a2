"""Scaled dot-product attention: causal, grouped queries, sliding window, soft cap, padding on either side.

Batch-invariant because every query goes through its own keys in splits of a fixed size, counted from the first key that it
sees (`_cpu_attention.cpp` states the order). A fixed *number* of splits would follow the length of the longest neighbour; a
count from the start of the padding would follow how much there is of it. The same order serves prefill, chunked prefill and
decode.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from detcheck.kernels import _native
from detcheck.kernels._checks import NotInvariantError, dtype_code
from detcheck.kernels._op import Op

if TYPE_CHECKING:
    import torch

LANES = 8  # a head's dimension is filled up to a multiple of this with zeros, which add nothing


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
        low, high = causal(batch, length, k.shape[2])
    if not _native.available():
        low, high = causal(batch, length, k.shape[2]) if low is None else (low, high)
        return _torch_attention(q, k, v, low, high, scale, soft_cap)
    if dim % LANES:
        q, k, v = (torch.nn.functional.pad(t, (0, LANES - dim % LANES)) for t in (q, k, v))
    k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (k, v))
    queries = q.float().contiguous()
    out = torch.empty_like(queries)
    if low is not None:
        low, high = (t.to(torch.int32).contiguous() for t in (low, high))
    sizes = (batch, heads, length, q.shape[3], k.shape[1], k.shape[2], *k.stride()[:3], *v.stride()[:3])
    pointers = [None if t is None else t.data_ptr() for t in (queries, k, v, low, high, out)]
    shape = (ctypes.c_int64 * len(sizes))(*sizes)
    _native.function("attention", "pppppppiddi")(*pointers, shape, code, scale, soft_cap, torch.get_num_threads())
    return out[..., :dim].to(q.dtype)


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
    at = torch.arange(keys)
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


def causal(batch: int, length: int, keys: int, window: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(low, high), int32[batch, length], where the last query sees key `keys` - 1, and nobody more than `window` keys."""
    import torch

    high = torch.arange(keys - length + 1, keys + 1, dtype=torch.int32).clamp(min=0)
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
    run = torch.arange(keys)[None, None] - low[..., None]
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


def stock(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    import torch

    length, keys = q.shape[2], k.shape[2]
    visible = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)
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


OP = Op("attention", ("4x2x1x130x40", "4x2x17x300x64"), make, stock, reference, attention, batched=(0, 1, 2))
