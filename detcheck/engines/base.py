"""What a probe needs of an engine, whichever runs the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Row:
    """One row of a batch: a sample, or a filler that rides along.

    A filler is not decoded: it is fed tokens chosen beforehand, so that the company a sample keeps is the same in every trial.
    """

    prompt: tuple[int, ...]
    """token ids"""
    continuation: tuple[int, ...] | None = None
    """token ids to feed after the prompt; None: this row is a sample"""


@dataclass(frozen=True)
class Completion:
    """What came of a sample."""

    tokens: tuple[int, ...]
    """ids, the end token included where it came"""
    logprobs: np.ndarray
    """float32[n], nats"""
    margins: np.ndarray
    """float32[n], nats between the token and the runner-up"""
    runners_up: tuple[int, ...]
    finish_reason: str
    """"stop" or "length" """


@dataclass(frozen=True)
class Decoded:
    """What came of a batch, and the evidence of how it was computed."""

    completions: Mapping[int, Completion]
    """by slot; a sample without one is missing"""
    batch_sizes: tuple[int, ...]
    """rows seen per forward pass, each size once, sorted; () if the engine cannot see them"""


class Engine(Protocol):
    """Opened in two strokes: making one reads config and tokenizer and refuses what can be refused; `load` brings the weights."""

    name: str
    """of the model, for reports"""
    dtype: str
    device: str
    context: int
    """tokens of prompt and completion together"""
    digests: Mapping[str, str]

    @property
    def flags(self) -> Mapping[str, str]:
        """Settings in effect that can change bits, for the environment's record."""

    def load(self) -> None:
        """Raises FailedError where the model cannot be brought up."""

    def encode(self, text: str) -> tuple[int, ...]: ...

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...

    def ordinary_tokens(self) -> np.ndarray:
        """int64[n]: ids that fillers may be made of, special tokens left out."""

    def max_rows(self, tokens: int) -> int:
        """How many rows of that length fit in memory, by estimate."""

    def complete(self, rows: Sequence[Row], max_tokens: int, ignore_eos: bool) -> Decoded:
        """Run exactly these rows as one batch, greedily, until every sample has ended or has max_tokens.

        Raises OutOfMemoryError if the batch does not fit.
        """
