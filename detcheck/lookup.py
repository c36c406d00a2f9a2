"""A part's name is its file's name. Parts are imported when asked for, and only then."""

import functools
import importlib
import importlib.resources
from types import ModuleType

from detcheck.errors import UsageError


def names(kind: str) -> list[str]:
    """The parts of a kind ("probes", "kernels", "storage/inputs"): the modules in that folder, a file or a folder each."""
    return list(_listed(kind))


@functools.cache
def _listed(kind: str) -> tuple[str, ...]:
    """Read once: the switch asks for the kernels at every forward pass."""
    folder = importlib.resources.files("detcheck") / kind
    found = (f.name.removesuffix(".py") for f in folder.iterdir() if f.name.endswith(".py") or f.is_dir())
    return tuple(sorted(name for name in found if not name.startswith("_")))


def find(kind: str, name: str) -> ModuleType:
    """Import the part. Raises UsageError with the names there are when it does not exist."""
    if name not in names(kind):
        raise UsageError(f"there is no {name!r} among the {kind}; there are: {', '.join(names(kind))}")
    return importlib.import_module(f"detcheck.{kind.replace('/', '.')}.{name}")
