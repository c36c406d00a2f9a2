"""Members that have the same of a case, and how two that have not stand to each other. Pure."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from detcheck.fleet import causes
from detcheck.fleet.members import FleetMember
from detcheck.hashes import json_hash
from detcheck.judge.comparisons import parts
from detcheck.judge.paired import Met, met, paired
from detcheck.parting import where_and_how_far
from detcheck.records import Case, Outcome
from detcheck.storage.baselines import NUMBERS, Baseline, Known
from detcheck.text import visible
from detcheck.verdict import SEVERITY, Verdict

TABLES_HELD = 8  # at once, of all that differ


class Standing(StrEnum):
    """How a group stands to the largest one."""

    MOST = "most"
    DIFFERS = "differs"
    VARIES = "varies"
    """it has other bits than these, and so have its members among themselves: that they differ between members is not shown"""
    OTHERWISE = "otherwise"
    """it was asked under other conditions, or compared in another way"""
    NOTHING = "nothing"
    """it has no sample of this case"""


@dataclass
class Group:
    """Members that have the same of one case."""

    members: list[FleetMember]
    table: str
    """digest of the first one's"""
    tokens: frozenset[str]
    own: Verdict
    """the worst that they say of themselves"""
    kind: Standing = Standing.MOST
    where: str = ""
    """of one that differs"""
    apart: list[str] = field(default_factory=list)
    """what is different about it"""


@dataclass(frozen=True)
class Brief:
    """A case of a table, as far as members are grouped by it."""

    signature: str
    tokens: frozenset[str]
    own: Verdict
    conditions: frozenset[str] | None
    """names of those that it met; None: not all are known"""


@dataclass(frozen=True)
class Recorded:
    """Everything that judging may see."""

    asked: Sequence[str]
    """names of all members"""
    members: Sequence[FleetMember]
    """those of which something came, if only why nothing did"""
    tables: Callable[[str], Baseline | None]
    """by digest; None: it cannot be read"""
    environments: Mapping[str, Mapping[str, object]]
    outcomes: Mapping[str, Outcome]
    weights: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """digest of a table -> digests of the weights it was made with; filled as tables are read"""

    @functools.cached_property
    def cases(self) -> dict[str, dict[Case, Brief]]:
        """Digest of a table that can be read -> what there is of each of its cases. Each is read once for all who have it."""
        found = {}
        for digest in dict.fromkeys(m.table for m in self.members if not m.missing):
            if table := self.table(digest):
                found[digest] = {known.case: brief(known, table) for known in table.cases}
                self.weights[digest] = dict(table.digests)
        return found

    @functools.cached_property
    def answered(self) -> list[FleetMember]:
        return sorted((m for m in self.members if self._counts(m)), key=lambda m: m.number)

    def _counts(self, member: FleetMember) -> bool:
        return not member.missing and 1 <= member.number <= len(self.asked) and member.table in self.cases

    @functools.cached_property
    def missing(self) -> list[tuple[str, str]]:
        """(name, why) of each."""
        there = {m.number for m in self.answered}
        why = {m.number: m.missing or "its table cannot be read" for m in self.members}
        return [(name, why.get(n, "it had not answered")) for n, name in enumerate(self.asked, 1) if n not in there]

    @functools.cached_property
    def table(self) -> Callable[[str], Baseline | None]:
        return functools.lru_cache(TABLES_HELD)(self.tables)

    def recorded(self, member: FleetMember) -> bool:
        """Whether its environment is."""
        return member.environment in self.environments

    @functools.cached_property
    def other_weights(self) -> list[str]:
        """Digests that are not the same for all who have them, each with who has which."""
        who: dict[str, dict[str, list[str]]] = {}
        for member in self.answered:
            for name, digest in self.weights[member.table].items():
                who.setdefault(name, {}).setdefault(digest, []).append(member.name)
        return [
            f"SHA-256 of the {visible(name)}: "
            + ", ".join(
                f"{visible(d[:12])} on {visible(m[0])}" + (f" and {len(m) - 1} more" if m[1:] else "")
                for d, m in by.items()
            )
            for name, by in who.items()
            if len(by) > 1
        ]

    def facts(self, member: FleetMember) -> dict[str, str]:
        return causes.facts(self.environments.get(member.environment, {}), self.weights.get(member.table, {}))


def brief(known: Known, table: Baseline) -> Brief:
    met_there = frozenset(sys.intern(s.condition.name) for s in known.conditions)
    conditions = met_there if met_there and not known.unsteady else None
    made = json_hash([question(table), signature(known)]) if known.outcomes else ""
    return Brief(made, frozenset(known.tokens.values()), Verdict(known.verdict), conditions)


def question(table: Baseline) -> dict[str, str]:
    """What it answers, as facts: who answered another one is not compared."""
    return {"probe": table.probe} | {name: str(value) for name, value in table.asked.items()}


def signature(known: Known) -> str:
    """Equal for equal observations of a case. How often each outcome came, and which steps an engine made of it, is no part of it."""
    if len(known.outcomes) < 2:
        return json_hash([known.compared, known.unit, *known.outcomes]) if known.outcomes else ""
    conditions = sorted((repr(key), sorted(one.outcomes)) for key, one in met(known, old=False).items())
    return json_hash([known.compared, known.unit, conditions, sorted(known.outcomes), known.unsteady])


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    return min(verdicts, key=SEVERITY.index)


def stands(first: Known, other: Known | None) -> tuple[Standing, str]:
    """Of two that are not the same, and why no more is known."""
    if other is None or not other.outcomes:
        return Standing.NOTHING, "no sample of it came"
    if (first.compared, first.unit) != (other.compared, other.unit):
        how = [f"{known.compared or 'its outcome'} of {known.unit}s" for known in (other, first)]
        return Standing.OTHERWISE, f"it is compared by {how[0]}, the others by {how[1]}"
    found = paired(first, other)
    steady = not first.unsteady and not other.unsteady
    alone = len(first.outcomes) == 1 or (len(other.outcomes) == 1 and not set(other.outcomes) <= set(first.outcomes))
    if (alone and steady) or found.other or not set(first.outcomes) & set(other.outcomes):
        return Standing.DIFFERS, ""
    if found.unsure or first.unsteady or other.unsteady:
        return Standing.VARIES, ""
    return Standing.OTHERWISE, f"the same in the {len(found.both)} conditions that both have; {found.rest()}"


def where(first: Known, other: Known, outcomes: Mapping[str, Outcome]) -> str:
    """The first condition under which they part, and the first token, or how far the numbers are apart."""
    place, ours, theirs = first_apart(first, other)
    if ours in outcomes and theirs in outcomes:
        return f"{place}{where_and_how_far(outcomes[ours], outcomes[theirs])}"
    if first.unit in NUMBERS:
        return f"{place}other bits"
    index = parts(first.prefixes, other.prefixes)
    if index is not None:
        return f"{place}the commonest completions part at {first.unit} {index}"
    index = parts(first.prefixes_bits, other.prefixes_bits)
    return f"{place}" + (
        "other outcomes"
        if index is None
        else f"the commonest completions' log-probabilities part at {first.unit} {index}"
    )


def first_apart(first: Known, other: Known) -> tuple[str, str, str]:
    """(condition, in words; an outcome of the first; what the other has in its place)"""
    there = met(first, old=False)
    for key, now in met(other, old=False).items():
        then = there.get(key)
        if then and then.outcomes != now.outcomes and single(then) and single(now):
            slot = "" if len(key) < 2 or key[1] is None else f", row {key[1]}"
            return f"under {visible(now.name)}{slot}, ", next(iter(then.outcomes)), next(iter(now.outcomes))
    commonest = max(first.outcomes, key=lambda o: first.outcomes[o])
    news = [o for o in other.outcomes if o not in first.outcomes] or list(other.outcomes)
    return "", commonest, max(news, key=lambda o: other.outcomes[o])


def single(condition: Met) -> bool:
    return len(condition.outcomes) == 1
