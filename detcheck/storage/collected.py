"""Completions that somebody else's harness collected: samples of one file, or of two files of the same requests -> observations.

`source.py` reads the file and knows its format. Samples are read one at a time and kept only where they are new.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from detcheck.condition_name import named
from detcheck.errors import UsageError
from detcheck.hashes import content_hash
from detcheck.outcomes import outcome
from detcheck.records import Case, Condition, Observation, Outcome
from detcheck.spec import InputFormat
from detcheck.storage import source
from detcheck.storage.input import MOST_SHOWN, UNFINISHED, StoredAnswer, shown

# A null among log-probabilities is this NaN, unlike any that arithmetic makes.
NULL = np.uint64(0x7FF8_0000_0000_DE7C).view(np.float64)


AGAIN = (
    "{where}: a batch of {size} with trial {trial} came before, and rows of one batch stand together. Give each batch a `trial` of its own, and sort "
    "the file by it; or take out what was written twice"
)
TOO_MANY = "{where}: trial {trial} is a batch of {size} with more rows than that. Give each batch a `trial` of its own, or take out what was written twice"


class Collected:
    """Files of completions. `observations` reads them through; `outcomes` holds the distinct ones met so far."""

    def __init__(self, paths: Sequence[Path], format: InputFormat = InputFormat.AUTO) -> None:
        """Raises UsageError where two paths are one file."""
        self.paths = tuple(paths)
        self.format = format
        self.outcomes: dict[str, Outcome] = {}
        self.sides = sides(self.paths)
        """how reports call the files, where they are two; each one's samples have its place as their `process`"""
        self.prompts: dict[str, str] = {}
        """name of a request -> how its prompt begins, where the name was made up"""
        self._inputs: dict[str, str] = {}
        self._named: set[str] = set()
        self._kind: tuple[str, str] | None = None
        self._words: dict[str, int] = {}

    def observations(self) -> Iterator[Observation]:
        """Raises UsageError, with the line's number, at the first one that cannot be understood."""
        numbers, batches, open_batches = itertools.count(1), itertools.count(1), {}
        trials: dict[tuple[int, str, int], set[int]] = {}  # of batches that were met
        subject = " and ".join(self.sides) or self.paths[0].name
        for side, path in enumerate(self.paths):
            for row in source.read(path, self.format):
                size, trial, name = row.batch_size, row.trial, self._input(row)
                # Rows of one batch follow each other: with the same trial, or else as many as the batch has rows.
                group, number_in, batch = open_batches.get((side, name, size), (None, 0, 0))
                if size is None or group != trial or not batch or (trial is None and number_in >= size):
                    number_in, batch = 0, next(batches)
                    if size is not None and trial is not None:
                        came = trials.setdefault((side, name, size), set())
                        if trial in came:
                            raise UsageError(AGAIN.format(where=row.where, trial=trial, size=size))
                        came.add(trial)
                elif size is not None and number_in >= size and not row.error:
                    raise UsageError(TOO_MANY.format(where=row.where, trial=trial, size=size))
                open_batches[side, name, size] = trial, number_in + (not row.error), batch  # an error may be a row more
                why = row.error or unfinished(row.finish_reason)
                found = None if why else self._outcome(row)
                known = self.outcomes.setdefault(found.id, found) if found else None
                if known and known.text and found.text and known.text != found.text:
                    found, why = None, "its text is not that of an earlier sample with the same tokens"
                yield Observation(
                    Case("judge", subject, "user", "", name),
                    Condition(self._condition(row, side), size, None),
                    trial or 0,
                    batch,
                    next(numbers),
                    found.id if found else None,
                    () if size is None else (size,),
                    process=side,
                    missing="" if found else why or "empty completion",
                )

    def _input(self, row: StoredAnswer) -> str:
        """`Case.input` of the request that this answers."""
        asked = json.dumps(row.request, sort_keys=True, default=str)
        if asked not in self._inputs:
            digest = "" if asked == "null" else f":{content_hash(asked.encode())[:8]}"
            name = row.name or f"{len(self._inputs)}{digest}"
            given = name
            if name in self._named:
                name += digest
            while name in self._named:  # equal digits are not the same request
                name += "+"
            self._inputs[asked] = name
            self._named |= {given, name}
            if not row.name and isinstance(row.request, str):
                self.prompts[name] = row.request[:MOST_SHOWN]
        return self._inputs[asked]

    def _condition(self, row: StoredAnswer, side: int) -> str:
        size = row.batch_size
        name = row.condition or "unseen" if size is None else "alone" if size == 1 else named("batch", size)
        if not self.sides:
            return name
        return self.sides[side] if name == "unseen" else f"{self.sides[side]} {name}"

    def _outcome(self, row: StoredAnswer) -> Outcome | None:
        tokens, text, where = row.tokens, row.text, row.where
        if text is not None and not isinstance(text, str):
            raise UsageError(f"{where}: `text` wants a string; found {shown(text)}")
        if not (tokens or text or row.answered):
            return None
        words, unit = None, row.unit
        if tokens is None:
            ids, unit = [ord(c) for c in text or ""], "character"
        elif isinstance(tokens, list) and all(isinstance(t, str) for t in tokens):
            words = tuple(sys.intern(t) for t in tokens)
            ids, text = [self._words.setdefault(w, len(self._words)) for w in words], text or "".join(words)
        elif isinstance(tokens, list) and all(type(t) is int and abs(t) < 2**62 for t in tokens):
            ids = tokens
        else:
            raise UsageError(f"{where}: `tokens` wants a list of ids or of strings; found {shown(tokens)}")
        if not ids and not row.answered:
            return None
        numbers = None if row.logprobs is None else logprobs(row.logprobs, len(ids), unit, where)
        if ids:
            kind = "text" if unit == "character" else "strings" if words else "ids"
            kind += ", no logprobs" if numbers is None else ", logprobs"
            self._check_kind(kind + (", no finish_reason" if row.finish_reason is None else ", finish_reason"), where)
        return outcome(
            np.asarray(ids, np.int64),
            logprobs=numbers,
            finish_reason=None if row.finish_reason is None else str(row.finish_reason),
            text=text or "",
            words=words,
            unit=unit,
        )

    def _check_kind(self, kind: str, where: str) -> None:
        """Samples are compared at one level: all by ids, or strings, or text; all with log-probabilities or none."""
        if self._kind is None:
            self._kind = kind, where
        elif self._kind[0] != kind:
            raise UsageError(f"{where} has {kind}, but {self._kind[1]} has {self._kind[0]}. Give all samples alike")


def unfinished(reason: object) -> str:
    """Why an answer that ended so is none; "" where it is one."""
    return f"the completion is not finished: finish reason {reason!r}" if reason in UNFINISHED else ""


def sides(paths: Sequence[Path]) -> tuple[str, ...]:
    """How two files are called: by their names, or in full where these are the same. (): there is one file."""
    if len(paths) < 2:
        return ()
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"{paths[0]} and {paths[1]} are the same file. Give the answers of two systems, or one file")
    return tuple(path.name for path in paths) if len({path.name for path in paths}) > 1 else tuple(map(str, paths))


def logprobs(values: object, length: int, unit: str, where: str) -> np.ndarray | None:
    """float64[length]; None where none is given."""
    if unit == "character":
        raise UsageError(f"{where}: `logprobs` need `tokens` to belong to. Give `tokens` too, or leave out `logprobs`")
    if not isinstance(values, list) or not all(v is None or type(v) in (int, float) for v in values):
        raise UsageError(f"{where}: `logprobs` wants a list of numbers; found {shown(values)}")
    if len(values) != length:
        raise UsageError(f"{where}: `logprobs` has {len(values)} numbers for {length} tokens; give one each")
    if values and all(v is None for v in values):
        return None
    try:
        return np.asarray([NULL if v is None else v for v in values], np.float64)
    except OverflowError:
        raise UsageError(f"{where}: `logprobs` holds a number beyond float64") from None
