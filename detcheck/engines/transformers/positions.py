"""The logits at every position of a prompt before its last, as a scorer has them: all of one forward pass.

Those of a large vocabulary are too many to be kept of every sample. Of each position there is a hash of its logits, and how far they are from
those of the prompt alone, which are the only ones whose bits are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from detcheck.bits import furthest, patterns
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import passes, watched
from detcheck.hashes import content_hash
from detcheck.outcomes import Earlier
from detcheck.tensors import integers

CHUNK = 64  # positions that are copied from the device at once


@dataclass
class RowReader:
    """A row's logits, read position by position."""

    lone: Lone | None
    """what they are measured from; None: they are kept to be that"""
    hashes: list[int] = field(default_factory=list)
    apart: list[tuple[float, float]] = field(default_factory=list)
    """(ulp, absolute)"""
    bits: list[np.ndarray] = field(default_factory=list)

    def take(self, rows: np.ndarray, dtype: str) -> None:
        """rows[n, V]: bit patterns at the next positions."""
        for row in rows:
            place, far = len(self.hashes), (0.0, 0.0)
            if self.lone and np.array_equal(row, self.lone.bits[place]):
                name = self.lone.hashes[place]
            else:
                name = int(content_hash(dtype.encode(), row.tobytes())[:16], 16) - 2**63
                far = furthest(patterns(row), patterns(self.lone.bits[place]), dtype) if self.lone else far
            self.hashes.append(name)
            self.apart.append(tuple(float("nan") if number is None else number for number in far))
        if self.lone is None:
            self.bits.append(rows.copy())

    def result(self) -> Earlier:
        return Earlier(np.asarray(self.hashes, np.int64), np.asarray(self.apart, np.float32).T)


@dataclass(frozen=True)
class Lone:
    """The logits of the prompt alone, from which others are measured."""

    bits: np.ndarray
    """bit patterns [n, V]"""
    hashes: tuple[int, ...]

    def result(self) -> Earlier:
        """As of a sample: it is no distance from itself."""
        return Earlier(np.asarray(self.hashes, np.int64), np.zeros((2, len(self.hashes)), np.float32))


def gives_all(engine: TransformersEngine) -> bool:
    """Whether the model gives the logits of every token that it is fed: some give those of the last alone."""
    two = engine.ordinary_tokens()[:2].tolist()
    found, _ = watched(engine, 1, lambda: [logits.shape[1] for _, logits in passes(engine, [two], 0, whole=True)])
    return found == [len(two)]


def lone_logits(engine: TransformersEngine, prompt: Sequence[int]) -> Lone:
    """Raises OutOfMemoryError if it does not fit."""
    reading = RowReader(None)
    watched(engine, 1, lambda: read(engine, [prompt], [0], 0, 0, [reading]))
    return Lone(np.concatenate(reading.bits), tuple(reading.hashes))


def earlier_logits(
    engine: TransformersEngine,
    prompts: Sequence[Sequence[int]],
    slots: Sequence[int],
    lone: Lone,
    decoded: int = 0,
    padding: int = 0,
) -> tuple[list[Earlier], tuple[int, ...]]:
    """(what is known of the logits at `slots`, rows seen per forward pass). Arguments as of `last_logits`.

    Raises OutOfMemoryError if the batch does not fit.
    """
    readings = [RowReader(lone) for _ in slots]
    _, seen = watched(engine, len(prompts), lambda: read(engine, prompts, slots, decoded, padding, readings))
    return [reading.result() for reading in readings], seen


def read(
    engine: TransformersEngine,
    prompts: Sequence[Sequence[int]],
    slots: Sequence[int],
    decoded: int,
    padding: int,
    readings: Sequence[RowReader],
) -> None:
    """Each row's own positions but its last, whatever pads it."""
    width = max(map(len, prompts)) + padding
    for start, logits in passes(engine, prompts, decoded, padding, whole=True):
        dtype = str(logits.dtype).removeprefix("torch.")
        for slot, reading in zip(slots, readings, strict=True):
            first = max(width - len(prompts[slot]) - start, 0)
            end = min(width - 1 - start, logits.shape[1])
            for at in range(first, end, CHUNK):
                some = logits[slot, at : min(at + CHUNK, end)]
                reading.take(integers(some).reshape(some.shape).numpy(), dtype)
