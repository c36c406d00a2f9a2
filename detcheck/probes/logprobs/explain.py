"""What the sampler may have done to its logits, tried on the trainer's: does it give the sampler's numbers? Pure: numpy alone.

vLLM's and transformers' own order is followed: penalties first, then the temperature, then top-k, top-p or min-p, and log-softmax over
what is left ("processed" log-probabilities; "raw" ones are those of the logits as they are).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detcheck.probes.logprobs.facts import Explanation

QUANTILE = 0.9
LEAST = 1e-3  # nats; differences below are not asked
NOTHING = 50.0  # below the lowest logit
GRID, GOLDEN = 41, 40  # values tried, and steps of the search between the best of them
ROUND = (
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    1.1,
    1.2,
    1.3,
    1.5,
    2.0,
)  # temperatures beside 1 that truncations are tried at
TOP_P = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.95, 0.97, 0.98, 0.99)
MIN_P = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3)
RANGES = {  # of continuous values: where they are looked for
    "temperature": (0.05, 10.0),
    "softcap": (2.0, 300.0),
    "repetition_penalty": (0.5, 3.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}


@dataclass(frozen=True, eq=False)
class Held:
    """Places at which the trainer's logits are at hand."""

    logits: np.ndarray
    """float64[n, V]"""
    tokens: np.ndarray
    """int64[n]: what the sampler made there"""
    sampler: np.ndarray
    """float64[n], nats"""
    prompts: tuple[np.ndarray, ...]
    """int64[]: of each place"""
    before: tuple[np.ndarray, ...]
    """int64[]: the tokens that were made before it"""


def explanations(held: Held) -> list[Explanation]:
    """What was tried, each with the value that fits best. []: the two are too close to ask."""
    known = np.isfinite(held.sampler)
    if not known.any() or np.isnan(held.logits).any():
        return []
    held = replace(held, logits=finite(held.logits))
    at = np.arange(len(held.tokens))

    def apart(logits: np.ndarray) -> np.ndarray:
        return np.abs(held.sampler - scored(logits, held.tokens))[known]

    before = high(apart(held.logits))
    if before <= LEAST:
        return []
    found = []

    def fit(kind: str, change: Callable[[float], np.ndarray], low: float, top: float, warm: float = 1.0) -> float:
        value = search(lambda v: float(np.mean(apart(change(v)))), low, top)
        short = float(f"{value:.3g}")
        if high(apart(change(short))) <= 2 * high(apart(change(value))) + 1e-6:
            value = short
        found.append(Explanation(kind, (value,), int(known.sum()), before, high(apart(change(value))), warm))
        return value

    z = held.logits
    temperature = fit("temperature", lambda v: z / v, *RANGES["temperature"])
    fit("softcap", lambda v: v * np.tanh(z / v), *RANGES["softcap"])
    least = float(np.abs(z).max()) * (1 + 1e-9)
    with np.errstate(invalid="ignore"):  # a cap below a logit is none
        fit("uncapped", lambda v: v * np.arctanh(z / v), least, least * 20)
    seen, counts = penalised(held)
    fit("repetition_penalty", lambda v: np.where(seen, np.where(z > 0, z / v, z * v), z), *RANGES["repetition_penalty"])
    fit("presence_penalty", lambda v: z - v * (counts > 0), *RANGES["presence_penalty"])
    fit("frequency_penalty", lambda v: z - v * counts, *RANGES["frequency_penalty"])
    order = np.argsort(-z, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")[at, held.tokens]
    for warm in dict.fromkeys((1.0, temperature, *ROUND)):
        found += truncations(held, known, order, rank, warm, before)
    return best_of_each(found)


def finite(logits: np.ndarray) -> np.ndarray:
    """Ids that a model masks with infinity get a logit that weighs nothing."""
    known = np.isfinite(logits)
    lowest = np.where(known, logits, np.inf).min(axis=1, keepdims=True)
    return np.where(known, logits, lowest - NOTHING)


def best_of_each(found: Sequence[Explanation]) -> list[Explanation]:
    """Of each kind the one that fits best; at a temperature of 1 where that fits as well."""
    kinds = dict.fromkeys(one.kind for one in found)
    return [
        min(
            (one for one in found if one.kind == kind), key=lambda one: one.after * (1 if one.temperature == 1.0 else 2)
        )
        for kind in kinds
    ]


def scored(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """float64[n]: log-softmax at the tokens"""
    most = logits.max(axis=1)
    with np.errstate(invalid="ignore"):
        total = np.log(np.exp(logits - most[:, None]).sum(axis=1))
    return logits[np.arange(len(tokens)), tokens] - most - total


def high(values: np.ndarray) -> float:
    values = np.where(np.isnan(values), np.inf, values)
    return float(np.quantile(values, QUANTILE, method="higher")) if len(values) else 0.0


def search(loss: Callable[[float], float], low: float, top: float) -> float:
    """The value with the smallest loss: of a grid (of logarithms where all are positive), then by golden section beside it."""
    grid = np.geomspace(low, top, GRID) if low > 0 else np.linspace(low, top, GRID)
    losses = [loss(float(v)) for v in grid]
    best = int(np.nanargmin(losses))
    a, b = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, GRID - 1)])
    shrink = (5**0.5 - 1) / 2
    c, d = b - shrink * (b - a), a + shrink * (b - a)
    at_c, at_d = loss(c), loss(d)
    for _ in range(GOLDEN):
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - shrink * (b - a)
            at_c = loss(c)
        else:
            a, c, at_c = c, d, at_d
            d = a + shrink * (b - a)
            at_d = loss(d)
    return (a + b) / 2


def penalised(held: Held) -> tuple[np.ndarray, np.ndarray]:
    """(bool[n, V]: in the prompt or made before; float64[n, V]: how often it was made before)"""
    size = held.logits.shape[1]
    counts = np.stack([np.bincount(ids, minlength=size).astype(np.float64) for ids in held.before])
    prompts = np.stack([np.bincount(ids, minlength=size) > 0 for ids in held.prompts])
    return prompts | (counts > 0), counts


def truncations(
    held: Held, known: np.ndarray, order: np.ndarray, rank: np.ndarray, warm: float, before: float
) -> Iterator[Explanation]:
    """Renormalised over the likeliest tokens: how many (top-k), with how much probability (top-p), or how near to the likeliest (min-p)."""
    at, z = np.arange(len(held.tokens)), held.logits / warm
    own = scored(z, held.tokens)
    probabilities = np.exp(
        np.take_along_axis(z, order, 1) - z[at, held.tokens][:, None] + own[:, None]
    )  # [n, V], falling
    mass = np.cumsum(probabilities, axis=1)
    kept = np.exp(np.minimum(own - held.sampler, 0.0))  # what the sampler kept, if this is it
    with np.errstate(invalid="ignore"):
        sizes = np.array([np.searchsorted(mass[n], kept[n] * (1 - 1e-5)) + 1 for n in at]).clip(1, mass.shape[1])
    told = known & (kept < 1 - LEAST)
    if not told.any():
        return

    def after(chosen: np.ndarray) -> float:
        """`chosen`: int64[n], how many of the likeliest are kept"""
        made = np.where(rank < chosen, own - np.log(mass[at, chosen - 1]), -np.inf)
        return high(np.abs(held.sampler - made)[known])

    def result(kind: str, tried: Sequence[tuple[float, np.ndarray]]) -> tuple[float, np.ndarray, float]:
        return min(((value, chosen, after(chosen)) for value, chosen in tried), key=lambda one: one[2])

    total = int(known.sum())
    k, chosen, left = result("top_k", [(float(v), np.full(len(at), v)) for v in sorted(set(sizes[told].tolist()))[:64]])
    yield Explanation("top_k", (k,), total, before, left, warm)
    previous = np.where(sizes > 1, mass[at, np.maximum(sizes - 2, 0)], 0.0)
    middles = ((previous + mass[at, sizes - 1]) / 2)[told].tolist()[:64]
    size = mass.shape[1]
    by_p = [(p, np.array([np.searchsorted(mass[n], p) + 1 for n in at]).clip(1, size)) for p in (*TOP_P, *middles)]
    _, chosen, left = result("top_p", by_p)
    below = np.where(chosen > 1, mass[at, np.maximum(chosen - 2, 0)], 0.0)
    yield Explanation("top_p", (float(below.max()), float(mass[at, chosen - 1].min())), total, before, left, warm)
    nearness = probabilities / probabilities[:, :1]
    edge = np.where(sizes < size, nearness[at, np.minimum(sizes, size - 1)], 0.0)
    middles = ((nearness[at, sizes - 1] + edge) / 2)[told].tolist()[:64]
    by_min = [(p, (nearness >= p).sum(axis=1).clip(1, size)) for p in (*MIN_P, *middles)]
    _, chosen, left = result("min_p", by_min)
    outside = np.where(chosen < size, nearness[at, np.minimum(chosen, size - 1)], 0.0)
    yield Explanation("min_p", (float(outside.max()), float(nearness[at, chosen - 1].min())), total, before, left, warm)
