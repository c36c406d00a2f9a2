"""The conditions of two runs side by side: which gave the same in both, which did not, and which only one run has. Pure.

A condition is found again by what was asked: its name, the batch's rows in their order, the sample's slot. How the stack then got there
is what may have changed: threads, a cache of another kind, the steps that an engine made of the same requests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace

from detcheck.finding import Divergence
from detcheck.hashes import content_hash
from detcheck.judge.statistics import divergence
from detcheck.records import Condition, Outcome
from detcheck.storage.baselines import Known, Settled

Key = tuple[object, ...]
MOST_NAMED = 6  # conditions in a note


@dataclass(frozen=True)
class Met:
    """A condition as one run met it."""

    name: str
    complete: bool
    """whether it is known in full"""
    outcomes: frozenset[str]
    traces: frozenset[str]
    """what an engine that forms its batches itself made of it"""


@dataclass(frozen=True)
class Paired:
    """A case of two runs, condition by condition. Names are in the order of the second run."""

    both: Counter[str] = field(default_factory=Counter)
    """name -> places that both have"""
    other: Counter[str] = field(default_factory=Counter)
    """name -> of these, places with another outcome, though the condition is known in full"""
    unsure: Counter[str] = field(default_factory=Counter)
    """name -> of these, places with another outcome whose batches are not known"""
    first_alone: Counter[str] = field(default_factory=Counter)
    """name -> places that the first run alone has"""
    second_alone: Counter[str] = field(default_factory=Counter)
    changes: frozenset[tuple[str, str]] = frozenset()
    """(outcome in the first run, outcome in the second) of the places with another one"""
    retraced: int = 0
    """places that both have, and for which the engine made other steps"""

    @property
    def table(self) -> dict[str, dict[str, int]]:
        """Name -> numbers of places, for a report."""
        names = dict.fromkeys((*self.both, *self.first_alone, *self.second_alone))
        return {
            name: {
                "both": self.both[name],
                "other": self.other[name] + self.unsure[name],
                "alone": self.first_alone[name] + self.second_alone[name],
            }
            for name in names
        }

    def rest(self) -> str:
        """What only one run has, in words; "" where there is nothing."""
        elsewhere = {*self.both, *(self.first_alone.keys() & self.second_alone.keys())}
        said = []
        for which, alone in (("first", self.first_alone), ("second", self.second_alone)):
            if names := [name for name in alone if name not in elsewhere]:
                said.append(f"only the {which} has {listed(names)}")
        rows = [name for name in (*self.first_alone, *self.second_alone) if name in elsewhere]
        if rows:
            said.append(f"the two have other rows or samples in {listed(rows)}")
        return "; ".join(said)


def paired(a: Known, b: Known) -> Paired:
    old = any(not settled.slots for known in (a, b) for settled in known.conditions)
    first, second = met(a, old), met(b, old)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    changes, retraced = set(), 0
    for key, now in second.items():
        then = first.get(key)
        if then is None:
            counts["second_alone"][now.name] += 1
            continue
        counts["both"][now.name] += 1
        retraced += then.traces != now.traces
        if then.outcomes != now.outcomes:
            sure = then.complete and now.complete and len(then.outcomes) == len(now.outcomes) == 1
            counts["other" if sure else "unsure"][now.name] += 1
            changes |= {(x, y) for x in then.outcomes for y in now.outcomes if x != y}
    for key, then in first.items():
        if key not in second:
            counts["first_alone"][then.name] += 1
    return Paired(**counts, changes=frozenset(changes), retraced=retraced)


def met(known: Known, old: bool) -> dict[Key, Met]:
    """`old`: one of the two is of an older baseline, in which a condition is its name and a hash."""
    together: dict[Key, list[Settled]] = defaultdict(list)
    for settled in known.conditions:
        for key in keys(settled, old):
            together[key].append(settled)
    return {
        key: Met(
            found[0].condition.name,
            all(complete(settled) for settled in found),
            frozenset(settled.outcome for settled in found),
            frozenset(settled.condition.trace for settled in found),
        )
        for key, found in together.items()
    }


def keys(settled: Settled, old: bool) -> Iterator[Key]:
    condition = settled.condition
    if not settled.slots:
        yield condition.name, condition.composition
    for slot in settled.slots:
        if old:
            whole = replace(condition, slot=slot)
            yield condition.name, content_hash(repr(astuple(whole)).encode())[:12]
        elif not complete(settled):
            yield condition.name, slot
        else:
            yield condition.name, slot, condition.composition, condition.fed


def complete(settled: Settled) -> bool:
    if not settled.slots:
        return True
    whole: Condition = replace(settled.condition, slot=settled.slots[0])
    return whole.complete


def distances(found: Paired, payloads: Mapping[str, Outcome]) -> list[Divergence]:
    """Of each outcome that became another one; [] where their payloads are not there."""
    there = all(outcome in payloads for change in found.changes for outcome in change)
    return [divergence(payloads[then], payloads[now]) for then, now in sorted(found.changes)] if there else []


def shared(names: Sequence[str], payloads: Mapping[str, Outcome]) -> tuple[int, int] | None:
    """(tokens, tokens with the bits of log-probabilities) that all of these outcomes begin with; None where their payloads are not there."""
    found = [payloads[name] for name in names if name in payloads]
    if not found or len(found) < len(names):
        return None
    first, *others = found
    apart = [divergence(first, other) for other in others]
    tokens = min((one.index for one in apart if one.index is not None), default=len(first.tokens))
    return tokens, min((one.index_bits for one in apart), default=len(first.tokens))


def listed(names: Sequence[str]) -> str:
    """ "batch-2, batch-4 and 7 more" """
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
