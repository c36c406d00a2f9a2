"""How an engine is asked for conditions of the prompt alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from detcheck.engine import Decoded, Engine, Row

ONE_TOKEN = "a single token was made, which leaves nothing to compute again: ask for more --max-tokens, or give a prompt that goes on"


def prefilled(engine: Engine, row: Row, decode: Callable[[], Decoded]) -> Decoded:
    """The row's tokens are made one by one, and then computed again in one go. Where none came, that is what is told."""
    decoded = decode()
    made = decoded.completions.get(0)
    if made is None:
        return decoded
    if len(made.tokens) < 2:  # the last is not fed: what made it is the prompt alone, as it was
        return replace(decoded, completions={}, missing={0: ONE_TOKEN})
    again = engine.prefill(row, made)
    return replace(again, steps=decoded.steps + again.steps, speculation=decoded.speculation)
