"""Requests that ride beside the samples: made-up prompts, the same in every run of a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detcheck import sampling
from detcheck.engines.server.engine import PromptInput
from detcheck.hashes import content_hash
from detcheck.records import Step
from detcheck.spec import Spec

# What they are made of where a prompt's own tokens are not known.
WORDS = (
    "take", "apart", "radio", "safe", "light", "matter", "rule", "first", "principle", "fool", "easy", "person", "ask",
    "question", "write", "bit", "answer", "part", "often", "company", "travel", "river", "stone", "letter", "night", "garden",
    "engine", "copper", "window", "signal", "paper", "winter", "market", "bridge", "quiet", "number",
)  # fmt: skip


def fillers(spec: Spec, step: Step, tokens: Sequence[int] | None, turn: int) -> dict[int, PromptInput]:
    """By slot: prompts seeded by condition and slot, of the prompt's own tokens or of words; as long as a conversation grows."""
    made: dict[int, PromptInput] = {}
    _, seed = sampling.parted(step.input)
    for slot, length in enumerate(step.rows):
        if length:
            place = f"{spec.seed}/{step.condition}/{slot}" + (f"/turn {turn}" if turn else "")
            key, length = int(content_hash(place.encode())[:16], 16), length + turn * spec.options.max_tokens
            rng = np.random.Generator(np.random.Philox(key=key))
            drawn = sampling.beside(spec, seed, slot, step.condition)
            if tokens:
                chosen = tuple(int(t) for t in rng.choice(np.unique(tokens), length))
                made[slot] = PromptInput(tokens=chosen, sampling=drawn)
            else:
                made[slot] = PromptInput(text=" ".join(rng.choice(WORDS, length)), sampling=drawn)
    return made
