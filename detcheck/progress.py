"""Progress on stderr: a bar with rate and ETA where somebody watches, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detcheck.watch import OnProgress, Progress

LOG_EVERY_S = 10.0


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[OnProgress | None]:
    """Gives the callback for `run`, or None when quiet."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with bar() as callback:
            yield callback
    else:
        yield Log()


@contextlib.contextmanager
def bar() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading the model", total=None, rate="")
        start = time.monotonic()
        first: list[int] = []

        def callback(p: Progress) -> None:
            first[:] = first or [p.done]
            rate = (p.done - first[0]) / max(time.monotonic() - start, 1e-9)
            progress.update(task, total=p.total, completed=p.done, description=p.doing, rate=f"{rate:.1f} samples/s")

        yield callback


class Log:
    """A line at most every LOG_EVERY_S seconds."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, p: Progress) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._start = p.done, now
        if now - self._last < LOG_EVERY_S:
            return
        self._last = now
        rate = (p.done - self._first) / max(now - self._start, 1e-9)
        eta = f", about {(p.total - p.done) / rate:.0f} s left" if rate else ""
        print(
            f"detcheck: {p.done}/{p.total} samples, {rate:.1f} samples/s{eta} ({p.doing})", file=sys.stderr, flush=True
        )
