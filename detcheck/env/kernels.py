"""Which of our kernels can run here: the native ones of each instruction set, those of torch alone, Triton's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from types import ModuleType

from detcheck.env.usable import Usable
from detcheck.environment import version
from detcheck.errors import UsageError
from detcheck.kernels._cpu import build
from detcheck.records import Problem

INSTALL = "Install one, like apt-get install g++ or dnf install gcc-c++, or name yours: CXX=/path/to/compiler"


def look(torch: ModuleType | None) -> tuple[list[Usable], list[Problem]]:
    """Compiles the kernels for this processor, where that has not been done: about a second, once."""
    try:
        level, why = build.chosen()
        refused = []
    except UsageError as error:
        level, why = None, str(error)
        refused = [
            Problem(f"{build.VARIABLE} is not in effect", str(error), f"Unset {build.VARIABLE}, or use one of those")
        ]
    parts = [native(one, level, why) for one in build.levels()]
    parts += [in_torch(torch, level), in_triton(torch)]
    return parts, [*refused, *([] if level or refused else [without(why)])]


def compiler() -> tuple[str, str] | None:
    """(path, version)"""
    try:
        return build.compiler()
    except (OSError, subprocess.SubprocessError):
        return None


def native(one: build.Level, taken: build.Level | None, why: str) -> Usable:
    name = f"native {one.name}"
    lacks = sorted(one.needs - build.processor_flags())
    if one == taken:
        return Usable("kernels", name, True, f"taken for this processor{f' ({why})' if why else ''}")
    if lacks:
        return Usable("kernels", name, False, f"the processor has not {' '.join(lacks)}")
    if taken is None:
        return Usable("kernels", name, False, why, INSTALL if compiler() is None else "")
    if [level.name for level in build.levels()].index(one.name) < [level.name for level in build.levels()].index(
        taken.name
    ):
        return Usable("kernels", name, True, f"not taken: {taken.name} has more; {build.VARIABLE}={one.name} takes it")
    return Usable(
        "kernels", name, False, why or f"{build.VARIABLE}={os.environ.get(build.VARIABLE, '')} takes {taken.name}"
    )


def in_torch(torch: ModuleType | None, taken: build.Level | None) -> Usable:
    if torch is None:
        return Usable("kernels", "pure torch", False, "without torch", "pip install torch")
    return Usable(
        "kernels",
        "pure torch",
        True,
        f"not taken: native {taken.name} is faster" if taken else "taken: the native ones cannot run",
    )


def in_triton(torch: ModuleType | None) -> Usable:
    if importlib.util.find_spec("triton") is None:
        return Usable(
            "kernels",
            "triton",
            False,
            "Triton is not installed",
            "pip install triton (Linux); on a GPU it comes with torch",
        )
    said = f"Triton {version('triton') or ''}".strip()
    if os.environ.get("TRITON_INTERPRET") == "1":
        return Usable("kernels", "triton", False, f"{said}, interpreted: TRITON_INTERPRET=1", "Unset TRITON_INTERPRET")
    if torch is None or not torch.cuda.is_available():
        return Usable(
            "kernels", "triton", False, f"{said}, compiled alone: certify reads them, and no GPU runs them here"
        )
    major, minor = torch.cuda.get_device_capability()
    return Usable("kernels", "triton", True, f"{said}, on {torch.cuda.get_device_name()} ({major}.{minor})")


def without(why: str) -> Problem:
    what = "our kernels fall back to torch, which is slower for small batches (docs/kernels.md)"
    remedy = INSTALL if compiler() is None else "Use a newer compiler, named with CXX=/path/to/compiler"
    return Problem(what, why, remedy)
