"""LoRA adapters inside an engine of vLLM's: taken whole or refused, and what they change of one prompt. Runs in vLLM's process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detcheck.engine import Completion
from detcheck.engines.vllm.messages import first_line

INSTEAD = "Use --engine transformers, or merge it into the model and give what was saved with --model"


TOKENS = 4  # that show what an adapter changes


class BadAdapterError(Exception):
    """vLLM does not take an adapter."""


def put_on(
    engine: Any, given: Sequence[tuple[str, str] | None], completed: Callable[[Any], Completion]
) -> tuple[list[Any], dict[str, str]]:
    """(what requests name each by, what there is to say). `given`: as it was named, and its folder; None: the model without one.

    `completed`: one prompt, computed alone with what is given. Raises BadAdapterError.
    """
    from vllm.lora.request import LoRARequest

    without = completed(None)
    made = [one and LoRARequest(f"adapter {n}", n + 1, str(Path(one[1]).resolve())) for n, one in enumerate(given)]
    for one, request in zip(given, made, strict=True):
        if request is None:
            continue
        try:
            engine.add_lora(request)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise BadAdapterError(f"vLLM does not take {one[0]}: {first_line(error)}") from error
    if unused := sorted({name for names in engine.collective_rpc("detcheck_unused_adapters") for name in names}):
        raise BadAdapterError(f"vLLM has no place for {len(unused)} modules of an adapter ({', '.join(unused[:3])})")
    tested, *others = [without if request is None else completed(request) for request in made]
    for one, found in zip(given[1:], others, strict=True):
        if one and same(found, tested):
            raise BadAdapterError(
                f"{one[0]} gives what the prompt's own adapter (or none) gives, so that neighbours with it show nothing"
            )
    return made, {"adapter effect": effect(without, tested)} if given[0] else {}


def same(a: Completion, b: Completion) -> bool:
    return a.tokens == b.tokens and a.logprobs.tobytes() == b.logprobs.tobytes()


def effect(without: Completion, now: Completion) -> str:
    if same(without, now):
        return "the adapter changes nothing of the completion that was tried"
    shared = int(np.argmin([*np.equal(without.tokens, now.tokens), False])) or 1
    if without.tokens[0] != now.tokens[0]:
        return "the adapter changes the first token of the completion that was tried"
    return (
        f"the adapter changes log-probabilities by up to {np.abs(now.logprobs - without.logprobs)[:shared].max():.2g}"
    )
