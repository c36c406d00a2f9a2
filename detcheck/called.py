"""Packages that have the name of a command: `detcheck.kernels` holds the ops, and `detcheck.kernels(op="rmsnorm")` asks about one.

Importing any part of such a package makes the package an attribute of `detcheck`, so a function of that name would be gone from then
on. The package is therefore called itself, by the way that Python documents for a module that is more than its names: its
`__class__` is set ("Customizing module attribute access" in the language reference).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class CalledPackage(ModuleType):
    """A package that passes a call on to the function of its name in `detcheck.api`."""

    def __call__(self, *arguments: object, **keywords: object) -> Any:
        return asked(self.__name__)(*arguments, **keywords)

    @property
    def __signature__(self) -> Any:
        return asked(self.__name__).__signature__

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return asked(self.__name__).__doc__


def asked(package: str) -> Callable[..., Any]:
    """Found by name: what is called stands above its package, and is imported when it is first asked for."""
    return importlib.import_module("detcheck.api.ask").function(package.rpartition(".")[2])


def may_be_called(package: str) -> None:
    sys.modules[package].__class__ = CalledPackage
