"""The CPU kernels, compiled at first use by the system's compiler for the machine at hand, and called through ctypes.

Plain C++ without torch's headers: a source takes seconds, once, and is then found in the user's cache under a name made of
everything that can change the code: sources, compiler, flags, processor. Where there is no usable compiler the ops fall back
to `_fallback`; which of the two runs is decided once a process and recorded.
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
from collections.abc import Callable
from pathlib import Path

from detcheck.bits import content_hash
from detcheck.files import cache_folder

SOURCES = Path(__file__).parent
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
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


@functools.cache
def available() -> bool:
    """Whether the kernels can be compiled here. Decided once, so that a process never mixes them with the fallback."""
    return not trouble()


@functools.cache
def trouble() -> str:
    """Why the kernels cannot be compiled here; "" if they can."""
    if compiler() is None:
        return f"no C++ compiler ({os.environ.get('CXX') or ', '.join(COMPILERS)}) on the PATH"
    try:
        library("matmul")
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"{compiler()[1]} does not compile them: {said.strip().splitlines()[0] if said.strip() else type(error).__name__}"
    return ""


def description() -> str:
    """Which kernels run on the CPU, for the record."""
    return f"native, {compiler()[1]}" if available() else f"torch, tiles of fixed size ({trouble()})"


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """The compiled `_cpu_<name>.cpp`. Raises OSError or SubprocessError where it cannot be made."""
    path, version = compiler()
    headers = [header.read_bytes() for header in sorted(SOURCES.glob("_cpu*.h"))]
    source = SOURCES / f"_cpu_{name}.cpp"
    parts = [source.read_bytes(), *headers, version.encode(), " ".join(FLAGS).encode(), machine().encode()]
    file = f"{name}-{content_hash(*parts)[:16]}.so"
    with contextlib.suppress(OSError):  # a cache that cannot be written is done without
        folder = cache_folder() / "kernels"
        if not (folder / file).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            compile_to(folder / file, path, source)
        return ctypes.CDLL(str(folder / file))
    with tempfile.TemporaryDirectory(prefix="detcheck-") as folder:  # a loaded library outlives its file
        compile_to(Path(folder) / file, path, source)
        return ctypes.CDLL(str(Path(folder) / file))


def compile_to(target: Path, path: str, source: Path) -> None:
    """Compiles beside the target and moves it there, so that two processes at once do no harm."""
    handle, beside = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        subprocess.run(
            [path, *FLAGS, "-o", beside, source], check=True, capture_output=True, text=True, timeout=SECONDS
        )
        os.replace(beside, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)


def machine() -> str:
    """What `-march=native` looks at: a cache may be shared by unlike machines."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        lines = {line.split(":")[0].strip(): line for line in file}
        return platform.machine() + lines.get("model name", "") + lines.get("flags", "") + lines.get("Features", "")
    return platform.machine() + platform.processor()


@functools.cache
def function(name: str, arguments: str, source: str = "") -> Callable[..., None]:
    """`detcheck_<name>` of `_cpu_<source or name>.cpp`. `arguments`: a letter each: p for a pointer, i for int64, d for float64."""
    found = getattr(library(source or name), f"detcheck_{name}")
    found.argtypes = [{"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double}[letter] for letter in arguments]
    found.restype = None
    return found
