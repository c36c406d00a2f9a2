"""Where workers are put, who is asked at which place, and which GPU each was given."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from detcheck.fleet.members import Came, FleetMember


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker is put: a GPU, or a node."""

    node: str
    """Ray's id of it"""
    name: str
    """the node's, for people"""
    number: int
    """which GPU of the node, from 0; of a node that is asked as a whole 0"""
    cpus: float
    """that a worker claims"""
    gpus: float
    at_once: int
    """workers that fit there"""


class Devices:
    """Which GPUs of a node were asked. Ray gives a worker any that is free, so that one may be asked twice and its neighbour never."""

    def __init__(self, members: Sequence[FleetMember], places: Sequence[WorkerPlace]) -> None:
        asked, there = Counter(p.node for p in shared_at(members, places)), Counter(p.node for p in places)
        self._again = {node: max(0, asked[node] - there[node]) for node in there}
        """node -> how many of its members may have a GPU that another had"""
        self._alone = {node for node in there if there[node] < 2}
        self._had: dict[str, set[str]] = {node: set() for node in there}

    def seen(self, place: WorkerPlace, came: Came) -> Came:
        """What came; missing where its GPU is one that was asked already, in the place of another."""
        member, node = came.member, place.node
        if member.missing or node in self._alone or not place.gpus:
            return came
        if not member.gpu:
            return Came(FleetMember(member.number, member.name, missing="which GPU it had is not known"))
        which = member.gpu.rpartition(", GPU-")[2]  # the UUID, where it is known
        if which in self._had[node]:
            if not self._again[node]:
                why = f"it was given {member.gpu}, which was asked already, so another was never asked"
                return Came(FleetMember(member.number, member.name, missing=why))
            self._again[node] -= 1
        self._had[node].add(which)
        return came


def shared_at(members: Sequence[FleetMember], places: Sequence[WorkerPlace]) -> list[WorkerPlace]:
    """Where each is asked."""
    return [places[n % len(places)] for n in range(len(members))]


def shared_out(members: Sequence[FleetMember], places: Sequence[WorkerPlace]) -> dict[WorkerPlace, deque[FleetMember]]:
    """Who is asked at each place, one after the other."""
    queues: dict[WorkerPlace, deque[FleetMember]] = {place: deque() for place in places[: len(members)]}
    for member, place in zip(members, shared_at(members, places), strict=True):
        queues[place].append(member)
    return queues


def beginning(queues: Mapping[WorkerPlace, Sequence[FleetMember]]) -> Iterator[WorkerPlace]:
    """The places as often as workers begin there at once; each has its first before one has its second."""
    for n in range(max(place.at_once for place in queues)):
        yield from (place for place, waiting in queues.items() if n < min(place.at_once, len(waiting)))


def named(places: Sequence[WorkerPlace], workers: int | None) -> list[FleetMember]:
    """The members that are put there, spread evenly."""
    return [
        FleetMember(n + 1, f"worker {n + 1} on {places[n % len(places)].name}") for n in range(workers or len(places))
    ]
