"""An option is declared once: as a field of a frozen dataclass, with its flag, its help and how its text is read.

`Spec` has the options that several probes share, a probe's `Options` has its own. Commands, their help and the command line that
repeats a run are all made from the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any

# Headings of the help, in the order in which they stand there.
MODEL, OP, PROMPTS, SERVER, SCHEDULE, FLEET, VERDICT = (
    "Model", "Op", "Prompts", "Server", "Schedule", "Fleet", "Verdict and output",
)  # fmt: skip
PANELS = (MODEL, OP, PROMPTS, SERVER, SCHEDULE, FLEET, VERDICT)


@dataclass(frozen=True)
class Knob:
    """What is said of an option beside its name, type and default, which are the field's."""

    help: str
    panel: str = ""
    """heading of the help"""
    flags: tuple[str, ...] = ()
    """(): made from the field's name"""
    metavar: str | None = None
    read: Callable[[str], object] | None = None
    """text -> value; raises ValueError with what it wants. None: the field's type says how"""
    argument: bool = False
    """has no flag"""
    repeated: bool = False
    """may be given again and again"""
    values: Iterable[str] | Callable[[], Iterable[str]] = ()
    """those that a shell completes; a function where listing them costs an import"""
    engines: tuple[str, ...] = ()
    """of a probe that asks engines: those that have it; (): all"""


def knob(default: Any, *flags: str, **said: Any) -> Any:
    """A field that is an option. `said`: the fields of Knob."""
    return field(default=default, metadata={"knob": Knob(flags=flags, **said)})


def knob_of(one: Field[Any]) -> Knob | None:
    """None: a field that no option sets."""
    return one.metadata.get("knob")


def same(options: type, name: str) -> Any:
    """The option of that name in another probe's options: what is said of it is said there alone."""
    there = next(one for one in fields(options) if one.name == name)
    return field(default=there.default, metadata=there.metadata)


def completions(made: Knob, begun: str) -> list[str]:
    """What a shell offers where this much of the value is typed; of a list with commas, its last word is completed."""
    before, comma, last = begun.rpartition(",") if made.read else ("", "", begun)
    values = made.values() if callable(made.values) else made.values
    return [f"{before}{comma}{value}" for value in values if value.startswith(last)]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def words(text: str) -> tuple[str, ...]:
    """ "a,b" """
    return tuple(word.strip() for word in text.split(","))


def numbers(example: str, least: int | None = None, what: str = "whole numbers") -> Callable[[str], tuple[int, ...]]:
    """Reads "1,8,64"."""

    def read(text: str) -> tuple[int, ...]:
        try:
            found = tuple(int(word) for word in text.split(","))
        except ValueError:
            found = ()
        if not found or (least is not None and min(found) < least):
            raise ValueError(f"wants {what}, like {example}; got {text}")
        return found

    return read


def shown(value: object) -> str:
    """A value as it is written on a command line."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
