"""A cache as long as the longest row of a batch will be: made as `generate(cache_implementation="static")` makes it."""

from __future__ import annotations

from typing import Any

from detcheck.errors import UsageError
from detcheck.models.checkpoint import first_line

TAKES = "past_key_values"  # the argument of models that can have one


def static_cache(model: Any, argument: str, tokens: int, name: str) -> Any:
    """`argument`: by which the model takes a cache; `name`: the model's. Raises UsageError where it has no such cache."""
    from transformers import StaticCache

    try:
        if argument != TAKES:
            raise KeyError(argument)
        return StaticCache(config=model.config.get_text_config(decoder=True), max_cache_len=tokens)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"--cache static: {name} keeps no cache that transformers has a static form of ({first_line(error)}). Leave it out"
        ) from None
