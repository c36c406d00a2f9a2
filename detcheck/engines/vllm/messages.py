"""What the two processes say to each other, as pickled tuples.

("open", settings) -> ("ready", facts); ("serve", request) -> ("served", answer); ("look", look) -> ("seen", what was seen); a problem is
("usage", text) or ("failed", text).
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
    given: int = 0
    """tokens at the end of a sample's prompt whose log-probabilities are asked for; 0: those of the tokens that it makes"""


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
