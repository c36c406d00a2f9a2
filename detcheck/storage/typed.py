"""Whether what was read is of the types that records declare: a file may have been changed by anybody, or torn."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

SHOWN = 40  # characters of a value
MOST = 2**63  # no number of ours is as large
Fits = Callable[[Any], bool]


def check(record: Any) -> None:
    """Raises TypeError, which names the field, where one of a dataclass is of another type than is declared."""
    for name, fits in of_fields(type(record)).items():
        if not fits(value := getattr(record, name)):
            raise TypeError(f"{name} of {type(record).__name__} is {str(value)[:SHOWN]!a} ({type(value).__name__})")


@functools.cache
def of_fields(kind: type) -> Mapping[str, Fits]:
    """Of each field, whether a value is of its type, all that it holds included."""
    found = typing.get_type_hints(kind)
    return {one.name: fitting(found[one.name]) for one in fields(kind)}


def fitting(hint: Any) -> Fits:
    """Whether a value is of that type. What is no type that records have, any value is."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        each = [fitting(one) for one in inside]
        return lambda value: any(fits(value) for fits in each)
    if origin is tuple and inside[-1] is Ellipsis:
        one = fitting(inside[0])
        return lambda value: isinstance(value, tuple) and all(map(one, value))
    if origin is tuple:
        each = [fitting(one) for one in inside]
        return lambda value: (
            isinstance(value, tuple)
            and len(value) == len(each)
            and all(fits(v) for fits, v in zip(each, value, strict=True))
        )
    if origin is not None and issubclass(origin, Mapping):
        key, one = map(fitting, inside)
        return lambda value: isinstance(value, Mapping) and all(map(key, value)) and all(map(one, value.values()))
    if hint is int:
        return is_int
    if hint is float:
        return lambda value: type(value) is float or is_int(value)
    if isinstance(hint, type):
        return lambda value: isinstance(value, hint)
    return lambda _: True


def is_int(value: object) -> bool:
    return type(value) is int and -MOST < value < MOST
