"""What is read of a compiled kernel: data alone. `reasons.py` has the words, `judge.py` the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detcheck.reason import Reason


@dataclass(frozen=True)
class Found:
    """Something that speaks against a kernel."""

    refutes: bool
    """it is enough; otherwise it is only not clear"""
    why: Reason
    file: str = ""
    """of the source; "": it has no line"""
    line: int = 0
    more: Reason | None = None
    """why attention's rule, which was declared, does not excuse it; of code that cannot be read, what was read last"""

    def to_json(self) -> dict[str, object]:
        more = {"more": self.more.to_json()} if self.more else {}
        return {"refutes": self.refutes, "why": self.why.to_json(), "file": self.file, "line": self.line} | more

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Found:
        """`what` is the finished sentence of an older run."""
        why = Reason.from_json(stored["why"] if "why" in stored else stored["what"])
        assert why is not None
        return cls(stored["refutes"], why, stored["file"], stored["line"], Reason.from_json(stored.get("more")))


@dataclass(frozen=True)
class Certificate:
    """One kernel, compiled for one target in every form of a launch, and read."""

    target: str
    forms: int
    """ways in which a launch can specialise the kernel, each compiled"""
    binaries: Mapping[str, Mapping[str, tuple[str, ...]]]
    """variant of the kernel, "" where there is one -> SHA-256 of a binary -> the forms that give it"""
    found: tuple[Found, ...]
    """the worst first"""
    trusted: tuple[Reason, ...]
    """what it rests on and cannot show"""
    flags: Mapping[str, str]
    """what the compiler was told that can change bits"""
    registers: int
    """the most that a thread of a binary has"""
    spills: int
    """the most that did not fit into them: bytes on sm_*, registers on gfx942"""
    instructions: Mapping[str, int]
    """of the matrix units: name -> how often it stands in the code"""
    shared_bytes: int
    """the most that a block has"""

    def to_json(self) -> dict[str, object]:
        stored = {
            "found": [each.to_json() for each in self.found],
            "trusted": [each.to_json() for each in self.trusted],
        }
        return self.plain() | stored

    def plain(self) -> dict[str, object]:
        """All that needs no words."""
        return {
            "target": self.target,
            "forms": self.forms,
            "binaries": {
                variant: {digest: list(forms) for digest, forms in made.items()}
                for variant, made in self.binaries.items()
            },
            "flags": dict(self.flags),
            "registers": self.registers,
            "spills": self.spills,
            "instructions": dict(self.instructions),
            "shared_bytes": self.shared_bytes,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Certificate:
        """Of an older run too, whose reasons are finished sentences."""
        binaries = {
            variant: {digest: tuple(forms) for digest, forms in made.items()}
            for variant, made in stored["binaries"].items()
        }
        trusted = (Reason.from_json(each) for each in stored["trusted"])
        return cls(
            stored["target"],
            stored["forms"],
            binaries,
            tuple(map(Found.from_json, stored["found"])),
            tuple(reason for reason in trusted if reason),
            stored["flags"],
            stored["registers"],
            stored["spills"],
            stored["instructions"],
            stored["shared_bytes"],
        )
