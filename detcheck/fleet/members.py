"""The members of a fleet, and what each of them answered: small, however much it ran."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from detcheck.hashes import json_hash
from detcheck.records import Outcome


@dataclass(frozen=True, slots=True)
class FleetMember:
    """Who was asked, and by their names what came: a table and an environment are stored once, whoever has them."""

    number: int
    """from 1"""
    name: str
    """like "worker 3 on node gpu-07", or "replica 2 at http://..." """
    table: str = ""
    """digest of what it observed; "": it is missing"""
    environment: str = ""
    """digest of where it ran"""
    verdict: str = ""
    """its own run's"""
    note: str = ""
    """what that run says, where it is no pass"""
    missing: str = ""
    """why nothing came"""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    """its run's, the first ones"""
    gpu: str = ""
    """that Ray gave it, like "GPU 1", with its UUID where torch knows it"""


@dataclass(frozen=True)
class Came:
    """What a member sent. The larger parts are fetched only where they are news."""

    member: FleetMember
    environment: Mapping[str, Any] = field(default_factory=dict)
    table: Callable[[], Mapping[str, Any]] | None = None
    """the document of a baseline; raises UsageError where it is lost"""
    outcomes: Callable[[], tuple[Outcome, ...]] = tuple


def table_digest(document: Mapping[str, Any]) -> str:
    """Of a baseline's document, whoever observed it and wherever."""
    return json_hash({name: value for name, value in document.items() if name not in ("name", "environment")})


def environment_digest(environment: Mapping[str, Any]) -> str:
    return json_hash(environment)
