"""The logits of a batch's rows, from a loaded `TransformersEngine`: in one go, or with the last tokens fed as decode steps.

As in decoding, rows of unequal length are padded on the left, and a hook counts the rows of every forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from detcheck.coverage import uncounted
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.errors import OutOfMemoryError
from detcheck.models.checkpoint import first_line, quiet_transformers
from detcheck.tensors import integers, out_of_memory

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def last_logits(
    engine: TransformersEngine,
    prompts: Sequence[Sequence[int]],
    slots: Sequence[int],
    decoded: int = 0,
    padding: int = 0,
) -> tuple[np.ndarray, str, tuple[int, ...]]:
    """(bit patterns of the logits at `slots`: integers [len(slots), V], their dtype, rows seen per forward pass).

    `decoded`: how many of the last tokens are fed one by one after a shorter prefill. Every prompt must be longer than that.
    `padding`: pad tokens in front of the longest.
    Raises OutOfMemoryError if the batch does not fit.
    """
    return bits_of(engine, len(prompts), lambda: forward(engine, prompts, decoded, padding)[list(slots)])


def bits_of(
    engine: TransformersEngine, rows: int, run: Callable[[], torch.Tensor]
) -> tuple[np.ndarray, str, tuple[int, ...]]:
    """(bit patterns of the rows that `run` gives, their dtype, rows seen per forward pass). Raises OutOfMemoryError if `rows` do not fit."""
    made, seen = watched(engine, rows, lambda: run().cpu().contiguous())
    return integers(made).reshape(made.shape).numpy(), str(made.dtype).removeprefix("torch."), seen


def watched(engine: TransformersEngine, rows: int, run: Callable[[], T]) -> tuple[T, tuple[int, ...]]:
    """(what `run` gives, rows seen per forward pass). Raises OutOfMemoryError if `rows` do not fit."""
    import torch

    seen: set[int] = set()
    hook = engine._model.register_forward_pre_hook(
        lambda _, __, inputs: seen.add(len(inputs["input_ids"])), with_kwargs=True
    )
    try:
        with torch.inference_mode(), quiet_transformers():
            return run(), tuple(sorted(seen))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory with {rows} rows: {first_line(error)}") from None
    finally:
        hook.remove()


def forward(
    engine: TransformersEngine, prompts: Sequence[Sequence[int]], decoded: int, padding: int = 0
) -> torch.Tensor:
    """Logits [B, V] after the last token of each prompt."""
    for _, logits in passes(engine, prompts, decoded, padding):
        last = logits[:, -1]
    return last


def passes(
    engine: TransformersEngine, prompts: Sequence[Sequence[int]], decoded: int, padding: int = 0, whole: bool = False
) -> Iterator[tuple[int, torch.Tensor]]:
    """Of each forward pass (tokens of the padded rows before it, logits [B, n, V]): n is 1, or all of its tokens if `whole`."""
    import torch

    if short := [len(prompt) for prompt in prompts if len(prompt) <= decoded]:
        raise ValueError(f"to decode {decoded} tokens every prompt must be longer; got one of {min(short)}")
    width = max(map(len, prompts)) + padding
    padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    unpadded = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    ids = torch.tensor(padded, device=engine.device)  # [B, width]
    mask = torch.tensor(unpadded, device=engine.device)
    with uncounted():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
    extra = {"logits_to_keep": 1} if engine._accepts_logits_to_keep and not whole else {}
    cache, fed = engine.new_cache(width), 0
    for until in range(width - decoded, width + 1):
        if engine._accepts_positions:
            extra["position_ids"] = positions[:, fed:until]
        logits, cache = engine.forward(ids[:, fed:until], mask[:, :until], cache, **extra)
        yield fed, logits
        fed = until
