"""A sample's next token, read off its logits: the likeliest, or one that is drawn with a seed.

Drawing adds noise to the logits and takes the largest sum (the Gumbel-max trick): the softmax of logits / T draws as the argmax of
logits + T * g does, where g is Gumbel noise. The noise follows from the seed and from how many tokens the sample has, and from nothing else:
neither the batch nor the device reaches it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from detcheck.engine import Completion, Sampling


@functools.lru_cache(maxsize=2)  # samples of one batch that have one seed
def noise(seed: int, step: int, vocabulary: int) -> Any:
    """float32[vocabulary] of Gumbel noise, for the sample's token at `step`. Philox counts, so no earlier draw is needed."""
    import torch

    drawn = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step])).gumbel(size=vocabulary)
    return torch.from_numpy(drawn.astype(np.float32))


class Measure:
    """Reads token, log-probability and margin off one sample's logits, step by step."""

    def __init__(self, vocabulary: int, device: str, sampling: Sampling | None = None) -> None:
        """`sampling`: None: the likeliest token is taken."""
        import torch

        self._logits = torch.empty(vocabulary, dtype=torch.float32, device=device)
        self._sampling = sampling
        self._steps: list[tuple[int, int, float, float]] = []

    def read(self, logits: Any) -> Any:
        """logits[V] of any dtype -> float64[4] on their device: ids of the token and the runner-up, log-probability, margin.

        One sample at a time: in a batch of them the probe's own sums could follow the batch.
        """
        import torch

        self._logits.copy_(logits)
        ranked = self._ranked()
        token = ranked.argmax()  # of equal ones the first, as vLLM and `generate` take it
        second, runner_up = ranked.index_fill(0, token, float("-inf")).max(-1)
        logprob = self._logits[token] - self._logits.logsumexp(-1)
        return torch.stack([each.double() for each in (token, runner_up, logprob, ranked[token] - second)])

    def _ranked(self) -> Any:
        """[V], in nats, whose largest is the next token. Element by element, so that the order of no sum reaches it."""
        if self._sampling is None:
            return self._logits
        drawn = noise(self._sampling.seed, len(self._steps), len(self._logits)).to(self._logits.device)
        return self._logits + self._sampling.temperature * drawn

    def take(self, token: float, runner_up: float, logprob: float, margin: float) -> int:
        """What `read` found, as numbers. Returns the token."""
        self._steps.append((int(token), int(runner_up), logprob, margin))
        return int(token)

    def completion(self, finish_reason: str) -> Completion:
        tokens, runners_up, logprobs, margins = zip(*self._steps, strict=True)
        return Completion(
            tokens, np.asarray(logprobs, np.float32), np.asarray(margins, np.float32), runners_up, finish_reason
        )
