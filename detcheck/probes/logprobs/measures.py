"""How far two sides' log-probabilities of the same tokens are apart. Pure: numpy alone.

The tokens come from the sampler, so the estimates are of KL(sampler || trainer), with r = log p_trainer - log p_sampler of a token:
k1 = -r, k2 = r^2 / 2, k3 = exp(r) - 1 - r (Schulman, "Approximating KL divergence", 2020). k1 and k3 have the same expectation; k3
is never below 0 and scatters less where the two are close, and k2 is the second-order term alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detcheck.bits import as_integers

FEW = 2  # sequences from which on the spread is that between sequences
CERTAIN = 8  # tokens in a row that a model may be certain of, all with a log-probability of 0.0
POINTS = 120  # along the sequence


@dataclass(frozen=True, eq=False)
class ScoredPair:
    """One sequence, as both sides scored it."""

    name: str
    """`Case.input`"""
    tokens: np.ndarray
    """int64[n], of the sampler, as far as both sides go"""
    sampler: np.ndarray
    """float32[n], or float64[n] where both sides gave that: nats"""
    trainer: np.ndarray
    """[n], of the same dtype"""
    text: str = ""
    other_text: str = ""
    other_tokens: np.ndarray | None = None
    """int64[n]: the trainer's ids, where they are not the same"""
    lengths: tuple[int, int] | None = None
    """tokens of the sampler's and of the trainer's sequence, where they are not as many"""
    ids: bool = True
    """whether both sides gave token ids; otherwise they are taken to be of the same tokens"""
    unlike: bool = False
    """whether one side gave token ids and the other none, or of another kind"""
    pieces: tuple[str, ...] = ()
    """each token's text, where it is known"""

    @property
    def unequal(self) -> np.ndarray:
        """bool[n]: whether the bits differ"""
        return as_integers(self.sampler) != as_integers(self.trainer)

    @property
    def ratios(self) -> np.ndarray:
        """float64[n]: log p_trainer - log p_sampler; NaN where one of them is not finite, or of another token"""
        a, b = self.sampler.astype(np.float64), self.trainer.astype(np.float64)
        known = self.finite if self.other_tokens is None else self.finite & (self.tokens == self.other_tokens)
        return np.where(known, b, np.nan) - np.where(known, a, np.nan)

    @property
    def finite(self) -> np.ndarray:
        """bool[n]: whether both are numbers"""
        return np.isfinite(self.sampler) & np.isfinite(self.trainer)


@dataclass(frozen=True)
class Estimate:
    """A mean over tokens."""

    mean: float
    error: float
    """one standard error: between sequences where there are several, as tokens of one sequence are not independent"""


@dataclass(frozen=True)
class Measures:
    """Over all sequences of a comparison."""

    sequences: int
    tokens: int
    mismatching: int
    """tokens whose bits differ"""
    different: int
    """sequences with such a token"""
    max_abs: float
    """nats, over tokens where both are finite"""
    mean_abs: float
    k1: Estimate
    k2: Estimate
    k3: Estimate
    ess_tokens: float
    """effective sample size of the importance ratios of tokens, as a share of their number"""
    ess_sequences: float
    """the same of whole sequences' ratios"""
    not_finite: int
    """tokens where one side is NaN or infinite, and the other has other bits"""
    nan: int
    """tokens where both sides are NaN"""

    @property
    def share(self) -> float:
        return self.mismatching / self.tokens if self.tokens else 0.0

    def metrics(self) -> dict[str, float]:
        """By the names of report.json."""
        plain = {"sequences": self.sequences, "tokens": self.tokens, "mismatching": self.mismatching}
        plain |= {"different_sequences": self.different, "share": self.share, "max_abs": self.max_abs}
        plain |= {"mean_abs": self.mean_abs, "not_finite": self.not_finite, "nan": self.nan}
        for name in ("k1", "k2", "k3"):
            found: Estimate = getattr(self, name)
            plain |= {name: found.mean, f"{name}_error": found.error}
        return plain | {"ess_tokens": self.ess_tokens, "ess_sequences": self.ess_sequences}


def measure(pairs: Sequence[ScoredPair]) -> Measures:
    unequal = [pair.unequal for pair in pairs]
    ratios = [pair.ratios for pair in pairs]
    r = np.concatenate(ratios) if ratios else np.empty(0)
    of = np.repeat(np.arange(len(pairs)), [len(one) for one in ratios])
    known = ~np.isnan(r)
    r, of = r[known], of[known]
    distance = np.abs(r)
    nan = sum(int((np.isnan(p.sampler) & np.isnan(p.trainer)).sum()) for p in pairs)
    broken = sum(int((~pair.finite & other).sum()) for pair, other in zip(pairs, unequal, strict=True))
    with np.errstate(over="ignore"):
        k3 = np.expm1(r) - r
    return Measures(
        sequences=len(pairs),
        tokens=sum(map(len, unequal)),
        mismatching=sum(int(one.sum()) for one in unequal),
        different=sum(bool(one.any()) for one in unequal),
        max_abs=float(distance.max(initial=0.0)),
        mean_abs=float(distance.mean()) if len(r) else 0.0,
        k1=estimate(-r, of),
        k2=estimate(r * r / 2, of),
        k3=estimate(k3, of),
        ess_tokens=effective(r),
        ess_sequences=effective(np.bincount(of, r)[np.bincount(of) > 0] if len(r) else r),
        not_finite=broken,
        nan=nan,
    )


def estimate(values: np.ndarray, of: np.ndarray) -> Estimate:
    """values[n] of tokens of the sequences `of`[n] (int). The error is that of a mean over clusters, which the sequences are."""
    n = len(values)
    if not n:
        return Estimate(0.0, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):  # infinity stays infinity
        mean = float(values.mean())
        apart = values - mean
        sums = np.bincount(of, apart)
        present = np.bincount(of) > 0
        clusters = int(present.sum())
        if clusters < FEW:
            sums, present, clusters = apart, np.ones(n, bool), n
        if clusters < FEW:
            return Estimate(mean, math.inf if mean else 0.0)
        spread = float(np.square(sums[present]).sum()) * clusters / (clusters - 1)
    return Estimate(mean, math.sqrt(spread) / n if np.isfinite(spread) else math.inf)


def effective(log_ratios: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 of w = exp(log_ratios[n]), as a share of n (Kong, 1992). 1: all weigh the same. 1 where there is none."""
    if not len(log_ratios):
        return 1.0
    w = np.exp(log_ratios - log_ratios.max())
    return float(np.square(w.sum()) / np.square(w).sum() / len(w))


@dataclass(frozen=True)
class Point:
    """Tokens of a range of places, over all sequences."""

    first: int
    last: int
    tokens: int
    mismatching: int
    mean_abs: float
    max_abs: float


def along(pairs: Sequence[ScoredPair], most: int = POINTS) -> list[Point]:
    """The differences by place in the sequence, in at most so many ranges of equal width."""
    longest = max((len(pair.tokens) for pair in pairs), default=0)
    if not longest:
        return []
    width = -(-longest // most)
    bins = -(-longest // width)
    tokens, unequal, known, total, largest = (np.zeros(bins) for _ in range(5))
    for pair in pairs:
        place = np.arange(len(pair.tokens)) // width
        distance = np.abs(pair.ratios)
        there = ~np.isnan(distance)
        tokens += np.bincount(place, minlength=bins)
        unequal += np.bincount(place, pair.unequal, bins)
        known += np.bincount(place[there], minlength=bins)
        total += np.bincount(place[there], distance[there], bins)
        np.maximum.at(largest, place[there], distance[there])
    return [
        Point(
            n * width, min(longest, (n + 1) * width) - 1, int(tokens[n]), int(unequal[n]),
            float(total[n] / known[n]) if known[n] else 0.0, float(largest[n]),
        )
        for n in range(bins)
    ]  # fmt: skip


def not_written(pairs: Sequence[ScoredPair]) -> Iterator[str]:
    """Why equal bits are no pass, where all numbers of both sides are one: a dump without log-probabilities has zeros in their place.

    A sequence of `CERTAIN` tokens or more shows it by itself; shorter ones together, where all of them have the same number.
    """
    why = "so they were not written, or are of tokens that were certain, and nothing was compared"
    if numbers := one_number(pairs):
        yield f"both sides' numbers are all {numbers[0]:.6g}, {why}"
        return
    flat = {pair.name: found for pair in pairs if (found := one_number([pair]))}
    if flat:
        values = sorted({f"{found[0]:.6g}" for found in flat.values()})
        said = values[0] if len(values) == 1 else "one number each"
        yield f"both sides' numbers are all {said} in {len(flat)} of {len({pair.name for pair in pairs})} sequences, {why} there"


def one_number(pairs: Sequence[ScoredPair]) -> tuple[float, ...]:
    """(the number that every token of them has on both sides,), of `CERTAIN` tokens or more; () where there is none."""
    numbers = np.concatenate([side for p in pairs for side in (p.sampler, p.trainer)]) if pairs else np.empty(0)
    return (float(numbers[0]),) if len(numbers) >= 2 * CERTAIN and (numbers == numbers[0]).all() else ()


def first_unequal(pair: ScoredPair) -> int | None:
    """Index of the first token whose bits differ."""
    found = np.flatnonzero(pair.unequal)
    return int(found[0]) if found.size else None
