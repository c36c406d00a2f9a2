"""Ours in the place of the attention of Hugging Face models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from detcheck.coverage import count, uncounted
from detcheck.kernels.attention.autograd import differentiable
from detcheck.kernels.attention.masks import NoRunError, visible
from detcheck.kernels.attention.sdpa import refuse_dropout
from detcheck.kernels.attention.written_out import split, written_out
from detcheck.op import NotInvariantError

if TYPE_CHECKING:
    import torch

# What transformers hands to attention that changes its result: it is written out then.
ADDED_TO_SCORES = ("s_aux", "position_bias")


def register(undo: contextlib.ExitStack) -> None:
    """Attention of Hugging Face models: ours for those loaded with an implementation that ours is the like of, words for the others."""
    from transformers import modeling_utils

    known = modeling_utils.ALL_ATTENTION_FUNCTIONS
    table = known._local_mapping
    ours = {"sdpa": transformers_attention, "eager": transformers_attention}
    for name in dict.fromkeys([*ours, *known.valid_keys()]):
        before = table.get(name)
        table[name] = ours.get(name) or refuse(name)
        undo.callback(table.pop, name) if before is None else undo.callback(table.__setitem__, name, before)


def transformers_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: q[B, H, L, D] -> [B, L, H, D]. Without a mask it is causal, as there."""
    refuse_dropout(dropout)
    if others.get("head_mask") is not None:
        raise NotInvariantError(
            f"attention with head_mask, which {type(module).__name__} asks for, has no batch-invariant kernel"
        )
    sinks, bias = (others.get(name) for name in ADDED_TO_SCORES)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    length = query.shape[2]
    if attention_mask is None and causal and 1 < length < key.shape[2]:
        # A prompt that begins a static cache: the first query sees the first key, and what lies behind the last one is empty.
        key, value = key[:, :, :length], value[:, :, :length]
    with uncounted():
        if sinks is None and bias is None:
            try:
                low, high = visible(query, key, attention_mask, causal, sliding_window)
                out = differentiable(query, key, value, low, high, scaling, softcap or 0.0)
            except NoRunError:
                if not query.is_cpu:
                    raise
                shown, bias = split(attention_mask, key.shape[2])
                out = written_out(query, key, value, shown, bias, None, scaling, softcap or 0.0)
        else:
            shown, of_mask = shown_by(query, key, attention_mask, causal, sliding_window)
            bias = bias if bias is None else bias[..., : key.shape[2]]
            total = bias if of_mask is None else of_mask if bias is None else bias + of_mask
            out = written_out(query, key, value, shown, total, sinks, scaling, softcap or 0.0)
    count("transformers::attention")
    return out.transpose(1, 2).contiguous(), None


def shown_by(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, is_causal: bool, window: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(which keys are seen, what is added to their scores) of what transformers says of a mask."""
    import torch

    if mask is not None:
        return split(mask, key.shape[2])
    low, high = visible(query, key, None, is_causal, window)
    at = torch.arange(key.shape[2], device=query.device)
    return ((at >= low[..., None]) & (at < high[..., None]))[:, None], None


def refuse(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotInvariantError(
            f"attention {name} has no batch-invariant kernel; load the model with --attn sdpa (attn_implementation='sdpa')"
        )

    return refuse
