"""Names of conditions, made and read here alone: a kind, and the sizes that go with it, as in "wave-8", "threads-2-rows-8" or "chunked-1-tokens-16".

A file that somebody else wrote may name its conditions as it likes: such a name is a kind of its own, without sizes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class ConditionKind(StrEnum):
    """What is done to the batch around a sample. `docs/reference/conditions.md` says what each is, for each probe."""

    ALONE = "alone"
    BATCH = "batch"
    RAGGED = "ragged"
    PADDED = "padded"
    DECODE = "decode"
    WAVE = "wave"
    STAGGERED = "staggered"
    CHUNKED = "chunked"
    CACHED = "cached"
    EDGES = "edges"
    COLD = "cold"
    RATE = "rate"
    ROWS = "rows"
    MIXED = "mixed"
    HOSTILE = "hostile"
    ADAPTERS = "adapters"
    PREFILL = "prefill"
    FRESH = "fresh"
    THREADS = "threads"
    UNALIGNED = "unaligned"
    STRIDED = "strided"


FORMS = (
    re.compile(r"(?P<kind>threads)-(?P<threads>\d+)-rows-(?P<size>\d+)"),
    re.compile(r"(?P<kind>rows)-(?P<size>\d+)-threads-(?P<threads>\d+)"),
    re.compile(r"(?P<kind>chunked)-(?P<size>\d+)-tokens-(?P<tokens>\d+)"),
    re.compile(r"(?P<kind>[a-z]+)(-(?P<size>\d+))?"),
)


@dataclass(frozen=True)
class ConditionName:
    kind: str
    size: int | None = None
    """rows, requests, or the width of a padded row"""
    threads: int | None = None
    tokens: int | None = None
    """of a chunk, where prompts are cut"""

    def __str__(self) -> str:
        if self.tokens is not None:
            return f"{self.kind}-{self.size}-tokens-{self.tokens}"
        if self.threads is not None and self.kind == ConditionKind.THREADS:
            return f"threads-{self.threads}-rows-{self.size}"
        sized = self.kind if self.size is None else f"{self.kind}-{self.size}"
        return sized if self.threads is None else f"{sized}-threads-{self.threads}"

    @classmethod
    def parse(cls, text: str) -> ConditionName:
        """Never raises: a name of no form that is known is a kind."""
        found = next((m for form in FORMS if (m := form.fullmatch(text))), None)
        if found is None:
            return cls(text)
        numbers = {name: int(value) for name, value in found.groupdict().items() if name != "kind" and value}
        return cls(found["kind"], **numbers)


def named(kind: str, size: int | None = None, threads: int | None = None) -> str:
    return str(ConditionName(kind, size, threads))


def kind_of(name: str) -> str:
    return ConditionName.parse(name).kind
