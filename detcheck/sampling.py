"""What is drawn with which seed: each prompt with several, and neighbours now greedily, now with seeds of their own.

A prompt with a seed is an input of its own, "0:5f1c9a02 seed 1": names like that are made and read here alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from detcheck.errors import UsageError
from detcheck.spec import Spec

if TYPE_CHECKING:
    from detcheck.engine import Sampling
    from detcheck.records import Prompt

NAME = re.compile(r"(?P<prompt>.+) seed (?P<seed>\d+)")
LEAST = 2  # seeds: that two give different tokens shows that anything was drawn


def check(spec: Spec) -> None:
    """Raises UsageError where what would be asked is not determinism."""
    temperature, count = spec.options.temperature, spec.options.seeds
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(f"--temperature must be 0 or more; got {temperature:g}")
    if count and not temperature:
        raise UsageError(f"--seeds {count} draws nothing at temperature 0. Add --temperature, like 0.8")
    if temperature and not count:
        raise UsageError(
            f"--temperature {temperature:g} without a seed gives other tokens each time, as it should, so that there is no question of "
            "determinism. Add --seeds 3: the same seed must give the same tokens in any batch"
        )
    if count and count < LEAST:
        raise UsageError(
            f"--seeds must be at least {LEAST}, since different tokens of two seeds show that tokens are drawn; got {count}"
        )


def of(spec: Spec, seed: int | None) -> Sampling | None:
    """Of a prompt's samples."""
    from detcheck.engine import Sampling

    return None if seed is None else Sampling(spec.options.temperature, seed)


def beside(spec: Spec, seed: int | None, slot: int, condition: str) -> Sampling | None:
    """Of a neighbour in that slot, of samples with that seed: every second one is greedy, as it may be in a server."""
    if seed is None or slot % 2:
        return None
    from detcheck.engine import Sampling
    from detcheck.hashes import content_hash

    own = int(content_hash(f"{spec.seed}/{condition}/{slot}".encode())[:7], 16)
    return Sampling(spec.options.temperature, own)


def with_seeds(prompts: Sequence[Prompt], spec: Spec) -> tuple[Prompt, ...]:
    """Each of them with each seed, where tokens are drawn."""
    count = getattr(spec.options, "seeds", 0)
    if not count:
        return tuple(prompts)
    return tuple(replace(p, name=named(p.name, seed), seed=seed) for p in prompts for seed in range(count))


def named(prompt: str, seed: int) -> str:
    return f"{prompt} seed {seed}"


def parted(name: str) -> tuple[str, int | None]:
    """(the prompt's own name, the seed); None where it has none."""
    found = NAME.fullmatch(name)
    return (found["prompt"], int(found["seed"])) if found else (name, None)
