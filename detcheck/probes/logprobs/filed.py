"""Both sides from files: nothing runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detcheck.environment import observe_client
from detcheck.hashes import content_hash, file_hash
from detcheck.outcomes import outcome
from detcheck.probes.logprobs import files
from detcheck.probes.logprobs.facts import PLACES, SAMPLER, TRAINER, WIDTHS
from detcheck.probes.logprobs.keys import FileSequence
from detcheck.probes.logprobs.options import Options
from detcheck.probes.logprobs.pairing import contradicted, pair
from detcheck.records import Case, Condition, Observation, Outcome, Schedule, Step, Subject
from detcheck.spec import Spec
from detcheck.verdict import Role

TOGETHER = 256  # sequences of a step
NARROW, WIDE = "float32", "float64"


@dataclass(frozen=True)
class Filed:
    """A side of a sequence, as a file has it."""

    sequence: FileSequence | None
    missing: str = ""

    def outcome(self, side: str, width: str, dtype: str) -> Outcome | None:
        """Its numbers as what they were computed in, in an array of `dtype`: no side loses digits that it has."""
        one = self.sequence
        if one is None:
            return None
        logprobs = one.logprobs[side].astype(WIDE if width == WIDE else NARROW).astype(dtype)
        if one.tokens is None:
            return outcome(np.arange(len(logprobs)), logprobs=logprobs, text=one.text, unit=PLACES)
        return outcome(one.tokens, logprobs=logprobs, text=one.text)


class FileSession:
    """The probe, opened on one file or two."""

    def __init__(self, spec: Spec) -> None:
        """Raises UsageError where a file cannot be understood."""
        own: Options = spec.options
        paths = [Path(one) for one in (own.file, own.other) if one is not None]
        sides = [(SAMPLER, TRAINER)] if len(paths) == 1 else [(SAMPLER,), (TRAINER,)]
        held = [files.read(path, side) for path, side in zip(paths, sides, strict=True)]
        names = [path.name for path in paths]
        self._sequences = both_sides(held, names)
        self._widths = {
            side: files.precision([one.logprobs[side] for one in held[0 if side == SAMPLER else -1]])
            for side in (SAMPLER, TRAINER)
        }
        self._dtype = WIDE if WIDE in self._widths.values() else NARROW
        place = "logprobs", " and ".join(names), "user", self._dtype
        cases = [Case(*place, name) for name in self._named()] + [Case(*place, WIDTHS)]
        digests = {side: file_hash(path) for side, path in zip((SAMPLER, TRAINER), paths, strict=False)}
        self.subject = Subject(
            place[1], self._dtype, digests, (), Schedule(tuple(self._steps())), observe_client("files", {}),
            tuple((case, Role.GATES) for case in cases),
        )  # fmt: skip

    def _named(self) -> Iterator[str]:
        """A sequence is named by its place and a hash of what it holds."""
        for place, both in enumerate(self._sequences):
            one = both[SAMPLER].sequence or both[TRAINER].sequence
            parts = b"" if one.tokens is None else one.tokens.tobytes()
            name, prompt = (text.encode("utf-8", "surrogatepass") for text in (one.name, one.prompt))
            yield f"{place}:{content_hash(name, prompt, parts)[:8]}"

    def _steps(self) -> Iterator[Step]:
        count, index = len(self._sequences), 0
        yield Step(0, WIDTHS, WIDTHS, 0, (0, 0), case=count)
        for first in range(0, count, TOGETHER):
            for side in (SAMPLER, TRAINER):
                index += 1
                rows = (0,) * min(TOGETHER, count - first)
                yield Step(index, "", side, 0, rows, case=first)

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        if step.condition == WIDTHS:
            return self._observe_widths(step)
        observations, outcomes = [], []
        for n in range(len(step.rows)):
            case, _ = self.subject.cases[step.case + n]
            one = self._sequences[step.case + n][step.condition]
            found = one.outcome(step.condition, self._widths[step.condition], self._dtype)
            outcomes += [found] if found else []
            place = case, Condition(step.condition, None, None), 0, step.index, n
            observations.append(Observation(*place, found.id if found else None, missing=one.missing))
        return observations, outcomes

    def _observe_widths(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        case, _ = self.subject.cases[step.case]
        made = {side: outcome(np.arange(1), words=(width,)) for side, width in self._widths.items()}
        observations = [
            Observation(case, Condition(side, None, None), 0, step.index, n, found.id)
            for n, (side, found) in enumerate(made.items())
        ]
        return observations, list(made.values())

    def close(self) -> None:
        """Nothing to close."""


def matches(held: Sequence[list[FileSequence]]) -> list[tuple[int | None, int | None]]:
    return [(n, n) for n in range(len(held[0]))] if len(held) == 1 else pair(*held)


def both_sides(held: Sequence[list[FileSequence]], names: Sequence[str]) -> list[dict[str, Filed]]:
    """Every sequence of both files, and why a file has no such one."""
    found = matches(held)
    left = [held[0][a] for a, b in found if a is not None and b is None]
    right = [held[-1][b] for a, b in found if b is not None and a is None]
    apart = contradicted(left, right)

    def filed(side: int, place: int | None, other: int | None) -> Filed:
        if place is not None:
            return Filed(held[side][place])
        one = held[-1 - side][other]
        why = ", but the same under another prompt" if id(one) in apart else ""
        return Filed(None, f"{names[side]} does not have it{why}")

    return [{SAMPLER: filed(0, a, b), TRAINER: filed(-1, b, a)} for a, b in found]
