"""A run while it goes on: how far it is, condition by condition, and the first divergence of each arm the moment it is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from detcheck.outcomes import token_key
from detcheck.parting import Parting, WatchedArm
from detcheck.records import Case, Observation, Outcome, Step, Subject
from detcheck.spec import Spec
from detcheck.verdict import FailOn, Role


@dataclass(frozen=True)
class Progress:
    """How far a run is: told before its first step, and after each."""

    done: int
    """samples (or what `unit` says) observed or missing"""
    total: int
    doing: str = ""
    """name of the condition that runs now; "" at the end"""
    arm: WatchedArm | None = None
    """that runs now"""
    subject: str = ""
    """the op that runs now, where a run has several"""
    of_condition: tuple[int, int] = (0, 0)
    """of its samples in this arm: observed or missing, and all"""
    of_arm: tuple[int, int] = (0, 0)
    found: tuple[Parting, ...] = ()
    """what differed for the first time in the step before"""
    unit: str = "samples"


OnProgress = Callable[[Progress], None]


class Track:
    """Counts samples by arm and condition."""

    def __init__(self, spec: Spec, subject: Subject, done: Mapping[int, int]) -> None:
        """`done`: by the number of a step, how many of its samples were stored before."""
        self._cases, self._kernels = subject.cases, spec.kernels
        self._several = len({case.subject for case, _ in subject.cases}) > 1
        steps = subject.schedule.steps
        self._total, self._done = self._counts(steps), self._counts(steps, done)
        self._before = done
        self.pending = [step for step in steps if done.get(step.index, 0) < step.samples]

    def progress(self, observed: int, found: Sequence[Parting] = ()) -> Progress:
        """Once so many of the pending steps are observed."""
        if observed:
            step = self.pending[observed - 1]
            for key in self._keys(step):
                self._done[key] += step.samples - self._before.get(step.index, 0)
        now = self.pending[observed] if observed < len(self.pending) else None
        total, done = self._total[()], self._done[()]
        if now is None:
            return Progress(done, total, found=tuple(found))
        arm, subject = self._place(now)
        of_arm, of_condition = ((self._done[key], self._total[key]) for key in self._keys(now)[1:])
        return Progress(
            done, total, now.condition, arm, subject if self._several else "", of_condition, of_arm, tuple(found)
        )

    def _place(self, step: Step) -> tuple[WatchedArm, str]:
        if step.case is None:
            return WatchedArm(str(self._kernels), Role.GATES), ""
        case, role = self._cases[step.case]
        return WatchedArm(case.kernels, role), case.subject

    def _keys(self, step: Step) -> tuple[tuple[object, ...], ...]:
        """What it counts for: the run, its arm, its condition there."""
        arm, subject = self._place(step)
        return (), (arm,), (arm, subject, step.condition)

    def _counts(self, steps: Iterable[Step], done: Mapping[int, int] | None = None) -> Counter[tuple[object, ...]]:
        counts: Counter[tuple[object, ...]] = Counter()
        for step in steps:
            for key in self._keys(step):
                counts[key] += step.samples if done is None else done.get(step.index, 0)
        return counts


def guarded(on_progress: OnProgress | None, warnings: list[str]) -> OnProgress:
    """Who watches a run ends it with Ctrl-C alone: any other exception is a warning, and from then on nothing is told."""
    watching = [on_progress] if on_progress else []

    def tell(p: Progress) -> None:
        for one in watching:
            try:
                one(p)
            except Exception as error:  # noqa: BLE001  the boundary: it is the caller's code
                watching.clear()
                said = f"on_progress raised {type(error).__name__}: {error}"
                warnings.append(f"{said}. The run went on, and told it no more")

    return tell


def last_of_condition(steps: tuple[Step, ...], position: int) -> bool:
    """Whether the next step is of another condition: only then is it known whether this one repeats itself."""
    following = steps[position + 1] if position + 1 < len(steps) else None
    return following is None or (following.input, following.condition) != (
        steps[position].input,
        steps[position].condition,
    )


class FirstDivergence:
    """Watches for a second outcome of a case. Names are compared, so that a sample equal to the first costs nothing.

    `diverged` is whether a case that decides the verdict has one; of its tokens, where only tokens fail a run.
    """

    def __init__(self, fail_on: FailOn, roles: Mapping[Case, Role]) -> None:
        self._roles = roles
        self._tokens_only = fail_on is FailOn.TOKENS
        self._first: dict[Case, tuple[int, Outcome]] = {}
        self._samples: Counter[Case] = Counter()
        self._told: dict[WatchedArm, bool] = {}
        self.diverged = False

    def see(self, observations: Iterable[Observation], outcomes: Iterable[Outcome]) -> list[Parting]:
        """The first of each arm that differs, and the first whose tokens do; none of what differs on purpose.

        `outcomes`: all that these observations have.
        """
        payloads, found = {o.id: o for o in outcomes}, []
        for o in observations:
            self._samples[o.case] += 1
            outcome = None if o.missing else payloads.get(o.outcome)
            if outcome is None:
                continue
            n, first = self._first.setdefault(o.case, (self._samples[o.case], outcome))
            if outcome.id == first.id:
                continue
            role = self._roles.get(o.case, Role.GATES)
            arm, gates = WatchedArm(o.case.kernels, role), role is Role.GATES
            if self._told.get(arm) and (self.diverged or not gates):
                continue
            in_tokens = token_key(outcome) != token_key(first)
            self.diverged |= gates and (in_tokens or not self._tokens_only)
            if role is not Role.PLANTED and int(in_tokens) > self._told.get(arm, -1):
                self._told[arm] = in_tokens
                alike = tuple(c for c, r in self._roles.items() if WatchedArm(c.kernels, r) == arm)
                found.append(Parting(arm, o.case, alike, self._samples[o.case], n, o.condition, (first, outcome)))
        return found
