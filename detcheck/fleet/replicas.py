"""Servers as members, each by its URL: asked from here, several at once, and without Ray."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from detcheck.errors import DetcheckError
from detcheck.fleet import worker
from detcheck.fleet.cluster import arrived, why_lost
from detcheck.fleet.members import Came, FleetMember
from detcheck.fleet.options import replicas
from detcheck.spec import Spec
from detcheck.watch import Progress

AT_ONCE = 16  # servers that are asked at once: each is asked by one thread, which waits most of the time


def named(spec: Spec) -> list[FleetMember]:
    return [FleetMember(n, f"replica {n} at {url}") for n, url in enumerate(replicas(spec), 1)]


def answers(members: Sequence[FleetMember], spec: Spec) -> Iterator[Came]:
    """What each says, as it comes. `spec`: of the probe, with all of the URLs. Ended early, it ends what is still being asked."""
    came: queue.Queue[Came] = queue.Queue()
    stop = threading.Event()

    def heard(_: Progress) -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    def ask(member: FleetMember, url: str) -> None:
        one = replace(spec, options=replace(spec.options, base_url=(url,)))
        try:
            head, table, outcomes = worker.asked(one, heard)
            came.put(arrived(member, head, lambda: table, lambda: outcomes))
        except DetcheckError as error:
            came.put(Came(replace(member, missing=str(error)[: worker.MOST_WORDS])))
        except BaseException as error:  # noqa: BLE001  whatever it dies of, it is missing
            came.put(Came(replace(member, missing=why_lost(error))))

    waiting: queue.SimpleQueue[tuple[FleetMember, str]] = queue.SimpleQueue()
    for one in zip(members, replicas(spec), strict=True):
        waiting.put(one)

    def work() -> None:
        while not stop.is_set():
            try:
                ask(*waiting.get_nowait())
            except queue.Empty:
                return

    try:
        for _ in range(
            min(AT_ONCE, len(members))
        ):  # nobody waits for one whose server hangs: they end with the process
            threading.Thread(target=work, name="detcheck-replica", daemon=True).start()
        for _ in members:
            yield came.get()
    finally:
        stop.set()
