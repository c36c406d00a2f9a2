"""A TOML value -> what an option holds. Numbers, booleans and lists are natural; text is read as on the command line."""

from __future__ import annotations

import reprlib
import types
import typing
from difflib import get_close_matches
from enum import Enum
from pathlib import Path

from detcheck.commands import Option
from detcheck.errors import UsageError
from detcheck.options import flag, shown

SHORTLY = reprlib.Repr()
SHORTLY.maxstring = SHORTLY.maxother = SHORTLY.maxlong = 100  # characters of a value that is said back


def read(option: Option, value: object) -> object:
    """Raises UsageError with what it wants, in words that go behind the key."""
    if "\0" in (value if isinstance(value, str | list) else ""):
        raise wants("text without a NUL", value)
    if option.knob.repeated:
        several = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in several):
            raise wants("text, or a list of texts", value)
        return tuple(several)
    if option.knob.read:
        try:
            return option.value(text_of(value))
        except UsageError as error:
            raise UsageError(str(error).removeprefix(f"{flag(option.name)} ")) from None
    kind = plain(option.hint)
    if issubclass(kind, Enum):
        names = [one.value for one in kind]
        if value in names:
            return kind(value)
        raise wants(f"one of {', '.join(names)}", value, nearest(str(value), names))
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise wants("true or false", value)
    if kind in (int, float):
        try:
            if isinstance(value, str) or (type(value) is int) or (type(value) is float and kind is float):
                return kind(value)
        except ValueError:
            pass
        raise wants("a whole number" if kind is int else "a number", value)
    if isinstance(value, str):
        return Path(value) if kind is Path else value
    raise wants("text in quotes", value)


def text_of(value: object) -> str:
    """As it would stand on the command line: a list with commas."""
    if isinstance(value, list) and all(type(one) in (int, str) for one in value):
        return shown(value)
    if type(value) in (int, str):
        return str(value)
    raise wants("a list, or text as on the command line", value)


def plain(hint: object) -> type:
    """The type itself of one that may be missing."""
    if isinstance(hint, types.UnionType):
        return next(one for one in typing.get_args(hint) if one is not type(None))
    return hint


def wants(what: str, value: object, hint: str = "") -> UsageError:
    got = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else SHORTLY.repr(value)
    return UsageError(f"wants {what}; got {got}{hint}")


def nearest(word: str, names: typing.Iterable[str]) -> str:
    """The one that was meant, most likely, in words that go behind a sentence; "" where none is near."""
    found = get_close_matches(word, list(names), 1, 0.7)
    return f"; the nearest is {found[0]}" if found else ""
