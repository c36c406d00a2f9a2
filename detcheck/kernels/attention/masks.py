"""Which keys a query sees: one run of them, from `low` to `high` - 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.op import NotInvariantError

if TYPE_CHECKING:
    import torch


class NoRunError(NotInvariantError):
    """A mask of which no run of keys is all that it says. On the CPU attention is written out then."""


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

    Raises NoRunError where heads see different keys, where a query's keys are not one run, or where a bias is added.
    """
    import torch

    if mask.dtype != torch.bool:
        unseen = mask <= torch.finfo(mask.dtype).min / 2
        if bool(((mask != 0) & ~unseen).any()):
            raise NoRunError(
                "attention with an additive bias has no batch-invariant kernel; it has one for masks of 0 and -inf"
            )
        mask = ~unseen
    if mask.shape[1] > 1 and not bool((mask == mask[:, :1]).all()):
        raise NoRunError("attention whose heads see different keys has no batch-invariant kernel")
    seen_by = mask[:, 0, :, :keys].expand(batch, length, keys)
    count = seen_by.sum(-1, dtype=torch.int32)
    low = seen_by.to(torch.int8).argmax(-1).to(torch.int32)
    run = torch.arange(keys, dtype=torch.int32, device=mask.device)[None, None] - low[..., None]
    if not bool(((run >= 0) & (run < count[..., None]) == seen_by).all()):
        raise NoRunError("attention over keys with gaps between them has no batch-invariant kernel")
    return low, low + count


def visible(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    window: int | None = None,
    from_first: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(low, high) of what torch and transformers say of a mask. `from_first`: torch's own causal mask, where the first query sees the first key; else the last one sees every key."""
    import torch

    batch, _, length, _ = query.shape
    keys = key.shape[2]
    if mask is not None:
        return seen(mask, batch, length, keys)
    if is_causal and from_first:
        high = torch.arange(1, length + 1, dtype=torch.int32, device=query.device).clamp(max=keys).expand(batch, length)
        return torch.zeros_like(high), high
    if is_causal:
        return causal(batch, length, keys, window, query.device)
    low = torch.zeros(batch, length, dtype=torch.int32, device=query.device)
    return low, torch.full_like(low, keys)
