"""Hidden states -> embeddings, computed over the whole batch as sentence-transformers does it: sums over padded rows are the subject's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.errors import FailedError, UsageError
from detcheck.models.checkpoint import first_line
from detcheck.models.sentence import Dense, Pooling

if TYPE_CHECKING:
    import torch

LEAST = 1e-9  # that is divided by, as there


def embed(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """hidden[B, W, H], mask[B, W] -> [B, n]."""
    import torch

    pooled = torch.cat([pool(hidden, mask, mode) for mode in pooling.modes], -1)
    for layer in pooling.layers:
        if isinstance(layer, Dense):
            pooled = dense(layer, pooled)
        else:
            pooled = torch.nn.functional.normalize(pooled, p=2, dim=-1)
    return pooled


def pool(hidden: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """[B, H] by one mode. Sums of half precision are in float32."""
    import torch

    rows, width = torch.arange(len(hidden), device=hidden.device), hidden.shape[1]
    first = mask.argmax(1)
    if mode == "cls":
        return hidden[rows, first]
    if mode == "lasttoken":
        return hidden[rows, width - 1 - mask.flip(1).argmax(1)]
    kept = mask.unsqueeze(-1)  # [B, W, 1]
    if mode == "max":
        return hidden.masked_fill(kept == 0, float("-inf")).amax(1)
    wide = torch.float32 if hidden.dtype in (torch.float16, torch.bfloat16) else hidden.dtype
    if mode == "weightedmean":
        weights = (kept * (torch.arange(1, width + 1, device=hidden.device) - first.unsqueeze(1)).unsqueeze(-1)).to(
            wide
        )
        return ((hidden * weights).sum(1) / weights.sum(1).clamp(min=LEAST)).to(hidden.dtype)
    kept = kept.to(hidden.dtype)
    length = kept.sum(1, dtype=wide).clamp(min=LEAST)
    total = (hidden * kept).sum(1, dtype=wide)
    return (total / (length if mode == "mean" else length.sqrt())).to(hidden.dtype)


def dense(layer: Dense, pooled: torch.Tensor) -> torch.Tensor:
    """Raises FailedError where its file does not hold what it takes, UsageError where torch has no such activation."""
    import torch
    from safetensors.torch import load_file

    activation = getattr(torch.nn, layer.activation, None)
    if activation is None:
        raise UsageError(
            f"{layer.weights.parent} names the activation {layer.activation}, which torch.nn does not have"
        )
    try:
        tensors = {name: t.to(pooled.device, pooled.dtype) for name, t in load_file(layer.weights).items()}
        return activation()(torch.nn.functional.linear(pooled, tensors["linear.weight"], tensors.get("linear.bias")))
    except (KeyError, OSError, ValueError) as error:
        raise FailedError(f"cannot load {layer.weights}: {first_line(error)}") from error
