"""The first divergence of an arm, in a sentence: which sample, where it leaves the first one, and how far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from detcheck.bits import first_difference
from detcheck.judge.forks import words_apart
from detcheck.judge.statistics import divergence
from detcheck.outcomes import turn_at
from detcheck.records import Case, Condition, Outcome
from detcheck.text import visible
from detcheck.verdict import ROLES, Role


@dataclass(frozen=True)
class WatchedArm:
    """The kernels that are observed, and what for."""

    kernels: str
    role: Role

    def __str__(self) -> str:
        return self.kernels + ROLES[self.role]


@dataclass(frozen=True)
class Parting:
    """The first sample of an arm that differs from the first one of its case."""

    arm: WatchedArm
    case: Case
    alike: tuple[Case, ...]
    """all cases of the arm: where there are several, it must be said which one it was"""
    sample: int
    """which of the case's samples, from 1"""
    first: int
    """the one that it was compared with: the first that came"""
    condition: Condition
    outcomes: tuple[Outcome, Outcome]
    """of the first sample, of this one"""

    @property
    def sentence(self) -> str:
        """Like "first divergence in stock (control): sample 37, token 102: ' New' against ' Queens', margin 0.02 (batch-8; against sample 1)"."""
        which = "".join(f"{part}, " for part in self._apart())
        slot = "" if self.condition.slot is None else f", row {self.condition.slot}"
        where = f"{visible(self.condition.name)}{slot}; against sample {self.first}"
        return f"first divergence in {self.arm}: {which}sample {self.sample}, {where_and_how_far(*self.outcomes)} ({where})"

    def _apart(self) -> list[str]:
        """What tells its case from the others of the arm."""
        names = ("subject", "dtype", "input", "replica")
        several = [name for name in names if len({getattr(case, name) for case in self.alike}) > 1]
        return [f"{name} {visible(str(getattr(self.case, name)))}" for name in several]


def where_and_how_far(first: Outcome, other: Outcome) -> str:
    """Where two unequal outcomes part; of completions the words there, of numbers the distance."""
    if other.unit == "word":
        return "other bits"
    found = divergence(first, other)
    if other.dtype:
        return of_numbers(first, other, found.index) + distance(found.max_ulp, found.max_abs)
    if found.index is not None:
        return of_tokens(first, other, found.index)
    same = f"the same {other.unit}s"
    if found.max_abs is not None:
        apart = distance(found.max_ulp, found.max_abs, " nats")
        return f"{same}, other log-probability bits from {other.unit} {found.index_bits} on{apart}"
    if (first.logprobs is None) != (other.logprobs is None) or unlike_logprobs(first, other):
        return f"{same}, other log-probability bits"
    return f"{same}, other ends: {visible(str(other.finish_reason))} against {visible(str(first.finish_reason))}"


def unlike_logprobs(first: Outcome, other: Outcome) -> bool:
    return first.logprobs is not None and first.logprobs.tobytes() != other.logprobs.tobytes()


def of_tokens(first: Outcome, other: Outcome, index: int) -> str:
    place = f"{other.unit} {index}"
    if other.turns is not None:
        turn, within = turn_at(other, min(index, max(len(other.tokens) - 1, 0)))
        place = f"turn {turn}, {other.unit} {within}"
    margin = math.nan if other.margins is None or index >= len(other.margins) else float(other.margins[index])
    behind = "" if math.isnan(margin) else f", margin {margin:.2g}"
    return f"{place}: {' against '.join(said(first, other, index))}{behind}"


def said(first: Outcome, other: Outcome, index: int) -> tuple[str, str]:
    """What stands there in the other one, and in the first: a word where texts tell them apart, else the token."""
    ended = [index >= len(o.tokens) for o in (other, first)]
    if other.words is not None and first.words is not None:
        words = [o.words[index] if not end else "" for o, end in zip((other, first), ended, strict=True)]
    else:
        words = list(words_apart(other.text, first.text))
    if words[0] == words[1]:
        words = ["" if end else int(o.tokens[index]) for o, end in zip((other, first), ended, strict=True)]
        quoted = [f"token id {word}" for word in words]
    else:
        quoted = [f"'{visible(word)}'" for word in words]
    one, two = ("the end" if end else word for word, end in zip(quoted, ended, strict=True))
    return one, two


def of_numbers(first: Outcome, other: Outcome, index: int | None) -> str:
    if index is not None:
        return f"element {index} of {len(other.tokens)}"
    earlier = first_difference(first.positions, other.positions) if other.positions is not None else None
    if earlier is None or first.positions is None:
        return "other bits"
    if other.names:
        return f"the same gradient of the input, another one of {visible(other.names[earlier])}"
    return f"the same bits at the last position, others at position {earlier}"


def distance(ulp: float | None, absolute: float | None, unit: str = "") -> str:
    if absolute is None:
        return ""
    return f", up to {absolute:.2g}{unit}" + ("" if ulp is None else f" ({ulp:.0f} ulp)") + " apart"
