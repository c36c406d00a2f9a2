"""Two runs of which one was asked otherwise: which sides of what they are, in words. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

# flag of the environment -> what it is a side of, and what it is where the flag is not there
SIDES = {
    "vllm.speculative_config": ("speculative decoding", "none"),
    "vllm.tensor_parallel_size": ("tensor parallel size", "1"),
    "vllm.pipeline_parallel_size": ("pipeline parallel size", "1"),
    "compile": ("compiling", "eager"),
    "vllm.compilation": ("compiling", "NONE"),
    "cache": ("cache", "dynamic"),
    "vllm.max_num_batched_tokens": ("tokens a step", ""),
}


def named(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """ "speculative decoding: none then, ngram now"; "" where none of these differs. Arguments: environments."""
    return "; ".join(differing(a.get("flags") or {}, b.get("flags") or {}))


def differing(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[str]:
    for flag, (what, usual) in SIDES.items():
        then, now = (shown(flags.get(flag, usual)) for flags in (a, b))
        if then != now and then and now:
            yield f"{what}: {then} then, {now} now"


def shown(value: str) -> str:
    """Of a drafter its method; of a mode of vLLM's compiler a word."""
    with suppress(ValueError, AttributeError):
        return str(json.loads(value).get("method") or value)
    return "eager" if value == "NONE" else value
