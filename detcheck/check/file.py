"""The file that says what `detcheck check` asks: [tool.detcheck] of pyproject.toml, or detcheck.toml."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detcheck.errors import UsageError

log = logging.getLogger(__name__)
OWN, SHARED = "detcheck.toml", "pyproject.toml"


@dataclass(frozen=True)
class Config:
    """What the file says, as TOML has it."""

    path: Path
    within: str
    """the table of the file that is ours: "tool.detcheck"; "": the whole file is"""
    table: Mapping[str, object]
    warnings: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """What relative paths start from."""
        return self.path.parent

    def where(self, *names: str) -> str:
        """A table of it, as messages name it."""
        whole = ".".join((*filter(None, [self.within]), *names))
        return f"{self.path}, [{whole}]" if whole else f"{self.path}"


def find(start: Path) -> Config:
    """The nearest one, from a folder upward. Raises UsageError where there is none, or where it cannot be read."""
    if found := nearest(start):
        return found
    raise UsageError(
        f"there is no {OWN}, and no {SHARED} with [tool.detcheck], in {start.resolve()} or above it. `detcheck init` writes one"
    )


def nearest(start: Path) -> Config | None:
    """None: there is none. Raises UsageError where one cannot be read."""
    for folder in (start, *start.resolve().parents):
        own, shared = folder / OWN, folder / SHARED
        if own.is_file():
            both = shared.is_file() and asks(shared)
            return read(own, (f"{shared} has a [tool.detcheck] too: {own} is read, and not that",) if both else ())
        if shared.is_file() and "detcheck" in tool(parsed(shared)):
            return read(shared)
    return None


def read(path: Path, warnings: tuple[str, ...] = ()) -> Config:
    """That file. Raises UsageError where it cannot be read or says nothing to detcheck."""
    log.info("reading %s", path)
    document = parsed(path)
    if path.name != SHARED:
        return Config(path, "", document, warnings)
    table = tool(document).get("detcheck")
    if not isinstance(table, dict):
        raise UsageError(
            f"{path}: there is no table [tool.detcheck] in it. Write one; `detcheck init --pyproject` does"
        )
    return Config(path, "tool.detcheck", table, warnings)


def asks(path: Path) -> bool:
    """Whether it would, where it can be read at all."""
    try:
        return "detcheck" in tool(parsed(path))
    except UsageError:
        return False


def tool(document: Mapping[str, object]) -> Mapping[str, object]:
    found = document.get("tool")
    return found if isinstance(found, dict) else {}


def parsed(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of TOML, and of UTF-8
        raise UsageError(f"{path} is no TOML: {error}") from None
