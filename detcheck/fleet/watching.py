"""A fleet while it goes on: what is kept of each answer, and what is said of it at once.

Memory holds the first table and the digests of the others, so that it grows with what is distinct; a member is a line, and the names of digests
that it shares with others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from detcheck.errors import DetcheckError
from detcheck.fleet.folder import FleetFolder
from detcheck.fleet.groups import Standing, signature, stands, where
from detcheck.fleet.members import Came, FleetMember
from detcheck.hashes import json_hash
from detcheck.parting import WatchedArm
from detcheck.records import Outcome
from detcheck.storage.baselines import Baseline, Known
from detcheck.text import visible
from detcheck.verdict import Role
from detcheck.watch import Progress

MOST_FETCHED = 4  # members whose outcomes are brought here: the first one, and the first that differ


@dataclass(frozen=True)
class MemberParting:
    """The first member that differs, as progress says it."""

    arm: WatchedArm
    sentence: str


class Watch:
    """Takes answers, one after the other."""

    def __init__(self, made: FleetFolder, asked: int) -> None:
        self._made, self._asked = made, asked
        self._first: tuple[FleetMember, Baseline] | None = None
        self._payloads: dict[str, Outcome] = {}  # of the first
        self._fetched = 0
        self._distinct: set[str] = set()
        self.members: list[FleetMember] = []
        self.differ = False

    def progress(self, found: tuple[MemberParting, ...] = ()) -> Progress:
        missing = sum(bool(m.missing) for m in self.members)
        said = f"{len(self._distinct)} distinct" + (f", {missing} missing" if missing else "")
        return Progress(len(self.members), self._asked, said, found=found, unit="members")

    def take(self, came: Came) -> Progress:
        """Raises OSError where it cannot be stored."""
        member, table, found = came.member, None, ()
        if member.table and member.table not in self._made.known:
            try:
                table = came.table()
            except DetcheckError as error:  # what it differs in is lost, and with it the proof that it does
                member = replace(member, table="", missing=str(error))
        member = shared(member)
        self._made.add(replace(came, member=member), table)
        self.members.append(member)
        if table is not None:
            found = self._new(member, came, self._made.table(member.table))
        return self.progress(found)

    def _new(self, member: FleetMember, came: Came, table: Baseline | None) -> tuple[MemberParting, ...]:
        """A table that was not there before."""
        if table is None:
            return ()
        self._distinct.add(json_hash(sorted(signature(known) for known in table.cases)))
        if self._first is None:
            self._first = member, table
            self._payloads = {o.id: o for o in self._brought(came)}
            return ()
        differing = [pair for pair in together(self._first[1], table) if differs(*pair)]
        if not differing:
            return ()
        theirs = {o.id: o for o in self._brought(came)}
        self._keep(differing, theirs)
        if self.differ:
            return ()
        self.differ = True
        first, other = differing[0]
        place = where(first, other, self._payloads | theirs)
        said = f"first divergence: {visible(member.name)} against {visible(self._first[0].name)}: {visible(other.case.subject)}, {place}"
        return (MemberParting(WatchedArm(other.case.kernels, Role.GATES), said),)

    def _brought(self, came: Came) -> tuple[Outcome, ...]:
        """() where enough were, or they are lost: it is then known from the table alone where they part."""
        if self._fetched >= MOST_FETCHED:
            return ()
        self._fetched += 1
        try:
            return came.outcomes()
        except DetcheckError:
            return ()

    def _keep(self, differing: list[tuple[Known, Known]], theirs: dict[str, Outcome]) -> None:
        """Stores those outcomes that only one side has."""
        for first, other in differing:
            for name in {*first.outcomes} ^ {*other.outcomes}:
                if found := theirs.get(name) or self._payloads.get(name):
                    self._made.run.append((), (found,))


def together(first: Baseline, other: Baseline) -> list[tuple[Known, Known]]:
    there = {known.case: known for known in first.cases}
    return [(there[known.case], known) for known in other.cases if known.case in there]


def differs(first: Known, other: Known) -> bool:
    return signature(first) != signature(other) and stands(first, other)[0] is Standing.DIFFERS


def shared(member: FleetMember) -> FleetMember:
    """The same, with one copy of each text that many have."""
    names = ("table", "environment", "verdict", "note", "missing", "gpu")
    warnings = tuple(map(sys.intern, member.warnings))
    return replace(member, warnings=warnings, **{name: sys.intern(getattr(member, name)) for name in names})
