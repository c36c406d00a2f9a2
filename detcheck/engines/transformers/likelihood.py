"""Log-probabilities of tokens that were given, not made, from a loaded `TransformersEngine`.

The model is called as lm-evaluation-harness calls it: every token but the last is fed, rows are filled up on the right, and there is no mask,
since a causal model looks at nothing behind a token. Positions are the model's own.

Each sample's logits are copied to float32 and reduced alone, so the measure runs the same program on the same shape whatever the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from detcheck.coverage import uncounted
from detcheck.engine import Completion, Decoded
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import bits_of

if TYPE_CHECKING:
    import torch

FILLED_UP = 0  # id of the token behind shorter rows, as in the harness: nothing that is read has seen it


def likelihood(
    engine: TransformersEngine, rows: Sequence[Sequence[int]], slots: Sequence[int], given: int, padding: int = 0
) -> Decoded:
    """Of the last `given` tokens of the rows at `slots`. `padding`: tokens behind the longest row.

    Raises OutOfMemoryError if the batch does not fit.
    """
    bits, _, seen = bits_of(engine, len(rows), lambda: measured(engine, rows, slots, given, padding))
    made = {}
    for slot, (logprobs, margins, others) in zip(slots, bits.view(np.float32), strict=True):
        made[slot] = Completion(tuple(rows[slot][-given:]), logprobs, margins, tuple(map(int, others)), "")
    return Decoded(made, seen)


def measured(
    engine: TransformersEngine, rows: Sequence[Sequence[int]], slots: Sequence[int], given: int, padding: int
) -> torch.Tensor:
    """float32[samples, 3, given]: log-probabilities, margins (below 0 where another token is likelier), ids of the best other tokens."""
    import torch

    fed = [list(row[:-1] or row) for row in rows]
    width = max(map(len, fed)) + padding
    ids = torch.tensor([row + [FILLED_UP] * (width - len(row)) for row in fed], device=engine.device)
    logits = engine._model(input_ids=ids).logits  # [B, width, V]
    with uncounted():
        return torch.stack(
            [read(logits[slot, len(fed[slot]) - given : len(fed[slot])], rows[slot][-given:]) for slot in slots]
        )


def read(logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    """logits[n, V] of any dtype -> float32[3, n]."""
    import torch

    wide = torch.empty(logits.shape, dtype=torch.float32, device=logits.device).copy_(logits)
    place = torch.tensor(tokens, device=logits.device)[:, None]
    own = wide.gather(1, place)[:, 0]
    logprobs = own - wide.logsumexp(-1)
    other, runner_up = wide.scatter_(1, place, float("-inf")).max(-1)
    return torch.stack([logprobs, own - other, runner_up.float()])
