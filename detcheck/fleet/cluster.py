"""Ray: who is there, and one task for each worker, of which only so many are in flight at once.

A task is never tried a second time: a worker that is lost is missing, and a second answer would hide it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from detcheck.errors import FailedError, UsageError
from detcheck.fleet import worker
from detcheck.fleet.members import Came, FleetMember
from detcheck.fleet.options import Per
from detcheck.fleet.places import Devices, WorkerPlace, beginning, shared_at, shared_out
from detcheck.harness.user_op import words
from detcheck.spec import Spec

AT_ONCE = 512  # tasks in flight: what the driver holds of Ray's is bounded by it, and no cluster waits for it long
TICK_S = 1.0
CONNECT_S = 10.0
RAY_S = 30.0
# Of a cluster that is started for a run: nothing is sent home, and workers are no less urgent than the run would be by itself.
LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
NOT_THERE = "detcheck fleet needs Ray for its workers: pip install 'detcheck[fleet]'. Replicas by --base-url need none"


@dataclass
class Flight:
    """A task that is on its way."""

    member: FleetMember
    place: WorkerPlace
    parts: Sequence[Any]
    """references to the three parts of its answer"""
    until: float


@dataclass
class Cluster:
    """A cluster that this process is connected to."""

    places: tuple[WorkerPlace, ...]
    left_out: tuple[str, ...] = ()
    """nodes that are not asked, each with the reason"""
    flights: dict[Any, Flight] = field(default_factory=dict)

    def answers(self, members: Sequence[FleetMember], spec: Spec, limit_s: float, folder: str) -> Iterator[Came]:
        """Asks each member, and gives what comes as it comes. `spec`: what a worker is asked; `folder`: where it works, if it is there."""
        import ray

        crowded = Counter(place.node for place in shared_at(members, self.places))
        once = {n: ray.remote(max_retries=0, num_returns=3, max_calls=n)(worker.answer) for n in (0, 1)}
        queues, flat = shared_out(members, self.places), stored(spec)
        devices = Devices(members, self.places)
        idle, landed = deque(beginning(queues)), 0
        try:
            while landed < len(members):
                while idle and len(self.flights) < AT_ONCE:
                    place = idle.popleft()
                    parts = submit(once[crowded[place.node] > 1], place).remote(spec.probe, flat, folder)
                    self.flights[parts[0]] = Flight(queues[place].popleft(), place, parts, time.monotonic() + limit_s)
                for flight, came in (*self._landed(), *self._late(limit_s)):
                    landed += 1
                    came = devices.seen(flight.place, came)
                    if queues[flight.place]:
                        idle.append(flight.place)
                    yield came
        finally:
            for head in self.flights:
                end(head)
            self.flights.clear()

    def _landed(self) -> Iterator[tuple[Flight, Came]]:
        import ray

        if ray.wait(list(self.flights), num_returns=1, timeout=TICK_S)[0]:
            for head in ray.wait(list(self.flights), num_returns=len(self.flights), timeout=0)[0]:
                flight = self.flights.pop(head)
                yield flight, came(flight)

    def _late(self, limit_s: float) -> Iterator[tuple[Flight, Came]]:
        """All have the same limit, so that the first that began are the first that are late."""
        for head, flight in list(self.flights.items()):
            if flight.until > time.monotonic():
                return
            del self.flights[head]
            end(head)
            why = f"it gave no answer within {limit_s:g} s (--worker-timeout), so it may never have found a free place, or it took too long"
            yield flight, Came(replace(flight.member, missing=why))


def submit(task: Any, place: WorkerPlace) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(place.node, soft=False)
    return task.options(num_cpus=place.cpus, num_gpus=place.gpus, scheduling_strategy=there)


def end(task: Any) -> None:
    """Its process too, whatever it does."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.cancel(task, force=True)


def came(flight: Flight) -> Came:
    """What a task that ended gave; where it died, why."""
    import ray

    head, table, outcomes = flight.parts
    try:
        said = ray.get(head)
    except Exception as error:  # noqa: BLE001  whatever a worker dies of, it is missing
        return Came(replace(flight.member, missing=why_lost(error)))
    return arrived(flight.member, said, partial(fetched, table), partial(fetched, outcomes))


def arrived(member: FleetMember, head: Mapping[str, Any], table: Any, outcomes: Any) -> Came:
    """A member with the head of its answer."""
    if "missing" in head:
        return Came(replace(member, missing=head["missing"]))
    member = replace(
        member, table=head["table"], environment=head["environment_digest"], verdict=head["verdict"],
        note=head["note"], seconds=head["seconds"], gpu=head.get("gpu", ""), warnings=tuple(head.get("warnings", ())),
    )  # fmt: skip
    return Came(member, head["environment"], table, outcomes)


def fetched(part: Any) -> Any:
    """Raises UsageError where it is lost, with the node that had it."""
    import ray

    try:
        return ray.get(part)
    except Exception as error:
        raise FailedError(f"what it observed is lost: {why_lost(error)}") from error


def why_lost(error: BaseException) -> str:
    """In a line. Of an exception in the worker, that one."""
    inside = getattr(error, "cause", None)
    return words(inside if isinstance(inside, Exception) else error)[: worker.MOST_WORDS]


def stored(spec: Spec) -> dict[str, object]:
    """The spec in plain values, which another version of detcheck can read too."""
    return {name: str(v) if isinstance(v, str) else v for name, v in spec.flat().items()}


@contextlib.contextmanager
def connected(address: str | None, per: Per, gpus: bool) -> Iterator[Cluster]:
    """Inside, this process is connected; a cluster that was started for it is ended afterwards. A connection that was there is kept.

    `gpus`: whether workers may have any. Raises UsageError where Ray is not installed, the address is none, or nobody there can be asked.
    """
    try:
        import ray
    except ImportError:
        raise UsageError(NOT_THERE) from None
    loud = logging.getLogger("detcheck").isEnabledFor(logging.INFO)
    ours = not ray.is_initialized()
    if ours:
        if address:
            reach(address)
        how = {"log_to_driver": loud, "logging_level": logging.INFO if loud else logging.CRITICAL}
        how |= {"address": address} if address else {"address": "local", "include_dashboard": False}
        for name, value in LOCAL.items():
            os.environ.setdefault(name, value)
        try:
            ray.init(**how)
        except Exception as error:
            if address:
                raise UsageError(f"--address {address}: {words(error)}. Is a Ray cluster running there?") from error
            raise UsageError(
                f"Ray could not be started on this machine: {words(error)}. Try again when it is less busy, or start a cluster (ray start --head) "
                "and give --address auto"
            ) from error
    try:
        yield look(ray.nodes(), per, gpus)
    finally:
        if ours:
            session = session_folder() if not address and not loud else None
            ray.shutdown()
            if session:
                shutil.rmtree(session, ignore_errors=True)
            worker.sweep()


def session_folder() -> str | None:
    """Where the cluster that was started here keeps its logs, of which Ray removes nothing."""
    import ray

    node = getattr(ray._private.worker, "_global_node", None)
    return node.get_session_dir_path() if node else None


def reach(address: str) -> None:
    """Whether somebody listens there: Ray itself tries for minutes. Raises UsageError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UsageError(f"--address {address}: give auto, or HOST:PORT of the cluster's head, like 10.0.0.1:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S):
            pass
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--address {address}: nobody answers there ({error}). Is a Ray cluster running?") from None
    if not address.startswith("ray://") and not answers_as_ray(address):
        raise UsageError(
            f"--address {address}: something answers there, but it is no Ray cluster, or one of another version, or it is too busy to answer "
            f"within {RAY_S:g} s. Give the port of the cluster's head, which is 6379 unless it was given another"
        )


def answers_as_ray(address: str) -> bool:
    """Asked in a process of its own, which can be ended: Ray's client waits where nobody says a word, and hears no signal."""
    ask = [sys.executable, "-c", "import sys, ray; ray._raylet.GcsClient(address=sys.argv[1])", address]
    try:
        return not subprocess.run(
            ask, timeout=RAY_S, stdin=subprocess.DEVNULL, capture_output=True, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return False


def look(nodes: Sequence[Mapping[str, Any]], per: Per, gpus: bool) -> Cluster:
    """Where workers can be put. Raises UsageError where nowhere."""
    alive = sorted((n for n in nodes if n["Alive"]), key=lambda n: (n["NodeManagerHostname"], n["NodeID"]))
    hosts = Counter(n["NodeManagerHostname"] for n in alive)
    have = [int(n["Resources"].get("GPU", 0)) if gpus else 0 for n in alive]
    by_gpu = per == Per.DEVICE and any(have)
    places, left_out = [], []
    for node, count in zip(alive, have, strict=True):
        host, cpus = node["NodeManagerHostname"], node["Resources"].get("CPU", 0)
        name = f"node {host}" if hosts[host] == 1 else f"node {host}/{node['NodeID'][:8]}"
        if by_gpu and not count:
            left_out.append(f"{name} has no GPU")
        elif not count and cpus < 1:
            left_out.append(f"{name} offers no processor")
        else:
            at_once = 1 if by_gpu else count or int(cpus)
            for number in range(count if by_gpu else 1):
                places.append(
                    WorkerPlace(node["NodeID"], name, number, 0.0 if count else 1.0, min(1.0, count), at_once)
                )
    if not places:
        raise UsageError(f"nobody in this cluster can be asked: {'; '.join(left_out) or 'it has no node'}")
    return Cluster(tuple(places), tuple(left_out))
