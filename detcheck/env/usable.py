"""What the listing is made of, and the formats that it has."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ListingFormat(StrEnum):
    """Of `detcheck env`."""

    TERMINAL = "terminal"
    JSON = "json"
    MD = "md"


@dataclass(frozen=True)
class Usable:
    """An engine, or a set of kernels: can it run here?"""

    kind: str
    """engine or kernels"""
    name: str
    runs: bool
    """here, as things are"""
    found: str
    """its version and where it runs; or why it cannot"""
    remedy: str = ""
    """what to type so that it runs; "": it does, or this machine is not made for it"""
