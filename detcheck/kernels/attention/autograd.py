"""Gradients of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.kernels.attention.dense import attention, check
from detcheck.op import dtype_code

if TYPE_CHECKING:
    import torch


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
        @torch.autograd.function.once_differentiable  # kernels that autograd takes no note of: an error, and no wrong second derivative
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
    """Gradients of `attention` for q, k, v, from grad[B, H, L, E]: weights are computed again, in float32. Raises ValueError as `attention` does."""
    check(q, k, v, low, high)
    if grad.shape != (form := (*q.shape[:3], v.shape[3])):
        raise ValueError(
            f"the gradient of attention must have the shape of its result, {form}; got {tuple(grad.shape)}"
        )
    scale = q.shape[3] ** -0.5 if scale is None else scale
    native = q.is_cpu and build.available()
    return (by_itself if native else written)(grad, q, k, v, low, high, scale, soft_cap)


def by_itself(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    scale: float,
    soft_cap: float,
) -> tuple[torch.Tensor, ...]:
    """Every key, value and query in an order of its own (`_cpu/attention_backward.cpp` states it)."""
    import torch

    own, dim = v.shape[3], max(q.shape[3], v.shape[3])  # as in MLA: filled up with zeros, which add nothing
    dense = [torch.nn.functional.pad(t, (0, dim - t.shape[3])).contiguous() for t in (grad, q, k, v)]
    code = dtype_code("the gradient of attention", *dense)
    made = [torch.empty_like(t) for t in dense[1:]]
    seen = [t.to(torch.int32).contiguous() for t in (low, high)]
    batch, heads, length, _ = q.shape
    pointers = [t.data_ptr() for t in (*made, *dense, *seen)]
    call = build.function("attention_backward", "ippppppppp" + "iiiiii" + "ddi")
    call(code, *pointers, batch, heads, length, dim, *k.shape[1:3], scale, soft_cap, torch.get_num_threads())
    d_q, d_k, d_v = made
    return d_q[..., : q.shape[3]], d_k[..., : q.shape[3]], d_v[..., :own]


def written(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    scale: float,
    soft_cap: float,
) -> tuple[torch.Tensor, ...]:
    """As products of whole matrices, where the kernel is not: their bits may follow padding."""
    import torch

    batch, heads = q.shape[:2]
    share, keys = heads // k.shape[1], k.shape[2]
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
        return t.view(batch, k.shape[1], share, keys, t.shape[-1]).sum(2)

    d_k, d_v = shared(d_scores.transpose(-1, -2) @ q32), shared(weights.transpose(-1, -2) @ g32)
    return (d_scores @ k32).to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)
