"""Python files given by their paths, as pre-commit gives them: which declare kernels, and how each is imported."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from detcheck.errors import NothingToAskError, UsageError
from detcheck.files import from_root
from detcheck.harness import user_op

DECLARED = "DETCHECK"
PRIVATE = "certified_"  # before the name of a file of no package, so that it takes the place of no other module

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Read:
    """Files, read and not run."""

    declaring: list[Path]
    """those that declare kernels, each once"""
    undeclared: list[Path]
    """those that hold @triton.jit and declare nothing"""


def read(files: Sequence[str], allow_none: bool) -> Read:
    """Raises UsageError where one is no Python file, or none declares any kernel; where that is allowed NothingToAskError."""
    found, none, undeclared = {}, [], []
    for file in files:
        path = Path(file)
        try:
            tree = parsed(path.read_text("utf-8"), file)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise UsageError(f"{file}: cannot be read: {why}") from None
        if declares(tree):
            found.setdefault(path.resolve(), path)
            continue
        none.append(path)
        if jits(tree):
            undeclared.append(path)
        else:
            log.info("passed over %s, which declares no kernel", path)
    if not found:
        said = f"no kernel is declared in {', '.join(map(str, none))}, so there is nothing to certify"
        if undeclared:
            said += f". @triton.jit stands in {', '.join(map(str, undeclared))} all the same"
        if allow_none:
            raise NothingToAskError(said)
        raise UsageError(f"{said}. A module declares its Triton kernels in {DECLARED}, see docs/probes/certify.md")
    return Read(list(found.values()), undeclared)


def parsed(text: str, file: str) -> ast.Module:
    """Raises UsageError for what is no Python."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{file}: is no Python that can be read: {error}") from None


def declares(tree: ast.Module) -> bool:
    """Whether anything in the module, under whatever condition, gives DETCHECK a value."""
    bare = {one.target for one in ast.walk(tree) if isinstance(one, ast.AnnAssign) and one.value is None}
    return any(DECLARED in bound(node) for node in ast.walk(tree) if node not in bare)


def bound(node: ast.AST) -> tuple[str, ...]:
    """The names that it gives a value: an assignment's target of any form, `globals()["NAME"]`, an import, a definition."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()):
            return (name,)
        case ast.Subscript(slice=ast.Constant(value=str(name)), ctx=ast.Store()):
            return (name,)
        case ast.alias(name=name, asname=given):
            return (given or name.partition(".")[0],)
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return (name,)
    return ()


def jits(tree: ast.Module) -> bool:
    """Whether it holds a function under @triton.jit, by whatever name it is imported."""
    nodes = list(ast.walk(tree))
    triton = any(isinstance(one, ast.Import) and any(a.name.startswith("triton") for a in one.names) for one in nodes)
    triton |= any(isinstance(one, ast.ImportFrom) and (one.module or "").startswith("triton") for one in nodes)
    under = [ast.unparse(d) for one in nodes if isinstance(one, ast.FunctionDef) for d in one.decorator_list]
    return triton and any(re.search(r"\bjit\b", words) for words in under)


def load(path: Path) -> tuple[str, ModuleType]:
    """(the module's name, the module). Of a package it is imported as a part of it, so that relative imports work. Raises UsageError."""
    folder, parts = path.resolve().parent, [path.stem]
    while (folder / "__init__.py").is_file():
        folder, parts = folder.parent, [folder.name, *parts]
    name, part = ".".join(parts), len(parts) > 1 and path.suffix == ".py"
    if part and parts[0] in sys.modules and not is_of(sys.modules[parts[0]], folder / parts[0] / "__init__.py"):
        raise taken(path, parts[0], sys.modules[parts[0]])
    try:
        with importable(folder), contextlib.redirect_stdout(sys.stderr):  # stdout is the report's
            importlib.invalidate_caches()
            name, module = (name, importlib.import_module(name)) if part else by_path(path)
    except (Exception, SystemExit) as error:  # it is foreign and may raise anything
        raise UsageError(
            f"{path}: importing it raised {user_op.words(error)}. Make it import by itself first"
        ) from error
    if not is_of(module, path):
        raise taken(path, name, module)
    if not hasattr(module, DECLARED):
        raise UsageError(f"{path}: {DECLARED} is given a value in it, but has none once it is imported here")
    return name, module


def taken(path: Path, name: str, by: ModuleType) -> UsageError:
    """A name leads to one file: what it leads to already is not the file that was named."""
    other = getattr(by, "__file__", None) or "a part of Python"
    return UsageError(
        f"{path}: it would be imported as a part of {name}, and that is {other} already. Certify files of packages of one name in commands of "
        "their own; of an installed package, its own files"
    )


def is_of(module: ModuleType, path: Path) -> bool:
    """Whether that file is what was imported: a name may be another file's already."""
    file = getattr(module, "__file__", None)
    return bool(file) and Path(file).resolve() == path.resolve()


def by_path(path: Path) -> tuple[str, ModuleType]:
    """Of no package: named by its path from here, or from the repository's root, since two folders may have files of one name."""
    whole = path.resolve()
    place = whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else Path(from_root(whole).lstrip("/"))
    *folders, name = place.with_suffix("").parts if place.suffix == ".py" else place.parts
    private = ".".join((*folders, PRIVATE + name))
    loader = SourceFileLoader(private, str(whole))  # also of a script, which has no ending that says what it is
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(private, loader))
    sys.modules[private] = module  # where dataclasses, among others, look for it
    try:
        # By hand, so that no bytecode is read: `tool` and `tool.py` would share it.
        exec(loader.source_to_code(whole.read_bytes(), str(whole)), vars(module))
    except BaseException:
        del sys.modules[private]
        raise
    return ".".join((*folders, name)), module


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
