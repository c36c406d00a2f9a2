"""Tokens that a lone row made one by one, computed once more in one forward pass, from a loaded `TransformersEngine`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.coverage import uncounted
from detcheck.engine import Completion, Decoded, Row
from detcheck.engines.transformers.logits import watched
from detcheck.engines.transformers.measure import Measure

if TYPE_CHECKING:
    from detcheck.engines.transformers.engine import TransformersEngine


def prefill(engine: TransformersEngine, row: Row, made: Completion) -> Decoded:
    """What would be the next token behind each of those before it, and its log-probability. Raises OutOfMemoryError."""
    done, seen = watched(engine, 1, lambda: measured(engine, row, made))
    return Decoded({0: done}, seen)


def measured(engine: TransformersEngine, row: Row, made: Completion) -> Completion:
    import torch

    count = len(made.tokens)
    fed = [*row.prompt, *made.tokens[:-1]]
    ids = torch.tensor([fed], device=engine.device)  # [1, n]
    extra = {"logits_to_keep": count} if engine._accepts_logits_to_keep else {}
    if engine._accepts_positions:
        extra["position_ids"] = torch.arange(len(fed), device=engine.device)[None]
    logits, _ = engine.forward(ids, torch.ones_like(ids), engine.new_cache(len(fed)), **extra)
    measure = Measure(logits.shape[-1], engine.device, row.sampling)
    with uncounted():
        for at in range(-count, 0):
            measure.take(*measure.read(logits[0, at]).tolist())
    return measure.completion(made.finish_reason)
