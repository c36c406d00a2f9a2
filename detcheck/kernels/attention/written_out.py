"""Attention with a bias on its scores (ALiBi, relative positions), with sinks, or over keys with gaps: products, softmax, products.

Batch-invariant because each step is (`matmul`, `softmax`), and because softmax and the second product count from the first key of a row that
is not hidden: keys that a mask hides, before a row's own or behind them, change nothing. In float32, rounded once at the end. Slower than
`attention`, which never makes all scores at once. On the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels.elementwise import each
from detcheck.kernels.matmul import bmm
from detcheck.kernels.softmax import softmax
from detcheck.op import NotInvariantError, dtype_code

if TYPE_CHECKING:
    import torch

NO_BACKWARD = "the backward pass of attention with an additive bias, sinks or gaps has no batch-invariant kernel"


def split(mask: torch.Tensor, keys: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(which keys are seen, what is added to their scores) of a mask of booleans or of numbers that are added."""
    import torch

    mask = mask[..., :keys]
    if mask.dtype == torch.bool:
        return mask, None
    shown = mask > torch.finfo(mask.dtype).min / 2
    return shown, mask.float().masked_fill(~shown, 0.0)


def written_out(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    shown: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> torch.Tensor:
    """q[B, H, L, D], k, v[B, KH, S, D] -> [B, H, L, D]; shown: bool, bias: float, both broadcast to [B, H, L, S]; sinks[H]: scores of no key.

    A query that sees no key gives zeros. Raises NotInvariantError for what it cannot take.
    """
    import torch

    dtype_code("attention", q, k, v)
    if not q.is_cpu:
        raise NotInvariantError(
            "attention with an additive bias, sinks or gaps has no batch-invariant kernel on cuda; it has on cpu"
        )
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (q, k, v, bias, sinks)):
        raise NotInvariantError(NO_BACKWARD)
    (batch, heads, length, dim), keys = q.shape, k.shape[2]

    def per_head(t: torch.Tensor) -> torch.Tensor:
        return t.float().repeat_interleave(heads // t.shape[1], 1).flatten(0, 1)

    scores = bmm(per_head(q), per_head(k).transpose(1, 2)).view(batch, heads, length, keys)
    scores = scores * (dim**-0.5 if scale is None else scale)
    if soft_cap:
        scores = each("tanh", scores / soft_cap, torch_row=torch.tanh) * soft_cap
    if bias is not None:
        scores = scores + bias.float()
    if shown is not None:
        scores = scores.masked_fill(~shown, float("-inf"))
    weights = softmax(scores)
    if sinks is not None and keys:
        most = scores.amax(
            -1, keepdim=True
        )  # has the weight 1 / sum, so that a sink adds its exponential times that to the sum
        sink = each("exp", sinks.float().view(1, -1, 1, 1) - most, torch_row=torch.exp)
        weights = weights / (1 + sink * weights.amax(-1, keepdim=True))
    if shown is not None:
        weights = weights.masked_fill(~shown, 0.0)
    return bmm(weights.flatten(0, 1), per_head(v)).view(batch, heads, length, v.shape[3]).to(q.dtype)
