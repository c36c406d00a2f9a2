"""Places of sequences whose logits are kept, for what is tried on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from detcheck.probes.logprobs.explain import Held
from detcheck.probes.logprobs.sampler import Made

if TYPE_CHECKING:
    import torch

MOST = 3_000_000  # elements of logits: 11 places of a vocabulary of 262144 (`causes.TRIED` are needed)


@dataclass
class KeptPlaces:
    """Of one arm."""

    logits: list[np.ndarray] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    sampler: list[float] = field(default_factory=list)
    prompts: list[np.ndarray] = field(default_factory=list)
    before: list[np.ndarray] = field(default_factory=list)

    def keep(self, one: Made, logits: torch.Tensor, sequences: int) -> None:
        """Some places' logits [n, V], evenly over the sequence and over so many sequences."""
        share = max(1, MOST // logits.shape[1] // sequences)
        for place in np.unique(np.linspace(0, len(one.tokens) - 1, min(share, len(one.tokens))).astype(int)):
            if (len(self.tokens) + 1) * logits.shape[1] > MOST and self.tokens:
                return
            self.logits.append(logits[place].float().cpu().numpy())
            self.tokens.append(int(one.tokens[place]))
            self.sampler.append(float(one.logprobs[place]))
            self.prompts.append(np.asarray(one.prompt))
            self.before.append(one.tokens[:place])

    def held(self) -> Held:
        logits = np.stack(self.logits).astype(np.float64)
        numbers = np.asarray(self.tokens), np.asarray(self.sampler, np.float64)
        return Held(logits, *numbers, tuple(self.prompts), tuple(self.before))
