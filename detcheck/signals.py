"""Signals that ask a run to end: what was observed is written and judged first."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

ASK_TO_END = (
    "SIGTERM",
    "SIGHUP",
)  # of `kill`, of a container that is stopped, of a CI job that is cancelled; of a terminal that is closed


@contextlib.contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Inside, these signals do what Ctrl-C does. One that the process was started to ignore (nohup) is still ignored."""

    def ask(number: int, frame: FrameType | None) -> None:
        waits = signal.getsignal(signal.SIGINT)
        if isinstance(waits, Waiting):
            waits(number, frame)
        elif callable(waits):
            signal.raise_signal(
                signal.SIGINT
            )  # whoever waits for Ctrl-C just now hears it in their own way, as asyncio does
        else:  # ignored, as in a job that a shell put into the background
            raise KeyboardInterrupt

    before = {}
    try:
        for name in ASK_TO_END:
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, ask)
    except ValueError:  # not in the main thread, which alone may
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Waiting:
    """A handler of SIGINT that remembers what came."""

    def __init__(self) -> None:
        self.came: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came.append(number)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, Ctrl-C waits, and so do the other signals: it comes at the end of the block. Where Ctrl-C is ignored, only the others do."""
    waiting, before = Waiting(), signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, waiting)
    except ValueError:  # not in the main thread, where it does not come
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        asked = [number for number in waiting.came if number != signal.SIGINT]
        if callable(before) and waiting.came:
            before((asked or waiting.came)[0], None)
        elif asked:
            raise KeyboardInterrupt
