"""A probe: one question, with its options, how it is observed, judged and described.

Each is a folder in `probes/`, named as its command, whose files have the same names everywhere:

    options.py    `Options`, what the command takes, `EXAMPLES` of it for --help, and `check(spec)`: what can be known before anything is loaded
    session.py    `open_session(spec, planned=None)`: the subject, opened, ready to observe
    facts.py      where an outcome is more than tokens or a row of numbers: what it holds
    judge.py      where samples are not simply compared: `findings(case, steps, tally, outcomes)` of each case, or `whole(...)` of all together
    describe.py   where a finding is more than counts: what reports say of it

The last three are pure: they need no torch, so that a run is judged and shown again on any machine.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from detcheck import lookup
from detcheck.errors import UsageError
from detcheck.options import flag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Set

    from detcheck.blocks import Block
    from detcheck.finding import Finding, Run
    from detcheck.judge.conditions import Judge, WholeJudge
    from detcheck.records import Observation, Outcome, Schedule, Step, Subject
    from detcheck.spec import Spec

    Stored = Callable[[str], tuple[Run, Iterator[Observation], Mapping[str, Outcome]]]


class Session(Protocol):
    """A probe that is open: what it opened, and how to take one step of its schedule. What whoever reads the result has to know of the
    opening may stand in `warnings`, a sequence of sentences."""

    subject: Subject

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]: ...

    def close(self) -> None:
        """Ends what runs beside this process."""


class Probe:
    """The parts of a probe, each imported when it is first asked for."""

    def __init__(self, name: str) -> None:
        """Raises UsageError with the names there are where there is none of that name."""
        lookup.find("probes", name)
        self.name = name

    @property
    def options(self) -> type:
        """The frozen dataclass of its own knobs."""
        return self._part("options").Options

    @property
    def examples(self) -> tuple[str, str]:
        """Two command lines, each with what it does: `command  # what it does`."""
        return self._part("options").EXAMPLES

    @property
    def estimate(self) -> Callable[[Spec], str] | None:
        """Says in words what a run would cost, and runs nothing; None: it cannot be known beforehand."""
        return getattr(self._part("options"), "estimate", None)

    def completed(self, spec: Spec, named: Set[str], stored: Stored) -> Spec:
        """Where the question is taken from a stored run: the whole of it. `named`: options that stand on the command line."""
        completed = getattr(self._part("options"), "completed", None)
        return completed(spec, named, stored) if completed else spec

    def check(self, spec: Spec) -> None:
        """Raises UsageError where the question cannot be asked."""
        refuse_more_than_can_be_had(spec)
        self._part("options").check(spec)

    def open(self, spec: Spec, planned: Schedule | None = None) -> Session:
        """`planned`: the schedule of a run that is resumed. Raises UsageError, and FailedError where it cannot be opened."""
        return self._part("session").open_session(spec, **({} if planned is None else {"planned": planned}))

    @property
    def judge(self) -> Judge | None:
        """None: samples are compared, as `judge.conditions` does it."""
        return getattr(self._part("judge", optional=True), "findings", None)

    def whole(self, *known: object) -> WholeJudge | None:
        """Judges all cases together. `known`: schedule, outcomes, roles, options. None: each case is judged by itself."""
        judge = getattr(self._part("judge", optional=True), "whole", None)
        return judge and (lambda tallies: judge(tallies, *known))

    @property
    def compares(self) -> bool:
        """Whether two outcomes of a case are a divergence: so it is where samples are simply compared."""
        return not self._part("judge", optional=True)

    @property
    def describe(self) -> Callable[[Finding], tuple[Block, ...]]:
        """What reports say of a finding."""
        part = self._part("describe", optional=True)
        return part.describe if part else importlib.import_module("detcheck.samples").describe

    def _part(self, name: str, optional: bool = False) -> ModuleType | None:
        path = f"detcheck.probes.{self.name}.{name}"
        return None if optional and not importlib.util.find_spec(path) else importlib.import_module(path)


MOST = {
    "samples": 1_000_000,
    "trials": 1_000_000,
    "seed": 2**63 - 1,
}  # of steps, each is planned before the first is taken
MOST_ELSEWHERE = 2**31 - 1


def refuse_more_than_can_be_had(spec: Spec) -> None:
    """Raises UsageError for a number that no machine can do, before it is planned for."""
    for name, value in spec.flat().items():
        most = MOST.get(name, MOST_ELSEWHERE)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int) and abs(one) > most:
                raise UsageError(f"{flag(name)} must be at most {most}; got {str(one)[:40]}")
