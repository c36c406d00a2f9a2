"""What a command says on stderr beside its progress: errors alone with --quiet, each step that it takes with --verbose.

Modules log what they read, opened and judged at INFO to a logger below `detcheck`; what may matter to whoever reads the result is no log line
but a warning of the run, which every report shows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from detcheck.text import visible


def say(text: str) -> None:
    """A line, with what a terminal would obey written out."""
    print(f"detcheck: {visible(text)}", file=unbroken(), flush=True)


def trace() -> None:
    """The traceback of what is being handled, indented: what an exception says may be a model's text, and is no line of ours."""
    lines = traceback.format_exc().rstrip("\n").split("\n")
    print("".join(f"  {visible(line)}\n" for line in lines), end="", file=unbroken(), flush=True)


class Unbroken:
    """A stream that whoever reads it may close: what cannot be written there is dropped, since it is no part of any answer."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._dropped():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._dropped():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropped(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: closed in this process
            lose(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def unbroken() -> Unbroken:
    """stderr as it is now; where it was closed before this process began, Python has none."""
    if isinstance(sys.stderr, Unbroken):
        return sys.stderr
    return Unbroken(sys.stderr or open(os.devnull, "w"))


def lose(stream: TextIO) -> None:
    """What is left in its buffer, and what is written later, goes nowhere: Python would make an exit code of its own of it, 120."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Lines(logging.Handler):
    """A line for each record, with the seconds since the command began, to whatever stderr is then (a progress bar takes its place)."""

    def emit(self, record: logging.LogRecord) -> None:
        print(
            f"detcheck: {record.relativeCreated / 1000:.1f} s  {visible(record.getMessage())}",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def told(quiet: bool, verbose: bool) -> Iterator[None]:
    """Inside, stderr is told as much as these options say; afterwards everything is as before."""
    ours = logging.getLogger("detcheck")
    level, disabled, handler = ours.level, logging.root.manager.disable, Lines()
    with contextlib.ExitStack() as undo:
        if verbose:
            ours.setLevel(logging.INFO)
            ours.addHandler(handler)
            undo.callback(ours.setLevel, level)
            undo.callback(ours.removeHandler, handler)
        if quiet:
            undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            undo.callback(logging.disable, disabled)
        yield
