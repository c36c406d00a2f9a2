"""Why something could not be known, as data: a code and the values that go with it. A probe's slice holds the sentences.

A stored run keeps the code, so that a better sentence reaches runs of the past too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SAID = "said"  # the code of a reason that an older run stored as a finished sentence


@dataclass(frozen=True)
class Reason:
    """A code of the slice's own table of sentences, and what is filled in."""

    code: str
    values: Mapping[str, str | int | float] = field(default_factory=dict, hash=False)

    def sentence(self, sentences: Mapping[str, str]) -> str:
        """In words. `sentences`: code -> a sentence with {names} of values."""
        if self.code == SAID:
            return str(self.values["text"])
        return sentences[self.code].format_map(self.values)

    def to_json(self) -> dict[str, str | int | float]:
        return {"code": self.code, **self.values}

    @classmethod
    def from_json(cls, stored: str | Mapping[str, str | int | float] | None) -> Reason | None:
        """None: there is none. A string is the finished sentence of an older run."""
        if not stored:
            return None
        if isinstance(stored, str):
            return cls(SAID, {"text": stored})
        return cls(str(stored["code"]), {name: value for name, value in stored.items() if name != "code"})
