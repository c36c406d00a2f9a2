"""What a command says on stderr beside its progress: errors alone with --quiet, each step that it takes with --verbose.

Modules log what they read, opened and judged at INFO to a logger below `detcheck`; what may matter to whoever reads the result is no log line
but a warning of the run, which every report shows.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator

from detcheck.text import visible


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
