"""What a run that is resumed holds already, and whether it may be gone on with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from detcheck.errors import UsageError
from detcheck.records import Observation, Outcome, Subject
from detcheck.storage import baselines


def place(o: Observation) -> tuple[int, int]:
    """Which sample of the schedule this is."""
    return o.batch, o.sample


@dataclass
class Resumed:
    """What a resumed run holds already. Its observations themselves are not kept: they may be a hundred thousand."""

    stored: dict[tuple[int, int], str | None] = field(default_factory=dict)
    """place -> outcome of every observation on disk, also where the part that held the outcome is torn"""
    done: Counter[int] = field(default_factory=Counter)
    """batch -> samples of it that need not be observed again"""
    process: int = 0

    def noting(self, observations: Iterable[Observation]) -> Iterator[Observation]:
        """The same, noted while they pass."""
        names: dict[str | None, str | None] = {}  # of a hundred thousand equal names one is kept
        for o in observations:
            self.stored[place(o)] = names.setdefault(o.outcome, o.outcome)
            self.process = max(self.process, o.process + 1)
            yield o

    def count(self, readable: Mapping[str, Outcome]) -> None:
        """Once all have passed."""
        self.done.update(batch for (batch, _), outcome in self.stored.items() if outcome is None or outcome in readable)
        self.process = max(self.process, 1)

    def lacks(self, o: Observation) -> bool:
        """Whether this is news. The same outcome at the same place only brings back a payload that was torn."""
        return place(o) not in self.stored or self.stored[place(o)] != o.outcome


def refuse_changes(path: Path, then: Subject, now: Subject) -> None:
    before, after = (baselines.of_environment(one.environment) for one in (then, now))
    changed = [line for name in before for line in differing(name, before[name], after[name])]
    changed += [
        f"digest of {name}: {d[:12]} then, {now.digests.get(name, 'none')[:12]} now"
        for name, d in then.digests.items()
        if now.digests.get(name) != d
    ]
    if then.inputs != now.inputs:
        changed.append("prompts: other tokens now")
    if then.name != now.name:
        changed.append(f"model: {then.name} then, {now.name} now")
    elif then.cases != now.cases:
        changed.append("cases: others now")
    if changed:
        raise UsageError(
            f"--resume {path}: what was observed there cannot be mixed with what would be observed now. {'; '.join(changed)}. Start a new run"
        )


def differing(name: str, then: object, now: object) -> Iterator[str]:
    """What differs; of several flags or packages, each that does."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in sorted({*then, *now}):
            yield from differing(f"{name} {key}", then.get(key, "none"), now.get(key, "none"))
    elif then != now:
        yield f"{name}: {then} then, {now} now"
