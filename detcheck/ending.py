"""The end of the process, without taking its modules to pieces.

With torch and transformers that takes more than a second, when everything is said already. And a library that crashes while it is
unloaded would put its signal in the place of the exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
import threading
import traceback

# Modules in which this program begins, by its script or by `python -m`.
BEGINS = {"__main__", "detcheck.__main__", "runpy"}


def leave(code: object) -> None:
    """Ends the process with this code, once threads have ended, what was registered for the end has run, and everything is written.

    What goes wrong in these is printed and changes no code, as when Python ends. Returns where somebody waits for us (a profiler, a
    debugger), or where this is no code that a process can end with: then Python ends as ever.
    """
    if not isinstance(code, int | None) or not 0 <= (code or 0) < 256 or is_watched():
        return
    for step in (threading._shutdown, atexit._run_exitfuncs, write_out):  # type: ignore[attr-defined]
        try:
            step()
        except BaseException:  # noqa: BLE001  Ctrl-C while it waits, too: the verdict is out
            with contextlib.suppress(Exception):
                traceback.print_exc()
    os._exit(code or 0)


def is_watched() -> bool:
    """Whether whoever began this program goes on after it, or looks at it."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__") in BEGINS:
        frame = frame.f_back
    tools = sys.monitoring if sys.version_info >= (3, 12) else None
    monitored = tools and any(tools.get_tool(number) for number in range(6))
    asked = sys.gettrace() or sys.getprofile() or sys.flags.inspect or monitored
    return bool(asked) or frame.f_globals.get("__name__") not in BEGINS


def write_out() -> None:
    """What is still in a buffer: of Python's files, whoever opened them, and of C's."""
    kinds = io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom
    # By type: there are objects that print a warning when their __class__ is looked at.
    files = [one for one in gc.get_objects() if issubclass(type(one), kinds)]
    for file in sorted(files, key=lambda one: not isinstance(one, io.TextIOWrapper)):  # a text's bytes come after it
        with contextlib.suppress(OSError, ValueError):  # a reader that went away; closed
            file.flush()
    if os.name == "posix" and (ctypes := sys.modules.get("ctypes")):  # who has code in C has imported it: torch, NumPy
        ctypes.CDLL(None).fflush(None)
