"""Which engine runs the model: what was asked for, or what this machine suggests. Engines are found by their folders."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import TYPE_CHECKING

from detcheck import lookup
from detcheck.errors import UsageError
from detcheck.options import flag, knob_of
from detcheck.spec import Spec

if TYPE_CHECKING:
    from detcheck.engine import Engine, EngineType

AUTO = "auto"


def find(name: str) -> EngineType:
    """Raises UsageError with the names there are where there is none of that name."""
    if name not in lookup.names("engines"):
        raise UsageError(f"--engine {name}: use {', '.join((AUTO, *lookup.names('engines')))}")
    return importlib.import_module(f"detcheck.engines.{name}.options").ENGINE


def chosen(spec: Spec) -> str:
    """The engine's name. Raises UsageError where there is none of that name."""
    asked = getattr(spec.options, "engine", "transformers")
    if asked != AUTO:
        find(asked)
        return asked
    return max(lookup.names("engines"), key=lambda name: find(name).preference(spec))


def kind(spec: Spec) -> EngineType:
    return find(chosen(spec))


def check(spec: Spec) -> EngineType:
    """What can be known before anything is opened. Raises UsageError for options that are not for the engine that is taken."""
    name = chosen(spec)
    found = find(name)
    found.check(spec)
    for each in fields(spec.options):
        made = knob_of(each)
        if made is None or not made.engines or name in made.engines:
            continue
        if getattr(spec.options, each.name) != each.default:
            whose = [find(other) for other in made.engines]
            auto = ", which --engine auto chose" if getattr(spec.options, "engine", "") == AUTO else ""
            raise UsageError(
                f"{flag(each.name)} is for {' and '.join(other.title for other in whose)}, and the engine is {found.title}{auto}. "
                f"Leave it out, or {whose[0].how}"
            )
    return found


def open_engine(spec: Spec) -> Engine:
    """One that runs a model here. Raises UsageError or FailedError where it cannot be."""
    return kind(spec).open(spec)
