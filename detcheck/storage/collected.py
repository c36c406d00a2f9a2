"""Completions that somebody else's harness collected: JSONL or parquet, one sample a row.

| column | is |
|---|---|
| `tokens` | token ids, or tokens as strings; or give `text` alone |
| `text` | the completion, decoded |
| `logprobs` | of each token, optional: with them bits are compared, else tokens |
| `batch_size` | rows that were computed together, optional: without it no verdict can speak of the batch |
| `trial` | repetition, optional: rows with equal `batch_size` and `trial` that follow each other shared one batch |
| `prompt` | optional: samples of unequal prompts are judged apart |
| `finish_reason`, `error` | optional: why it ended; why it is missing |

A row without tokens and text is a missing sample. Rows are read one at a time and kept only where they are new.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from detcheck.errors import UsageError
from detcheck.hashes import content_hash
from detcheck.outcomes import outcome
from detcheck.records import Case, Condition, Observation, Outcome

COLUMNS = ("tokens", "text", "logprobs", "batch_size", "trial", "prompt", "finish_reason", "error")


# A null among log-probabilities is this NaN, unlike any that arithmetic makes.
NULL = np.uint64(0x7FF8_0000_0000_DE7C).view(np.float64)


class Collected:
    """A file of completions. `observations` reads it through; `outcomes` holds the distinct ones met so far."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError if there is no such file."""
        if not path.is_file():
            what = "is a folder; `detcheck report` reads runs" if path.is_dir() else "no such file"
            raise UsageError(f"{path}: {what}. Give a JSONL or parquet file of completions")
        self.path = path
        self.outcomes: dict[str, Outcome] = {}
        self._kind: tuple[str, int] | None = None
        self._words: dict[str, int] = {}

    def observations(self) -> Iterator[Observation]:
        """Raises UsageError, with the row's number, at the first row that cannot be understood."""
        batches, open_batches = itertools.count(1), {}
        inputs: dict[str, str] = {}
        for number, row in enumerate(self._rows(), 1):
            where = f"{self.path}, row {number}"
            size, trial = whole(row, "batch_size", where), whole(row, "trial", where)
            prompt = json.dumps(row.get("prompt"), sort_keys=True, default=str)
            if prompt not in inputs:
                named = "" if prompt == "null" else f":{content_hash(prompt.encode())[:8]}"
                inputs[prompt] = f"{len(inputs)}{named}"
            # Rows of one batch follow each other: with the same trial, or else as many as the batch has rows.
            group, number_in, batch = open_batches.get((prompt, size), (None, 0, 0))
            if size is None or group != trial or not batch or (trial is None and number_in >= size):
                number_in, batch = 0, next(batches)
            open_batches[prompt, size] = trial, number_in + 1, batch
            found = self._outcome(row, where)
            if found:
                self.outcomes.setdefault(found.id, found)
            yield Observation(
                Case("judge", self.path.name, "user", "", inputs[prompt]),
                Condition("unseen" if size is None else "alone" if size == 1 else f"batch-{size}", size, None),
                trial or 0,
                batch,
                number,
                found.id if found else None,
                () if size is None else (size,),
                missing="" if found else str(row.get("error") or "empty completion"),
            )
        if not inputs:
            raise UsageError(f"{self.path} holds no completions. Give one a row, with `tokens` or `text`")

    def _rows(self) -> Iterator[Mapping[str, object]]:
        with self.path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        return self._parquet() if parquet else self._jsonl()

    def _jsonl(self) -> Iterator[Mapping[str, object]]:
        with self.path.open(encoding="utf-8-sig") as file:
            try:
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UsageError(
                            f"{self.path}, line {number}: wants an object with `tokens` or `text`; found {line[:40]!a}"
                        )
                    yield row
            except (ValueError, RecursionError) as error:  # of JSON, or of UTF-8
                raise UsageError(
                    f"{self.path} is neither parquet nor JSONL: {error}. Write one JSON object a line"
                ) from None

    def _parquet(self) -> Iterator[Mapping[str, object]]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                columns = [c for c in COLUMNS if c in file.schema_arrow.names]
                for part in file.iter_batches(batch_size=1024, columns=columns):
                    yield from part.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise UsageError(
                f"{self.path} is not a whole parquet file: {str(error).splitlines()[0]}. Write it again"
            ) from None

    def _outcome(self, row: Mapping[str, object], where: str) -> Outcome | None:
        tokens, text, logprobs = row.get("tokens"), row.get("text"), row.get("logprobs")
        if text is not None and not isinstance(text, str):
            raise UsageError(f"{where}: `text` wants a string; found {shown(text)}")
        if tokens is None and text is None and not any(c in row for c in ("tokens", "text", "error")):
            raise UsageError(
                f"{where}: wants `tokens` or `text`; found the columns {', '.join(map(str, row)) or 'none'}"
            )
        if row.get("error") or (not tokens and not text):
            return None
        words, unit = None, "token"
        if tokens is None:
            ids, unit = [ord(c) for c in text], "character"
        elif isinstance(tokens, list) and all(isinstance(t, str) for t in tokens):
            words = tuple(sys.intern(t) for t in tokens)
            ids, text = [self._words.setdefault(w, len(self._words)) for w in words], text or "".join(words)
        elif isinstance(tokens, list) and all(type(t) is int and abs(t) < 2**62 for t in tokens):
            ids = tokens
        else:
            raise UsageError(f"{where}: `tokens` wants a list of ids or of strings; found {shown(tokens)}")
        if not ids:
            return None
        numbers = None if logprobs is None else self._logprobs(logprobs, len(ids), unit, where)
        reason = row.get("finish_reason")
        kind = "text" if unit == "character" else "strings" if words else "ids"
        kind += ", no logprobs" if numbers is None else ", logprobs"
        self._check_kind(kind + (", no finish_reason" if reason is None else ", finish_reason"), where)
        return outcome(
            np.asarray(ids, np.int64),
            logprobs=numbers,
            finish_reason=None if reason is None else str(reason),
            text=text or "",
            words=words,
            unit=unit,
        )

    def _check_kind(self, kind: str, where: str) -> None:
        """Samples are compared at one level: all by ids, or strings, or text; all with log-probabilities or none."""
        if self._kind is None:
            self._kind = kind, where
        elif self._kind[0] != kind:
            raise UsageError(
                f"{where} has {kind}, but {self._kind[1]} has {self._kind[0]}. Give all rows of a file alike"
            )

    def _logprobs(self, values: object, length: int, unit: str, where: str) -> np.ndarray | None:
        if unit == "character":
            raise UsageError(
                f"{where}: `logprobs` need `tokens` to belong to. Give `tokens` too, or leave out `logprobs`"
            )
        if not isinstance(values, list) or not all(v is None or type(v) in (int, float) for v in values):
            raise UsageError(f"{where}: `logprobs` wants a list of numbers; found {shown(values)}")
        if len(values) != length:
            raise UsageError(f"{where}: `logprobs` has {len(values)} numbers for {length} tokens; give one each")
        if all(v is None for v in values):
            return None
        try:
            return np.asarray([NULL if v is None else v for v in values], np.float64)
        except OverflowError:
            raise UsageError(f"{where}: `logprobs` holds a number beyond float64") from None


def whole(row: Mapping[str, object], column: str, where: str) -> int | None:
    value = row.get(column)
    if value is None:
        return None
    if type(value) is not int or value < (1 if column == "batch_size" else 0):
        raise UsageError(f"{where}: `{column}` wants a whole number; found {shown(value)}")
    return value


def shown(value: object) -> str:
    return f"{str(value)[:40]!a} ({type(value).__name__})"
