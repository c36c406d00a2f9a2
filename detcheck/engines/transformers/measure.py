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
        token, runner_up = two_largest(ranked)
        logprob = self._logits[token] - self._logits.logsumexp(-1)
        found = token, runner_up, logprob, ranked[token] - ranked[runner_up]
        return torch.stack([torch.as_tensor(each, dtype=torch.float64, device=ranked.device) for each in found])

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


def two_largest(values: Any) -> tuple[Any, Any]:
    """values[V] -> their indices; of equal ones the first comes first, as vLLM and `generate` take it, and NaN is larger than any number.

    Neither way adds anything up. On the CPU torch would take ten times as long, which is half of what a probe adds to a token.
    """
    return by_numpy(values) if values.device.type == "cpu" else by_torch(values)


def by_torch(values: Any) -> tuple[Any, Any]:
    first = values.argmax()
    return first, values.index_fill(0, first, float("-inf")).argmax()


def by_numpy(values: Any) -> tuple[int, int]:
    row = values.detach().numpy()
    first = int(row.argmax())
    largest, row[first] = row[first], -np.inf
    second = int(row.argmax())
    row[first] = largest
    return first, second
