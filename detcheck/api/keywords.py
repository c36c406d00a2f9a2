"""A command's options as keywords of a function: what values they take, and what `help` says of them. Made from the declarations."""

from __future__ import annotations

import difflib
import inspect
import json
import numbers
import operator
import re
import types
import typing
from collections.abc import Iterable, Mapping
from enum import StrEnum
from os import PathLike, fspath
from typing import Any

from detcheck.api.run import Run
from detcheck.commands import Option, options_of, place
from detcheck.errors import UsageError
from detcheck.options import MODEL, shown
from detcheck.spec import Spec
from detcheck.text import article

Named = str | PathLike[str]
"""Text, or a path."""
Words = str | Iterable[str | PathLike[str]]
Numbers = str | int | Iterable[int]
Pairs = str | Iterable[str] | Mapping[str, object]
"""Like "max_num_seqs=64", one or several, or as a dict."""


class UnknownKeywordError(UsageError, TypeError):
    """A keyword that the function has not got."""


def declared(options: type) -> tuple[list[Option], list[Option]]:
    """A command's own options, and those that it shares with others."""
    shared = options_of(Spec, getattr(options, "SHARED", {}), getattr(options, "DEFAULTS", {}))
    return list(options_of(options)), list(shared)


def ordered(own: list[Option], shared: list[Option]) -> list[Option]:
    """As in the command's help: arguments first, then what is asked about."""
    ranked = [(rank, one) for rank, part in enumerate((own, shared)) for one in part]
    ranked.sort(key=lambda found: (place(found[1].knob), -found[0] if found[1].knob.panel == MODEL else found[0]))
    return [one for _, one in ranked]


def values(function: str, options: list[Option], given: Mapping[str, Any], other: Iterable[str] = ()) -> dict[str, Any]:
    """Option's name -> the field's value. `other`: keywords that are no options. Raises UsageError."""
    known = {one.name: one for one in options}
    for name in given:
        if name not in known:
            raise unknown(function, name, [*known, *other])
    return {name: value(one, given[name]) if name in given else one.default for name, one in known.items()}


def unknown(function: str, name: str, known: list[str]) -> UnknownKeywordError:
    near = difflib.get_close_matches(name.lower().lstrip("-").replace("-", "_"), known, 1)
    hint = f"Did you mean {near[0]}?" if near else f"It has: {', '.join(known)}"
    return UnknownKeywordError(f"{function}() has no keyword {name}. {hint}")


def kind(one: Option) -> tuple[Any, bool]:
    """(the type of its values, whether None is one of them)"""
    if isinstance(one.hint, types.UnionType) or typing.get_origin(one.hint) is typing.Union:
        known = [t for t in typing.get_args(one.hint) if t is not types.NoneType]
        return known[0], True
    return one.hint, False


def value(one: Option, given: Any) -> Any:
    """The field's value for a value of Python's, or for the text of the command line. Raises UsageError."""
    wanted, may_be_none = kind(one)
    if given is None and may_be_none:
        return None
    if one.knob.repeated:
        return tuple(text(one, v) for v in several(given))
    if typing.get_origin(wanted) is tuple:
        return one.value(
            given if isinstance(given, str) else shown([text(one, v, numbers=True) for v in several(given)])
        )
    if issubclass(wanted, StrEnum):
        if given not in list(wanted):
            raise UsageError(f"{one.name} is one of {', '.join(wanted)}; got {given!r}")
        return wanted(given)
    if wanted is str:
        return text(one, given)
    if wanted is bool and (isinstance(given, bool) or type(given).__name__ == "bool"):  # numpy's too
        return bool(given)
    if wanted is int and isinstance(given, numbers.Integral) and not isinstance(given, bool):
        return operator.index(given)
    if wanted is float and isinstance(given, numbers.Real) and not isinstance(given, bool):
        return float(given)
    raise wrong(one, NAMES[wanted], given)


NAMES = {bool: "True or False", int: "a whole number", float: "a number"}


def several(given: Any) -> list[Any]:
    if isinstance(given, Mapping):
        return [f"{name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in given.items()]
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]


def text(one: Option, given: Any, numbers: bool = False) -> str:
    """Raises UsageError for what is neither text nor a path, a run's folder included, nor a dtype of torch's."""
    if isinstance(given, Run):
        if given.path is None:
            raise UsageError(f"{one.name}: that run has no folder, since it was not stored")
        given = given.path
    if type(given).__module__ == "torch" and type(given).__name__ == "dtype":
        return str(given).removeprefix("torch.")
    if one.name == "dtype" and isinstance(given, list | tuple):
        return ",".join(text(one, v) for v in given)
    if isinstance(given, str | PathLike):
        return str(fspath(given))
    if numbers and not isinstance(given, bool) and hasattr(given, "__index__"):
        return str(operator.index(given))
    raise wrong(one, "text", given)


def wrong(one: Option, wanted: str, given: object) -> UsageError:
    return UsageError(f"{one.name} wants {wanted}; got {given!r}, {article(type(given).__name__)}")


def annotation(one: Option) -> str:
    """The type of its values, as a stub says it."""
    wanted, may_be_none = kind(one)
    if one.knob.repeated:
        said = "Pairs" if "=" in (one.knob.metavar or "") else "Words"
    elif typing.get_origin(wanted) is tuple:
        said = "Numbers" if typing.get_args(wanted)[0] is int else "Words"
    elif issubclass(wanted, StrEnum):
        said = f"{wanted.__name__} | Literal[{', '.join(repr(str(v)) for v in wanted)}]"
    elif one.name == "dtype":
        said = "Any"
    elif one.knob.argument:
        said = "Named | Run"
    else:
        said = "Named" if wanted is str else wanted.__name__
    return f"{said} | None" if may_be_none else said


def enums(options: Iterable[Option]) -> set[type[StrEnum]]:
    """Those that annotations name."""
    return {wanted for one in options if isinstance(wanted := kind(one)[0], type) and issubclass(wanted, StrEnum)}


def in_words(one: Option) -> str:
    """The type of its values, as `help` says it."""
    wanted, _ = kind(one)
    if isinstance(wanted, type) and issubclass(wanted, StrEnum):
        return " | ".join(wanted)
    said = annotation(one).removesuffix(" | None")
    return "str, or torch's dtype" if one.name == "dtype" else WORDS.get(said, said)


WORDS = {
    "Named": "str or path",
    "Words": "str, or several",
    "Numbers": "int, or several",
    "Pairs": "str, several, or a dict",
}


def parameter(one: Option) -> inspect.Parameter:
    """An argument of the command may stand first; all else is named."""
    how = inspect.Parameter.POSITIONAL_OR_KEYWORD if one.knob.argument else inspect.Parameter.KEYWORD_ONLY
    default = str(one.default) if isinstance(one.default, StrEnum) else one.default
    if one.knob.argument and default == "":
        default = inspect.Parameter.empty
    return inspect.Parameter(one.name, how, default=default, annotation=annotation(one))


def in_python(said: str) -> str:
    """A sentence about a command line, for who calls a function: `--max-tokens` is `max_tokens`."""
    return re.sub(r"(?<![\w-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)", lambda m: m[1].replace("-", "_"), said)


def documented(summary: str, options: list[Option], more: Mapping[str, str]) -> str:
    """A docstring, with a line for each keyword, in numpy's form. `more`: (name and type) -> what is said of it."""
    lines = [inspect.cleandoc(in_python(summary)), "", "Parameters", "----------"]
    for one in options:
        made = parameter(one)
        default = "" if made.default is inspect.Parameter.empty else f", default {made.default!r}"
        lines += [f"{one.name} : {in_words(one)}{default}", f"    {in_python(one.knob.help)}"]
    for name, said in more.items():
        lines += [name, f"    {said}"]
    return "\n".join(lines) + "\n"
