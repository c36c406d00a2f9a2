"""What a batch of prompts is given by a loaded `TransformersEngine` that embeds or scores, or whose decoder follows an encoder.

The model is called as sentence-transformers and pipelines call it: with ids and a mask, padded on the tokenizer's side. Positions are
the model's own: where it counts pad tokens, that is what its users get, and `padded-W` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detcheck.engines.transformers.embedding import embed
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import bits_of
from detcheck.errors import FailedError
from detcheck.models.task import Task

if TYPE_CHECKING:
    import torch


def given(
    engine: TransformersEngine, prompts: Sequence[Sequence[int]], slots: Sequence[int], padding: int = 0
) -> tuple[np.ndarray, str, tuple[int, ...]]:
    """(bit patterns of the embeddings, scores or the decoder's first logits at `slots`, whose prompts are of one length: integers [len(slots), n], dtype, rows seen).

    `padding`: pad tokens beside the longest. Raises OutOfMemoryError if the batch does not fit.
    """
    return bits_of(engine, len(prompts), lambda: rows(engine, prompts, slots, padding))


def rows(
    engine: TransformersEngine, prompts: Sequence[Sequence[int]], slots: Sequence[int], padding: int
) -> torch.Tensor:
    """[len(slots), n]"""
    import torch

    width = max(map(len, prompts)) + padding
    left = engine.padding_side == "left"
    ids = torch.full((len(prompts), width), engine.pad)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        where = slice(width - len(prompt), width) if left else slice(len(prompt))
        ids[row, where], mask[row, where] = torch.tensor(prompt), 1
    ids, mask = ids.to(engine.device), mask.to(engine.device)
    begun = {}
    if engine.start is not None:
        begun["decoder_input_ids"] = torch.full((len(prompts), 1), engine.start, device=engine.device)
    out = engine._model(input_ids=ids, attention_mask=mask, **begun)
    if engine.task is Task.EMBED:
        return embed(found(engine, out, "last_hidden_state"), mask, engine.pooling)[list(slots)]
    logits = found(engine, out, "logits")
    if engine.start is not None:
        return logits[:, -1][list(slots)]
    if logits.ndim == 3:  # of each token: those of the row's own, one behind the other
        return torch.stack([logits[slot, mask[slot].bool()].flatten() for slot in slots])
    return logits.reshape(len(prompts), -1)[list(slots)]


def found(engine: TransformersEngine, out: Any, name: str) -> torch.Tensor:
    if (made := getattr(out, name, None)) is None:
        raise FailedError(f"{engine.name} gives no {name}, so there is nothing to compare with --task {engine.task}")
    return made
