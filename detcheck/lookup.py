"""A part's name is its file's name. Parts are imported when asked for, and only then."""

import importlib
import importlib.resources
from types import ModuleType

from detcheck.errors import UsageError


def names(kind: str) -> list[str]:
    """The parts of a kind ("probes", "engines", "report" ...): the files in that folder."""
    folder = importlib.resources.files("detcheck") / kind
    return sorted(f.name[:-3] for f in folder.iterdir() if f.name.endswith(".py") and not f.name.startswith("_"))


def find(kind: str, name: str) -> ModuleType:
    """Import the part. Raises UsageError with the names there are when it does not exist."""
    if name not in names(kind):
        raise UsageError(f"there is no {name!r} among the {kind}; there are: {', '.join(names(kind))}")
    return importlib.import_module(f"detcheck.{kind}.{name}")
