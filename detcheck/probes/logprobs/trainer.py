"""The trainer: a whole forward pass over prompt and completion, as a training step makes one, and log-softmax in float32.

Alone, padded on the right with a mask, or packed: several sequences behind each other in one row, told apart by positions that begin again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcheck.condition_name import ConditionName
from detcheck.coverage import uncounted
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import watched
from detcheck.probes.logprobs.facts import PACKED, PADDED

if TYPE_CHECKING:
    import torch

LOG_SOFTMAX, LOGSUMEXP = "log_softmax", "logsumexp"


@dataclass(frozen=True)
class Asked:
    """A sequence to score."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


def has_batches(condition: str, lengths: Sequence[int | None]) -> bool:
    """Whether a batch of it has several rows, and, where they are padded, one that is filled up. `lengths`: tokens of each sequence; None: it is missing."""
    name = ConditionName.parse(condition)
    size = name.size or 1
    batches = ([n for n in lengths[begin : begin + size] if n is not None] for begin in range(0, len(lengths), size))
    return size == 1 or any(len(set(rows) if name.kind == PADDED else rows) > 1 for rows in batches)


def score(
    engine: TransformersEngine,
    rows: Sequence[Asked],
    condition: str,
    form: str,
    see: Callable[[int, torch.Tensor], None] | None = None,
) -> tuple[list[np.ndarray], bool]:
    """(float32[n] of each row, whether the batch was formed as asked). `see`: is given each row's logits [n, V] too.

    `form`: how a log-probability is made of float32 logits: by log_softmax, or as the token's logit less logsumexp.
    Raises OutOfMemoryError if the batch does not fit.
    """
    packed = ConditionName.parse(condition).kind == PACKED

    def run() -> list[np.ndarray]:
        logits = in_one_row(engine, rows) if packed else in_rows(engine, rows)
        made = []
        for n, (row, found) in enumerate(zip(rows, logits, strict=True)):
            if see:
                see(n, found)
            made.append(read(found, row.tokens, form).cpu().numpy())
        return made

    made, seen = watched(engine, len(rows), run)
    return made, seen == ((1,) if packed else (len(rows),))


def in_rows(engine: TransformersEngine, rows: Sequence[Asked]) -> list[torch.Tensor]:
    import torch

    whole = [row.prompt + row.tokens for row in rows]
    width = max(map(len, whole))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in whole], device=engine.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in whole], device=engine.device)
    logits = engine._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return [logits[n, len(row.prompt) - 1 : len(whole[n]) - 1] for n, row in enumerate(rows)]


def in_one_row(engine: TransformersEngine, rows: Sequence[Asked]) -> list[torch.Tensor]:
    import torch

    whole = [row.prompt + row.tokens for row in rows]
    ids = torch.tensor([[token for row in whole for token in row]], device=engine.device)
    places = torch.tensor([[n for row in whole for n in range(len(row))]], device=engine.device)
    logits = engine._model(input_ids=ids, position_ids=places, use_cache=False).logits[0]
    found, begin = [], 0
    for row, tokens in zip(rows, whole, strict=True):
        found.append(logits[begin + len(row.prompt) - 1 : begin + len(tokens) - 1])
        begin += len(tokens)
    return found


def read(logits: torch.Tensor, tokens: Sequence[int], form: str) -> torch.Tensor:
    """logits[n, V] of any dtype -> float32[n]. A row at a time, so that this is the same program whatever the batch."""
    import torch

    made = torch.empty(len(tokens), dtype=torch.float32, device=logits.device)
    row = torch.empty(logits.shape[1], dtype=torch.float32, device=logits.device)
    with uncounted():
        for n, token in enumerate(tokens):
            row.copy_(logits[n])
            made[n] = row.log_softmax(-1)[token] if form == LOG_SOFTMAX else row[token] - row.logsumexp(-1)
    return made
