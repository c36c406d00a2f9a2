"""What is observed of the two sides, under names that judge and session share. Pure.

A case is one sequence, in one arm of kernels. Its conditions are the two sides: what the sampler said of the tokens that it made,
and each way in which the trainer scored the same tokens. Other cases are of both models or files as a whole: `OF_THE_MODEL`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SAMPLER, TRAINER = "sampler", "trainer"  # conditions; a trainer that runs here has the names of how it scored instead
ALONE, PADDED, PACKED = "alone", "padded", "packed"
WEIGHTS, TOKENIZER, WIDTHS, CAUSES = (
    "weights",
    "tokenizer",
    "widths",
    "causes",
)  # inputs of the cases that are of the model
OF_THE_MODEL = (WEIGHTS, TOKENIZER, WIDTHS, CAUSES)
PLACES = "place"  # `Outcome.unit` where a file gives no token ids: what its log-probabilities belong to is a place


@dataclass(frozen=True)
class Explanation:
    """One thing other than numerics, tried on the trainer's logits: would they give the sampler's numbers then?"""

    kind: str
    """temperature, top_k, top_p, min_p, softcap, repetition_penalty, presence_penalty, frequency_penalty"""
    values: tuple[float, ...]
    """the value that fits best; of top_p and min_p the bounds between which it lies"""
    tokens: int
    """tokens it was tried on"""
    before: float
    """nats: 90% of the differences are at most so large"""
    after: float
    """the same, where the sampler's numbers are compared with what this makes of the trainer's logits"""
    temperature: float = 1.0
    """that the logits were divided by first"""

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Explanation:
        return cls(**{**stored, "values": tuple(stored["values"])})
