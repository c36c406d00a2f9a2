"""Making an outcome: the content hash that names it, and its text where it is new."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from detcheck.bits import as_integers, patterns
from detcheck.hashes import content_hash
from detcheck.records import Outcome

TURN = " [turn {}] "  # before each later answer in a conversation's text


@dataclass(frozen=True, eq=False)
class Earlier:
    """The positions of a prompt before its last, or the gradients of what is named. See `records.Outcome`."""

    hashes: np.ndarray
    apart: np.ndarray
    names: tuple[str, ...] = ()


def outcome(
    tokens: np.ndarray,
    *,
    logprobs: np.ndarray | None = None,
    finish_reason: str | None = None,
    margins: np.ndarray | None = None,
    runners_up: np.ndarray | None = None,
    text: str = "",
    decode: Callable[[Sequence[int]], str] | None = None,
    words: tuple[str, ...] | None = None,
    unit: str = "token",
    dtype: str = "",
    earlier: Earlier | None = None,
    turns: Sequence[int] | None = None,
) -> Outcome:
    """The outcome of tokens[n] (int64, or `words`) and logprobs[n] (float32 or float64, bits count). See `records.Outcome`."""
    payload = json.dumps(words).encode() if words is not None else tokens.astype("<i8").tobytes()
    bits = b"" if logprobs is None else as_integers(logprobs).astype(f"<u{logprobs.dtype.itemsize}").tobytes()
    kind = b"words" if words is not None else f"{unit} {dtype}".rstrip().encode()
    name = content_hash(
        kind,
        payload,
        b"none" if logprobs is None else logprobs.dtype.str[1:].encode(),
        bits,
        (finish_reason or "").encode("utf-8", "surrogatepass"),
        *([] if earlier is None else [earlier.hashes.astype("<i8").tobytes()]),
        *([] if turns is None else [b"turns", np.asarray(turns, "<i8").tobytes()]),
    )
    return Outcome(
        name,
        tokens,
        logprobs,
        finish_reason,
        margins,
        runners_up,
        decode(tokens.tolist()) if decode else text,
        words,
        unit,
        dtype,
        None if earlier is None else earlier.hashes,
        None if earlier is None else earlier.apart,
        None if turns is None else np.asarray(turns, np.int64),
        () if earlier is None else earlier.names,
    )


def joined(answers: Sequence[Outcome]) -> Outcome:
    """The answers of a conversation, one after the other. What one of them lacks the whole lacks; of unlike ones their texts are taken."""
    spelled = [a.words is not None for a in answers]
    alike = len({a.unit for a in answers}) == 1 and all(spelled) == any(spelled)
    finish_reason = ",".join(a.finish_reason or "" for a in answers)
    text = "".join(a.text if n == 1 else TURN.format(n) + a.text for n, a in enumerate(answers, 1))
    if not alike:
        points = [np.asarray([ord(c) for c in a.text], np.int64) for a in answers]
        lengths = [len(p) for p in points]
        return outcome(np.concatenate(points), finish_reason=finish_reason, text=text, unit="character", turns=lengths)

    def together(name: str) -> np.ndarray | None:
        parts = [getattr(a, name) for a in answers]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    return outcome(
        np.concatenate([a.tokens for a in answers]),
        logprobs=together("logprobs"),
        finish_reason=finish_reason,
        margins=together("margins"),
        runners_up=together("runners_up"),
        text=text,
        words=tuple(w for a in answers for w in a.words) if all(spelled) else None,
        unit=answers[0].unit,
        turns=[len(a.tokens) for a in answers],
    )


def row_outcome(bits: np.ndarray, dtype: str, earlier: Earlier | None = None) -> Outcome:
    """The outcome of a tensor's row: the bit patterns of its elements, as integers of any width, and torch's name of their dtype.

    `earlier`: of a row of logits, what those before it were; of a gradient, what all of them were.
    """
    return outcome(patterns(bits), unit="element", dtype=dtype, earlier=earlier)


def digest_outcome(*parts: bytes) -> Outcome:
    """The outcome of something too large to be stored: the words of its SHA-256. It can be told from others, not how far."""
    words = np.frombuffer(bytes.fromhex(content_hash(*parts)), "<i8")
    return outcome(words.astype(np.int64), unit="word")


def turn_at(outcome: Outcome, index: int) -> tuple[int, int]:
    """Of a conversation: (turn, from 1; token of its answer, from 0) of a place among all of its tokens."""
    ends = np.cumsum(outcome.turns)
    turn = min(int(np.searchsorted(ends, index, side="right")), len(ends) - 1)
    return turn + 1, index - int(ends[turn] - outcome.turns[turn])


def token_key(outcome: Outcome) -> object:
    """Equal for equal token sequences, and only for them; of logits, for equal ones at every position; of conversations, for equal answers."""
    if outcome.positions is not None:
        return outcome.tokens.tobytes(), outcome.positions.tobytes()
    key = outcome.words if outcome.words is not None else outcome.tokens.tobytes()
    return key if outcome.turns is None else (key, outcome.turns.tobytes())
