"""A run while it goes on: how far it is, and the first divergence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

from detcheck.outcomes import token_key
from detcheck.records import Case, Observation, Outcome, Step
from detcheck.verdict import FailOn


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int
    """samples observed or missing"""
    total: int
    doing: str
    """name of the condition that was just observed"""


OnProgress = Callable[[Progress], None]


def last_of_condition(steps: tuple[Step, ...], position: int) -> bool:
    """Whether the next step is of another condition: only then is it known whether this one repeats itself."""
    following = steps[position + 1] if position + 1 < len(steps) else None
    return following is None or (following.input, following.condition) != (
        steps[position].input,
        steps[position].condition,
    )


class FirstDivergence:
    """Watches for a second outcome of a case; of its tokens, where only tokens fail a run. Controls may have as many as they like."""

    def __init__(self, fail_on: FailOn, controls: Set[Case] = frozenset()) -> None:
        self._controls = controls
        self._tokens_only = fail_on is FailOn.TOKENS
        self._first: dict[Case, object] = {}
        self._keys: dict[str, object] = {}
        self.diverged = False

    def see(self, observations: Iterable[Observation], outcomes: Iterable[Outcome]) -> None:
        self._keys |= {o.id: token_key(o) if self._tokens_only else o.id for o in outcomes}
        for o in observations:
            key = None if o.missing else self._keys.get(o.outcome)
            if key is not None and o.case not in self._controls and self._first.setdefault(o.case, key) != key:
                self.diverged = True
