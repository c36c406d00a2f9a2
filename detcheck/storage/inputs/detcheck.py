"""detcheck's own format: JSONL or parquet, one sample a row.

| column | is |
|---|---|
| `tokens` | token ids, or tokens as strings; or give `text` alone |
| `text` | the completion, decoded |
| `logprobs` | of each token, optional |
| `batch_size` | rows that were computed together, optional: without it no verdict can speak of the batch |
| `trial` | repetition, optional: rows with equal `batch_size` and `trial` that follow each other shared one batch |
| `prompt` | optional: samples of unequal prompts are judged apart |
| `finish_reason`, `error` | optional: why it ended; why it is missing |

A row without tokens and text is a missing sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detcheck.storage.input import Parsed, StoredAnswer, whole

COLUMNS = ("tokens", "text", "logprobs", "batch_size", "trial", "prompt", "finish_reason", "error")


def recognises(keys: Mapping[str, Any]) -> bool:
    return any(key in keys for key in ("tokens", "text", "error"))


def samples(parsed: Iterable[Parsed]) -> Iterator[StoredAnswer]:
    """Raises UsageError."""
    for row in parsed:
        keys, where = row.keys, row.where
        yield StoredAnswer(
            where,
            keys.get("prompt"),
            tokens=keys.get("tokens"),
            text=keys.get("text"),
            logprobs=keys.get("logprobs"),
            batch_size=whole(keys, "batch_size", where, least=1),
            trial=whole(keys, "trial", where),
            finish_reason=keys.get("finish_reason"),
            error=str(keys.get("error") or ""),
        )
