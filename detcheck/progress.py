"""Progress on stderr: a bar with rate and time left where somebody watches, a line now and then in a log.

Either says the first divergence of each arm the moment it is found, in a line that stays.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from detcheck import colours
from detcheck.stderr import say
from detcheck.text import visible
from detcheck.verdict import Role

if TYPE_CHECKING:
    from detcheck.watch import OnProgress, Progress, WatchedArm

LOG_EVERY_S = 10.0


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[OnProgress | None]:
    """Gives the callback for `run`, or None when quiet."""
    if quiet:
        yield None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with bar() as callback:
            yield callback
    else:
        yield Log()


class Pace:
    """How fast samples come, and when the last will have: of this process, not of what a resumed run had stored."""

    def __init__(self) -> None:
        self._unit = "samples"
        self._first: int | None = None
        self._start = 0.0
        self.rate = 0.0
        """samples a second; 0.0: none came yet"""
        self._ends: float | None = None

    def see(self, p: Progress) -> None:
        now, self._unit = time.monotonic(), p.unit
        if self._first is None:
            self._first, self._start = p.done, now
        self.rate = (p.done - self._first) / max(now - self._start, 1e-9)
        self._ends = now + (p.total - p.done) / self.rate if self.rate else None

    @property
    def left_s(self) -> float | None:
        """Seconds; it goes on counting down between two samples. None: not known yet."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    def __str__(self) -> str:
        """Of few samples their seconds are said: "0.02 samples/s" is no figure to read."""
        if not self.rate:
            return ""
        return f"{1 / self.rate:.1f} s/{self._unit[:-1]}" if self.rate < 0.5 else f"{self.rate:.1f} {self._unit}/s"


def clock(seconds: float | None) -> str:
    """ "1:05", "2:03:04"; "-:--" where it is not known."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def where(p: Progress) -> str:
    """What runs now: the op, where there are several, the kernels, the condition and how much of it is done."""
    if not p.doing:
        return "judging"
    if p.arm is None:
        return visible(p.doing)
    done, total = p.of_condition
    return f"{'' if not p.subject else visible(p.subject) + ' '}{p.arm}, {visible(p.doing)} {done}/{total}"


@contextlib.contextmanager
def bar() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column
    from rich.text import Text

    pace = Pace()

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{clock(pace.left_s)} left" if pace.rate else "", no_wrap=True)

    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False, table_column=Column(no_wrap=True)),
        Left(),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    console = Console(stderr=True, color_system="auto" if colours.wanted(sys.stderr) else None)
    with Bar(*columns, console=console, transient=True, expand=True) as progress:
        task = progress.add_task("loading the model", total=None, pace="")

        def callback(p: Progress) -> None:
            pace.see(p)
            for one in p.found:
                style = "bold red" if one.arm.role is Role.GATES else "yellow"
                lines = Text(one.sentence, style).wrap(progress.console, progress.console.width - 2)
                progress.console.print(Text("\n  ", style).join(lines))  # no word of a model's begins a line
            progress.update(task, total=p.total, completed=p.done, description=where(p), pace=str(pace))

        yield callback


class Log:
    """A line at most every LOG_EVERY_S seconds, and one where other kernels begin."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._pace = Pace()
        self._begun: set[WatchedArm] = set()

    def __call__(self, p: Progress) -> None:
        self._pace.see(p)
        for one in p.found:
            say(one.sentence)
        if p.arm and p.arm not in self._begun:  # of several ops, arms take turns
            done, total = p.of_arm
            if total < p.total:
                say(f"{p.arm}: {total} samples" + (f", {done} of them stored before" if done else ""))
            self._begun.add(p.arm)
        if time.monotonic() - self._last < LOG_EVERY_S:
            return
        self._last = time.monotonic()
        left = f", about {clock(self._pace.left_s)} left" if p.done < p.total else ""
        pace = f", {self._pace}{left}" if self._pace.rate else ""
        say(f"{p.done}/{p.total} {p.unit}{pace} ({where(p)})")
