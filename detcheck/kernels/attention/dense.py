"""Attention over keys that lie in one piece."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.kernels._triton import launch
from detcheck.kernels.attention.masks import causal
from detcheck.op import dtype_code

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
    """q[B, H, L, D], k[B, KH, S, D], v[B, KH, S, E] -> [B, H, L, E]; query i of request b sees the keys low[b, i] to high[b, i] - 1.

    low, high: int32[B, L], at least 0 and at most S; by default causal, the last query seeing every key. A query that sees no key gives zeros.
    soft_cap: scores become cap * tanh(score / cap); 0: not. Sums in float32. Raises ValueError for what it cannot take.
    """
    import torch

    check(q, k, v, low, high)
    code = dtype_code("attention", q, k, v)
    batch, heads, length, dim = q.shape
    scale = dim**-0.5 if scale is None else scale
    if dim != (own := v.shape[3]):  # as in MLA: filled up with zeros, which add nothing
        wide = (torch.nn.functional.pad(t, (0, max(dim, own) - t.shape[3])) for t in (q, k, v))
        return attention(*wide, low, high, scale, soft_cap)[..., :own].contiguous()
    if (low is None and length > k.shape[2]) or (low is None) != (high is None):
        low, high = causal(batch, length, k.shape[2], device=q.device)
    if q.is_cuda:
        launch.need()
        from detcheck.kernels._triton import attention_launch

        if low is None:
            low, high = causal(batch, length, k.shape[2], device=q.device)
            return attention_launch.dense(q, k, v, low, high, scale, soft_cap, alone=False)
        return attention_launch.dense(q, k, v, low, high, scale, soft_cap)
    if not build.available():
        low, high = causal(batch, length, k.shape[2]) if low is None else (low, high)
        return torch_attention(q, k, v, low, high, scale, soft_cap)
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


def check(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, low: torch.Tensor | None, high: torch.Tensor | None
) -> None:
    """Raises ValueError where they do not fit together. Whether low and high lie within the keys is asked on a CPU alone: a GPU would be waited for."""
    keys_fit = q.ndim == k.ndim == v.ndim == 4 and k.shape[:3] == v.shape[:3] and k.shape[::3] == q.shape[::3]
    if not keys_fit or not k.shape[1] or q.shape[1] % k.shape[1]:
        given = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(
            f"attention needs q[B, H, L, D], k[B, KH, S, D] and v[B, KH, S, E] with H a multiple of KH; got {given}"
        )
    if low is None and high is None:
        return
    if low is None or high is None:
        raise ValueError(
            "attention needs low and high together, or neither: a query sees the keys from one up to the other"
        )
    form, keys = q.shape[::2], k.shape[2]
    if low.shape != form or high.shape != form:
        given = f"{tuple(low.shape)} and {tuple(high.shape)}"
        raise ValueError(f"attention needs low and high of the shape (batch, queries), {tuple(form)}; got {given}")
    if q.is_cpu and low.numel() and not (int(low.min()) >= 0 and int(high.max()) <= keys):
        given = f"{int(low.min())} and {int(high.max())}"
        raise ValueError(f"attention needs low at least 0 and high at most {keys}, the number of keys; got {given}")


def torch_attention(
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
