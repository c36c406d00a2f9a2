"""Scaled dot-product attention: causal, grouped queries, sliding window, soft cap, padding on either side.

Batch-invariant because every query goes through its own keys in splits of a fixed size, counted from the first key that it
sees (`_cpu/attention.cpp` and `_triton/attention.py` state the order). A fixed *number* of splits would follow the length of the longest neighbour; a
count from the start of the padding would follow how much there is of it. The same order serves prefill, chunked prefill and
decode, and keys that lie in one piece or in the blocks of a paged cache: a split is counted in keys, never in blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels.attention import hugging_face, sdpa
from detcheck.kernels.attention.autograd import differentiable, gradients
from detcheck.kernels.attention.cache import write_cache
from detcheck.kernels.attention.dense import attention, torch_attention
from detcheck.kernels.attention.masks import causal, seen, visible
from detcheck.kernels.attention.paged import paged_attention
from detcheck.op import Op

if TYPE_CHECKING:
    import torch

__all__ = [
    "attention", "causal", "differentiable", "gradients", "paged_attention", "seen", "torch_attention", "visible", "write_cache",
]  # fmt: skip


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
    batched=(0, 1, 2), devices=("cpu", "cuda"), triton=TRITON, order="attention",
    aten=sdpa.ATEN, also=("attention",), elsewhere=hugging_face.register,
)  # fmt: skip
