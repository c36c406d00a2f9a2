"""The CPU kernels, compiled at first use by the system's compiler for the machine at hand, and called through ctypes.

Plain C++ without torch's headers: a source takes seconds, once, and is then found in the user's cache under a name made of
everything that can change the code: sources, compiler, flags, processor. Which instruction set is used is chosen by what the
processor has, see `levels`, or by the variable DETCHECK_CPU. Where there is no usable compiler the ops fall back to `fallback`.
All that is decided once a process and recorded.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detcheck.errors import UsageError
from detcheck.files import cache_folder
from detcheck.hashes import content_hash

SOURCES = Path(__file__).parent
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
VARIABLE = "DETCHECK_CPU"
PAIRS, TILES = "pairs", "tiles"  # the orders of bfloat16 products: micro.h's, and tiles.h's
SECONDS = 120.0  # after which a compiler is given up


@functools.cache
def compiler() -> tuple[str, str] | None:
    """(path, first line of its version) of the compiler that will be used; None: there is none. CXX names another."""
    asked = os.environ.get("CXX")
    for name in [asked] if asked else COMPILERS:
        if path := shutil.which(name):
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=SECONDS).stdout
            return path, said.splitlines()[0] if said else name
    return None


@dataclass(frozen=True)
class Level:
    """An instruction set that the kernels can be compiled for."""

    name: str
    flags: tuple[str, ...]
    needs: frozenset[str]
    """of the processor, in /proc/cpuinfo's words"""
    order: str = PAIRS
    """of bfloat16 products. Everything else has the same bits at every level"""


def levels() -> list[Level]:
    """What kernels for this kind of processor can be compiled for, the plainest first."""
    if platform.machine() not in ("x86_64", "AMD64") or not processor_flags():
        return [Level("native", ("-march=native",), frozenset())]
    made = []
    for name, flags, needs, order in (
        ("avx2", "-mavx2 -mfma -mf16c -mtune=native", "avx2 fma f16c", PAIRS),
        ("avx512", "-mavx512f -mavx512bw -mavx512dq -mavx512vl", "avx512f avx512bw avx512dq avx512vl", PAIRS),
        ("avx512_bf16", "-mavx512bf16", "avx512_bf16", PAIRS),
        ("amx", "-mamx-tile -mamx-bf16 -DDETCHECK_TILES", "amx_tile amx_bf16", TILES),
    ):
        below = made[-1] if made else Level("", (), frozenset())
        made.append(Level(name, (*below.flags, *flags.split()), below.needs | {*needs.split()}, order))
    return made


@functools.cache
def processor_flags() -> frozenset[str]:
    """In /proc/cpuinfo's words; empty where there is no such file."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


@functools.cache
def chosen() -> tuple[Level | None, str]:
    """The highest level that the processor has, the compiler knows and the system allows; and why it is no higher one.

    Raises UsageError where DETCHECK_CPU names none that there is.
    """
    asked = os.environ.get(VARIABLE)
    if compiler() is None and not asked:
        return None, f"no C++ compiler ({os.environ.get('CXX') or ', '.join(COMPILERS)}) on the PATH"
    known = levels()
    here = [level for level in known if level.needs <= processor_flags()]
    if asked:
        here = [level for level in here if level.name == asked]
        if not here or compiler() is None:
            raise UsageError(f"{VARIABLE}={asked}: {usable(known)}")
    why = "" if here else f"the processor has not {' '.join(sorted(known[0].needs - processor_flags()))}"
    for level in reversed(here):
        try:
            check = load("matmul", level).detcheck_as_expected
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            said = said.strip().splitlines()[0] if said.strip() else type(error).__name__
            why = f"{compiler()[1]} does not compile them: {said}"
            continue
        check.restype = ctypes.c_int64
        if check():
            return level, why
        why = f"its {level.name} adds in another order than expected, or the system does not allow it"
    if asked:
        raise UsageError(f"{VARIABLE}={asked}: {why}")
    return None, why


def usable(known: Sequence[Level]) -> str:
    names = ", ".join(level.name for level in known if level.needs <= processor_flags())
    return f"the kernels can be compiled for {names} here" if names else "the kernels can be compiled for nothing here"


def available() -> bool:
    """Whether the kernels can be compiled here. Decided once, so that a process never mixes them with the fallback."""
    return chosen()[0] is not None


def order() -> str:
    """Of bfloat16 products: `pairs` or `tiles`, or "" in the fallback."""
    level = chosen()[0]
    return level.order if level else ""


def description() -> str:
    """Which kernels run on the CPU, for the record."""
    level, why = chosen()
    if level is None:
        return f"torch, tiles of fixed size ({why})"
    return f"native {level.name}, bfloat16 in {level.order}, {compiler()[1]}{f' ({why})' if why else ''}"


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """The compiled `<name>.cpp` of the chosen level."""
    return load(name, chosen()[0])


@functools.cache
def load(name: str, level: Level) -> ctypes.CDLL:
    """The compiled `<name>.cpp` of that level. Raises OSError or SubprocessError where it cannot be made."""
    path, version = compiler()
    flags = (*FLAGS, *level.flags)
    headers = [header.read_bytes() for header in sorted(SOURCES.glob("*.h"))]
    source = SOURCES / f"{name}.cpp"
    parts = [source.read_bytes(), *headers, version.encode(), " ".join(flags).encode(), machine().encode()]
    file = f"{name}-{content_hash(*parts)[:16]}.so"
    with contextlib.suppress(OSError):  # a cache that cannot be written is done without
        folder = cache_folder() / "kernels"
        if not (folder / file).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            compile_to(folder / file, path, flags, source)
        return ctypes.CDLL(str(folder / file))
    with tempfile.TemporaryDirectory(prefix="detcheck-") as folder:  # a loaded library outlives its file
        compile_to(Path(folder) / file, path, flags, source)
        return ctypes.CDLL(str(Path(folder) / file))


def compile_to(target: Path, path: str, flags: Sequence[str], source: Path) -> None:
    """Compiles beside the target and moves it there, so that two processes at once do no harm."""
    handle, beside = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        subprocess.run(
            [path, *flags, "-o", beside, source], check=True, capture_output=True, text=True, timeout=SECONDS
        )
        os.replace(beside, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)


def machine() -> str:
    """What `native` looks at: a cache may be shared by unlike machines."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        lines = {line.split(":")[0].strip(): line for line in file}
        return platform.machine() + lines.get("model name", "") + lines.get("flags", "") + lines.get("Features", "")
    return platform.machine() + platform.processor()


@functools.cache
def function(name: str, arguments: str, source: str = "") -> Callable[..., None]:
    """`detcheck_<name>` of `<source or name>.cpp`. `arguments`: a letter each: p for a pointer, i for int64, d for float64."""
    found = getattr(library(source or name), f"detcheck_{name}")
    found.argtypes = [{"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double}[letter] for letter in arguments]
    found.restype = None
    return found
