"""A table as CSV: a heading, then one sample a row.

| column | becomes |
|---|---|
| `id`, `prompt` | the request; one of them is enough |
| `text` | the completion, decoded |
| `tokens` | token ids with spaces between, or a JSON list; or give `text` alone |
| `logprobs` | the same, of numbers, one a token |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detcheck.errors import UsageError
from detcheck.storage.input import Parsed, StoredAnswer, shown


def recognises(keys: Mapping[str, Any]) -> bool:
    return "text" in keys or "tokens" in keys


def samples(parsed: Iterable[Parsed]) -> Iterator[StoredAnswer]:
    """Raises UsageError."""
    for row in parsed:
        keys, where = row.keys, row.where
        asked = [keys[name] for name in ("id", "prompt") if name in keys]
        yield StoredAnswer(
            where,
            asked[0] if len(asked) == 1 else asked or None,
            keys.get("id", ""),
            tokens=values(keys.get("tokens"), int, "`tokens` wants ids, like 5 17 2", where),
            text=keys.get("text"),
            logprobs=values(keys.get("logprobs"), float, "`logprobs` wants numbers, like -0.5 -1.25", where),
        )


def values(cell: str | None, kind: type, wants: str, where: str) -> list[Any] | None:
    """The numbers of a cell (of a JSON list also strings); None where it is empty."""
    if cell is None or not cell.strip():
        return None
    try:
        return json.loads(cell) if cell.lstrip().startswith("[") else [kind(word) for word in cell.split()]
    except (ValueError, RecursionError):
        raise UsageError(f"{where}: {wants}, or a JSON list; found {shown(cell)}") from None
