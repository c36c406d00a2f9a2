"""What is seen of a module's call in vLLM. Pure, so that both processes know it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    """One call of a module, seen from the request's rows. Bytes are hashes, good within this process."""

    path: str
    visit: int
    """index of the call within this forward pass, from 0"""
    op: str
    order: int
    """in which order calls ended"""
    step: int
    """index of the forward pass among those that computed rows of the request, from 0"""
    positions: list[int]
    before: list[int | None]
    """a row each; None: not known"""
    after: list[int | None] = field(default_factory=list)
    inner: bool = True
    """whether no other module was called in it"""
    forms: list[dict[str, Any]] = field(default_factory=list)
    source: str = ""
    untested: str = ""
    """why it was not asked again alone"""
    alone: list[int] = field(default_factory=list)
    """of each time that its rows were asked about alone, what came out"""
    batch: list[int] = field(default_factory=list)
    """of each time that all rows were asked about, what came out at the request's own"""
    details: dict[str, Any] = field(default_factory=dict)
