"""What is seen of a module's call in vLLM. Pure, so that both processes know it."""

from __future__ import annotations

from dataclasses import dataclass, field

from detcheck.replay import Replayed


@dataclass(frozen=True)
class ArgumentForm:
    """A tensor among the arguments."""

    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]
    place: int
    """among the leaves of the arguments"""
    offset: int
    """bytes from an aligned address"""


@dataclass
class ModuleTrace:
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
    forms: list[ArgumentForm] = field(default_factory=list)
    source: str = ""
    """file and line of the code that it runs, where it is a cause"""
    replayed: Replayed | None = None
    """what came when it was asked again; None: it was not to be"""
