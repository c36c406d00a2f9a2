"""Servers as members, each by its URL: asked from here, several at once, and without Ray."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
            head, table, outcomes = worker.missing("it was not asked") if stop.is_set() else worker.asked(one, heard)
            came.put(arrived(member, head, lambda: table, lambda: outcomes))
        except DetcheckError as error:
            came.put(Came(replace(member, missing=str(error)[: worker.MOST_WORDS])))
        except Exception as error:  # noqa: BLE001  whatever it dies of, it is missing
            came.put(Came(replace(member, missing=why_lost(error))))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for member, url in zip(members, replicas(spec), strict=True):
                pool.submit(ask, member, url)
            for _ in members:
                yield came.get()
        finally:
            stop.set()
