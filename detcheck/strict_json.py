"""JSON as every reader understands it: an object with a key twice is none, since readers differ in which of them they take."""

from __future__ import annotations

import json
from typing import Any


class TwiceError(Exception):
    """An object has this key twice."""


def loads(text: str | bytes) -> Any:
    """Raises TwiceError, and what json.loads raises."""
    return json.loads(text, object_pairs_hook=unambiguous)


def unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Raises TwiceError, but of objects of numbers and nulls: there keys may be tokens, of which two are spelled alike."""
    found = dict(pairs)
    if len(found) < len(pairs) and not all(value is None or type(value) in (int, float) for _, value in pairs):
        names = [name for name, _ in pairs]
        raise TwiceError(next(name for place, name in enumerate(names) if name in names[:place]))
    return found
