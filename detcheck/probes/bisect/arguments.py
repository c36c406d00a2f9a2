"""Arguments of a call in one list, and back. torch's own pytree does it for any container, and takes longer than most ops do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def flat(value: Any) -> list[Any]:
    """All leaves, in order: of lists, tuples and dicts; anything else is a leaf."""
    if type(value) in (list, tuple):
        return [leaf for part in value for leaf in flat(part)]
    if type(value) is dict:
        return [leaf for part in value.values() for leaf in flat(part)]
    return [value]


def rebuilt(value: Any, leaves: Iterator[Any]) -> Any:
    """The same with other leaves."""
    if type(value) in (list, tuple):
        return type(value)(rebuilt(part, leaves) for part in value)
    if type(value) is dict:
        return {name: rebuilt(part, leaves) for name, part in value.items()}
    return next(leaves)
