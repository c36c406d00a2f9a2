"""Ours in the place of the leaf ops of torch.nn.functional.scaled_dot_product_attention, on the CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from detcheck.kernels.attention.autograd import gradients
from detcheck.kernels.attention.dense import attention
from detcheck.kernels.attention.masks import NoRunError, visible
from detcheck.kernels.attention.written_out import NO_BACKWARD, split, written_out
from detcheck.op import NotInvariantError

if TYPE_CHECKING:
    import torch


def refuse_dropout(dropout: float) -> None:
    if dropout:
        raise NotInvariantError(
            "attention with dropout has no batch-invariant kernel; call model.eval(), or set its dropout to 0"
        )


def sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """F.scaled_dot_product_attention's leaf on the CPU: (output, log-sum-exp), the second for a backward pass."""
    import torch

    refuse_dropout(dropout_p)
    try:
        low, high = visible(query, key, attn_mask, is_causal, from_first=True)
        out = attention(query, key, value, low, high, scale)
    except NoRunError:
        if attn_mask is None or not query.is_cpu:
            raise
        out = written_out(query, key, value, *split(attn_mask, key.shape[2]), scale=scale)
    return out, query.new_full(query.shape[:3], float("nan"), dtype=torch.float32)  # read by the stock backward alone


def sdpa_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _out: torch.Tensor,
    _logsumexp: torch.Tensor,
    _dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, ...]:
    try:
        low, high = visible(query, key, attn_mask, is_causal, from_first=True)
    except NoRunError:  # forward it is written out, by kernels that autograd takes no note of
        raise NotInvariantError(NO_BACKWARD) from None
    return gradients(grad, query, key, value, low, high, scale)


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """F.scaled_dot_product_attention's leaf on a GPU where there is no mask."""
    out, log_sum = sdpa(query, key, value, dropout_p, is_causal, scale=scale)
    none = query.new_empty(0)
    seed = query.new_zeros(2).long()
    return out, log_sum, none, none, query.shape[2], key.shape[2], seed, seed[:1], none


def efficient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_bias: torch.Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor, ...]:
    """F.scaled_dot_product_attention's leaf on a GPU where there is a mask, or a dtype that flash attention does not take."""
    out, log_sum = sdpa(query, key, value, dropout_p, is_causal, attn_mask=attn_bias, scale=scale)
    seed = query.new_zeros(1).long()
    return out, log_sum, seed, seed


def cudnn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_bias: torch.Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """cuDNN's, which newer devices take."""
    out, log_sum = sdpa(query, key, value, dropout_p, is_causal, attn_mask=attn_bias, scale=scale)
    none = query.new_empty(0)
    seed = query.new_zeros(1).long()
    return out, log_sum, none, none, query.shape[2], key.shape[2], seed, seed, none


def no_backward(*_: Any, **__: Any) -> Any:
    raise NotInvariantError(
        "the backward pass of scaled_dot_product_attention has no batch-invariant kernel on cuda; it has one through transformers, and on cpu"
    )


ATEN: dict[str, Callable[..., Any]] = {
    "_scaled_dot_product_flash_attention_for_cpu": sdpa,
    "_scaled_dot_product_flash_attention_for_cpu_backward": sdpa_backward,
    "_scaled_dot_product_flash_attention": flash,
    "_scaled_dot_product_efficient_attention": efficient,
    "_scaled_dot_product_cudnn_attention": cudnn,
    "_scaled_dot_product_flash_attention_backward": no_backward,
    "_scaled_dot_product_efficient_attention_backward": no_backward,
    "_scaled_dot_product_cudnn_attention_backward": no_backward,
}
