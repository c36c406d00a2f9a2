"""What a format of other people's completions is: a file in `inputs/` that turns what was parsed into samples.

Such a file has `recognises(keys) -> bool`, which is asked about the first object of a file (of a table: about its columns), and
`samples(parsed) -> Iterator[Sample]`, which is pure. Both see plain JSON values; of a table every value is a string.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detcheck.errors import UsageError

PART = "\x1e"  # between the parts of an answer: ASCII's record separator, which no model is taught to write
UNFINISHED = (  # finish reasons of answers that are not whole
    "abort", "error", "cancelled", "content_filter", "timeout", "insufficient_system_resource", "network_error",
)  # fmt: skip
MOST_SHOWN = 40  # characters of a value in an error


@dataclass(frozen=True)
class Parsed:
    """A row of a table, a line of JSONL, or a JSON document."""

    where: str
    """for errors: "a.jsonl, line 3" """
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class StoredAnswer:
    """One completion as a file gives it. What is in it is not checked yet where it is an `object`."""

    where: str
    request: object = None
    """a JSON value: samples with equal ones are answers to one request; None: all of the file are"""
    name: str = ""
    """how reports call the request; "": by its place and a hash"""
    tokens: object = None
    """list of ids or of strings; None: there is text alone"""
    text: object = None
    logprobs: object = None
    """list of numbers, one a token"""
    batch_size: int | None = None
    """None: not known"""
    trial: int | None = None
    condition: str = ""
    """name of what it was asked under, where the batch is not known: "concurrency-8" """
    finish_reason: object = None
    error: str = ""
    """why there is no completion"""
    answered: bool = False
    """whether the file says that the request was answered: an empty text is an answer then, else a missing one"""
    unit: str = "token"
    """what an entry of `tokens` is: "token", or "choice" of a question with given answers"""


def wanted(value: object, kind: type | tuple[type, ...], what: str, where: str) -> Any:
    """The value, if it is of that kind. Raises UsageError."""
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    kinds = kind if isinstance(kind, tuple) else (kind,)
    raise UsageError(f"{where}: {what} wants {' or '.join(WORDS[k] for k in kinds)}; found {shown(value)}")


WORDS = {
    str: "a string",
    list: "a list",
    dict: "an object",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def said(content: str, reasoning: str = "", refusal: str = "", calls: Sequence[str] = ()) -> str:
    """All that an answer says as one text. Unequal answers stay unequal: what is beside the content keeps its place."""
    return PART.join((reasoning, content, refusal, *calls)) if reasoning or refusal or calls else content


def tool_calls(found: object, where: str) -> list[str]:
    """What each says. Their ids are made up each time and left out. Raises UsageError."""
    return [
        called(wanted(call, dict, "a tool call", where)) for call in wanted(found or [], list, "`tool_calls`", where)
    ]


def called(call: Mapping[str, Any]) -> str:
    """name(arguments) of a function, in OpenAI's form; of another kind of tool all that it says."""
    if isinstance(function := call.get("function"), dict):
        return f"{plain(function.get('name'))}({plain(function.get('arguments'))})"
    return json.dumps({key: value for key, value in call.items() if key not in ("id", "index")}, sort_keys=True)


def of_message(message: Mapping[str, Any], where: str) -> tuple[str, str, str, list[str]]:
    """What a chat's message says: content, reasoning, refusal, calls of tools. Raises UsageError."""
    thought = message.get("reasoning") or message.get("reasoning_content")
    old = message.get("function_call")  # before there were several tools
    calls = tool_calls(message.get("tool_calls"), where) + ([] if old is None else [called({"function": old})])
    return plain(message.get("content")), plain(thought), plain(message.get("refusal")), calls


def plain(part: object) -> str:
    """A part of a message as text: a chat's content may also be a list of objects."""
    return part if isinstance(part, str) else "" if part is None else json.dumps(part, sort_keys=True)


def whole(keys: Mapping[str, Any], key: str, where: str, least: int = 0) -> int | None:
    """A whole number from `least` up, or None where there is none. Raises UsageError."""
    value = keys.get(key)
    if value is not None and (type(value) is not int or value < least):
        raise UsageError(f"{where}: `{key}` wants a whole number; found {shown(value)}")
    return value


def shown(value: object) -> str:
    return f"{str(value)[:MOST_SHOWN]!a} ({type(value).__name__})"


def listed(names: Iterable[object], most: int = 12) -> str:
    """a, b and c; of very many the first, and how many more."""
    every = [str(name) for name in names]
    return (
        f"{', '.join(every[:most])} and {len(every) - most} more" if len(every) > most else ", ".join(every) or "none"
    )
