"""What the two processes say to each other, as pickled tuples.

("open", settings) -> ("ready", facts); ("serve", request) -> ("served", answer); ("look", look) -> ("seen", what was seen);
("weights", asked) -> ("weights", what came of it); a problem is ("usage", text) or ("failed", text).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detcheck.engine import Completion, RequestTrace, Row


@dataclass(frozen=True)
class BatchRequest:
    """A batch to serve."""

    rows: tuple[Row, ...]
    max_tokens: int
    ends: tuple[int, ...]
    """token ids that end a sample"""
    token_budget: int | None
    cached: bool
    traced: int | None = None
    """the row whose request is looked at, module by module"""
    goes_on: bool = False
    """whether the prefix cache is left as it is, and read: the next turn of the conversations before, or the same prompts on new weights"""
    given: int = 0
    """tokens at the end of a sample's prompt whose log-probabilities are asked for; 0: those of the tokens that it makes"""
    likeliest: bool = False
    """of these positions the likeliest tokens, whatever was given"""


@dataclass(frozen=True)
class TraceRequest:
    """A batch to serve while modules are looked at; see `worker/trace.py`."""

    request: BatchRequest
    lone: bool
    test: bool = False
    nudge: str | None = None
    keep: tuple[str, int, int] | None = None
    only_logits: bool = False
    repeats: int = 2


@dataclass(frozen=True)
class WeightsRequest:
    """Something about the weights of an engine that runs."""

    what: str
    """update, holds, empty (the prefix cache) or sleep"""
    update: dict[str, Any] = field(default_factory=dict)
    """see `worker/update.py`"""


@dataclass
class Answer:
    """What came of it."""

    completions: dict[int, Completion] = field(default_factory=dict)
    traces: dict[int, RequestTrace] = field(default_factory=dict)
    steps: tuple[tuple[int, int], ...] = ()
    missing: dict[int, str] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    engine_s: float = 0.0
    """seconds in the engine's own steps"""


def completion(tokens: tuple[int, ...], entries: Sequence[Any], reason: str) -> Completion:
    """`entries`: of each position vLLM's log-probabilities of the token and of the two best, by token id."""
    own = [entry[token].logprob for token, entry in zip(tokens, entries, strict=True)]
    others = [
        max(((e.logprob, -t) for t, e in entry.items() if t != token), default=(float("nan"), -token))
        for token, entry in zip(tokens, entries, strict=True)
    ]
    logprobs = np.asarray(own, np.float32)
    margins = logprobs - np.asarray([logprob for logprob, _ in others], np.float32)
    return Completion(tokens, logprobs, margins, tuple(-t for _, t in others), reason)


def likeliest(tokens: Sequence[int], entries: Sequence[Any]) -> tuple[int, ...]:
    """Of each position the token that vLLM would take at temperature 0: the one that was given where no other is likelier."""
    return tuple(
        max(entry, key=lambda t: (entry[t].logprob, t == own, -t)) for own, entry in zip(tokens, entries, strict=True)
    )


def first_line(error: BaseException) -> str:
    """What an error says, in one line. pydantic's first line only counts its errors; what they say comes after."""
    if errors := getattr(error, "errors", None):
        with contextlib.suppress(TypeError, LookupError):
            return "; ".join(str(each["msg"]).splitlines()[0] for each in errors())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else ""
