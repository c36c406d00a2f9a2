"""Python files given by their paths, as pre-commit gives them: which declare kernels, and how each is imported."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from detcheck.errors import NothingToAskError, UsageError
from detcheck.harness import user_op

DECLARED = "DETCHECK"


def declaring(files: Sequence[str], allow_none: bool) -> list[Path]:
    """Those that declare kernels, read and not run. Raises UsageError where one is no Python file, or none declares any; where that is
    allowed NothingToAskError."""
    found, none = [], []
    for file in files:
        path = Path(file)
        try:
            (found if declares(path.read_text("utf-8"), file) else none).append(path)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise UsageError(f"{file}: cannot be read: {why}") from None
    if not found:
        said = f"no kernel is declared in {', '.join(map(str, none))}, so there is nothing to certify"
        if allow_none:
            raise NothingToAskError(said)
        raise UsageError(f"{said}. A module declares its Triton kernels in {DECLARED}, see docs/probes/certify.md")
    return found


def declares(text: str, file: str) -> bool:
    """Whether the module assigns DETCHECK. Raises UsageError for what is no Python."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{file}: is no Python that can be read: {error}") from None
    targets = [t for one in body if isinstance(one, ast.Assign) for t in one.targets]
    targets += [one.target for one in body if isinstance(one, ast.AnnAssign) and one.value]
    return any(isinstance(target, ast.Name) and target.id == DECLARED for target in targets)


def load(path: Path) -> tuple[str, ModuleType]:
    """(the module's name, the module). Of a package it is imported as a part of it, so that relative imports work. Raises UsageError."""
    folder, parts = path.resolve().parent, [path.stem]
    while (folder / "__init__.py").is_file():
        folder, parts = folder.parent, [folder.name, *parts]
    name = ".".join(parts)
    try:
        with importable(folder), contextlib.redirect_stdout(sys.stderr):  # stdout is the report's
            importlib.invalidate_caches()
            if len(parts) > 1:
                return name, importlib.import_module(name)
            return by_path(path)
    except (Exception, SystemExit) as error:  # it is foreign and may raise anything
        raise UsageError(
            f"{path}: importing it raised {user_op.words(error)}. Make it import by itself first"
        ) from error


def by_path(path: Path) -> tuple[str, ModuleType]:
    """Of no package: named by its path from here, since two folders may have files of one name."""
    name = ".".join(path.with_suffix("").parts) if not path.is_absolute() else path.stem
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where inspect, and so Triton, looks for its source
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return name, module


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Inside, modules are looked for in the current folder and in this one first."""
    with user_op.importable():
        sys.path.insert(0, str(folder))
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                sys.path.remove(str(folder))
