"""The user's own op, named package.module:function.

Contract: `function(*inputs)` returns one tensor whose row i belongs to row i of the batch. Beside it in the module are

    make_inputs(rows, dtype, seed) -> tuple of arguments   needed: `rows` independent rows of any content
    BATCHED = (0,)                                         optional: which arguments have the batch as first dimension
    reference(*inputs)                                     optional: the same, of float64 inputs; without it accuracy is not judged
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from detcheck.errors import FailedError, UsageError
from detcheck.files import from_root
from detcheck.hashes import content_hash

if TYPE_CHECKING:
    import torch

    from detcheck.records import SourceLine

PATH = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*"


@dataclass(frozen=True)
class UserOp:
    """What the module gave."""

    path: str
    run: Callable[..., torch.Tensor]
    make_inputs: Callable[..., Sequence[object]]
    batched: tuple[int, ...]
    reference: Callable[..., torch.Tensor] | None
    digest: str
    """of the module's source, "" where it has none"""

    def make(self, rows: int, dtype: torch.dtype, seed: int) -> tuple[object, ...]:
        """The arguments, checked. Raises FailedError where the maker raises, UsageError where it breaks the contract."""
        import torch

        maker = f"make_inputs of {self.path.partition(':')[0]}"
        try:
            with importable():
                made = self.make_inputs(rows, dtype, seed)
        except (Exception, SystemExit) as error:  # it is foreign and may raise anything
            raise FailedError(
                f"{maker} raised {words(error)}. It is called as make_inputs(rows, dtype, seed)"
            ) from error
        if not isinstance(made, tuple | list):
            raise UsageError(f"{maker} must return a tuple of arguments; it returned {type(made).__name__}")
        for n in self.batched:
            if n >= len(made) or not isinstance(made[n], torch.Tensor) or not made[n].ndim or len(made[n]) != rows:
                found = "nothing" if n >= len(made) else getattr(made[n], "shape", type(made[n]).__name__)
                found = tuple(found) if isinstance(found, torch.Size) else found
                raise UsageError(f"{maker}: argument {n} must be a tensor of {rows} rows, as asked for; it is {found}")
        return tuple(made)


def check_path(path: str) -> None:
    if not re.fullmatch(PATH, path):
        raise UsageError(f"--op {path}: name a function as package.module:function, like my_kernels.norm:rmsnorm")


def load(path: str) -> UserOp:
    """Import it; the current directory comes first. Raises UsageError where it is not there or breaks the contract."""
    loaded = module(path)
    name, _, function = path.partition(":")
    run = getattr(loaded, function, None)
    if not callable(run):
        has = ", ".join(n for n, value in vars(loaded).items() if inspect.isfunction(value) and not n.startswith("_"))
        raise UsageError(f"--op {path}: {name} has no function {function}; it has {has or 'none'}")
    maker, reference = getattr(loaded, "make_inputs", None), getattr(loaded, "reference", None)
    if not callable(maker):
        raise UsageError(
            f"--op {path}: {name} has no make_inputs. Define make_inputs(rows, dtype, seed) there: it returns the tuple of the op's arguments"
        )
    batched = getattr(loaded, "BATCHED", (0,))
    if not isinstance(batched, tuple | list) or not batched or not all(type(n) is int and n >= 0 for n in batched):
        raise UsageError(f"--op {path}: BATCHED must be a tuple of places of arguments, like (0, 2); it is {batched!r}")
    source = Path(getattr(loaded, "__file__", None) or "")
    digest = content_hash(source.read_bytes()) if source.is_file() else ""
    return UserOp(path, run, maker, tuple(batched), reference if callable(reference) else None, digest)


def begins(function: object) -> SourceLine | None:
    """Where a function's source begins, its decorators included; None: it has none that can be read."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None or not Path(code.co_filename).is_file():
        return None
    from detcheck.records import SourceLine

    return SourceLine(from_root(code.co_filename), code.co_firstlineno)


def module(path: str) -> ModuleType:
    """The module of package.module:name, imported; the current directory comes first. Raises UsageError."""
    check_path(path)
    name = path.partition(":")[0]
    try:
        with importable(), contextlib.redirect_stdout(sys.stderr):  # stdout is the report's
            importlib.invalidate_caches()  # it may be younger than this process
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # it is foreign and may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"--op {path}: there is no module {error.name}, neither in {Path.cwd()} nor among what is installed"
            ) from None
        raise UsageError(
            f"--op {path}: importing {name} raised {words(error)}. Make it import by itself first"
        ) from error


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """The current directory is where modules are looked for first; outside, as it was."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def words(error: BaseException) -> str:
    """An error of somebody else's in one line."""
    try:
        said = str(error).encode("utf-8", "backslashreplace").decode()  # a file's name may hold what no text does
    except Exception:  # noqa: BLE001  the boundary: not even its text need be one
        said = ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
