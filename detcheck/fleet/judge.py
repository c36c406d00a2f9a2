"""What the members of a fleet observed, against each other: one finding a case. Pure.

A case is a promise: whoever computes it, and under whichever condition, its bits are the same. Members are compared with what most of them
have. One that is missing is not equal, and a fleet is never better than what its members say of themselves.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from detcheck.finding import Finding
from detcheck.fleet import causes
from detcheck.fleet.members import Member
from detcheck.hashes import json_hash
from detcheck.judge.comparisons import parts
from detcheck.judge.level import LEVELS
from detcheck.judge.paired import Met, met, paired
from detcheck.parting import where_and_how_far
from detcheck.records import Case, Outcome
from detcheck.storage.baselines import NUMBERS, Baseline, Known
from detcheck.text import visible
from detcheck.verdict import SEVERITY, Verdict

FLEET = "fleet"  # `Case.probe` of its findings
MOST_NAMED = 3  # members in a sentence
MOST_TOLD = 3  # groups of which it is said where and why they differ
MOST_FACTS = 8
TABLES_HELD = 8  # at once, of all that differ


class Kind(StrEnum):
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

    members: list[Member]
    table: str
    """digest of the first one's"""
    tokens: frozenset[str]
    own: Verdict
    """the worst that they say of themselves"""
    kind: Kind = Kind.MOST
    where: str = ""
    """of one that differs"""
    apart: list[str] = field(default_factory=list)
    """what is different about it"""


@dataclass(frozen=True)
class Fleet:
    """Everything that judging may see."""

    asked: Sequence[str]
    """names of all members"""
    members: Sequence[Member]
    """those of which something came, if only why nothing did"""
    tables: Callable[[str], Baseline | None]
    """by digest; None: it cannot be read"""
    environments: Mapping[str, Mapping[str, object]]
    outcomes: Mapping[str, Outcome]

    @functools.cached_property
    def answered(self) -> list[Member]:
        return sorted((m for m in self.members if not m.missing and self.table(m.table)), key=lambda m: m.number)

    @functools.cached_property
    def missing(self) -> list[tuple[str, str]]:
        """(name, why) of each."""
        there = {m.number for m in self.answered}
        why = {m.number: m.missing or "its table cannot be read" for m in self.members}
        return [(name, why.get(n, "it had not answered")) for n, name in enumerate(self.asked, 1) if n not in there]

    @functools.cached_property
    def table(self) -> Callable[[str], Baseline | None]:
        return functools.lru_cache(TABLES_HELD)(self.tables)

    def facts(self, member: Member) -> dict[str, str]:
        return causes.facts(self.environments.get(member.environment, {}), self.table(member.table))


def findings(fleet: Fleet, nothing: Case) -> tuple[Finding, ...]:
    """`nothing`: the case that is said to have failed, where no member answered."""
    if not fleet.answered:
        note = f"none of {len(fleet.asked)} answered: {listed_missing(fleet)}"
        return (Finding(nothing, Verdict.FAILED, note, missing=len(fleet.asked), evidence=evidence(fleet, [], None)),)
    cases = grouped(fleet)
    return tuple(judged(fleet, case, groups) for case, groups in cases.items())


def grouped(fleet: Fleet) -> dict[Case, list[Group]]:
    """Who has the same of each case, the largest group first. Each distinct table is read once."""
    holders: dict[str, list[Member]] = {}
    for member in fleet.answered:
        holders.setdefault(member.table, []).append(member)
    found: dict[Case, dict[str, Group]] = {}
    for digest, members in holders.items():
        known = {one.case: one for one in fleet.table(digest).cases}
        for case in known:
            found.setdefault(case, {})
        for case, one in known.items():
            tokens, own = frozenset(one.tokens.values()), Verdict(one.verdict)
            group = found[case].setdefault(signature(one), Group([], digest, tokens, own))
            group.members += members
            group.own = worst([group.own, own])
    for groups in found.values():
        there = {m.number for group in groups.values() for m in group.members}
        if absent := [m for m in fleet.answered if m.number not in there]:
            groups[""] = Group(
                groups[""].members + absent if "" in groups else absent,
                absent[0].table,
                frozenset(),
                Verdict.INCONCLUSIVE,
            )
    return {
        case: sorted(groups.values(), key=lambda g: (not g.tokens, -len(g.members), g.members[0].number))
        for case, groups in found.items()
    }


def signature(known: Known) -> str:
    """Equal for equal observations of a case. How often each outcome came, and which steps an engine made of it, is no part of it."""
    if len(known.outcomes) < 2:
        return next(iter(known.outcomes), "")
    conditions = sorted((repr(key), sorted(one.outcomes)) for key, one in met(known, old=False).items())
    return json_hash([conditions, sorted(known.outcomes), known.unsteady])


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    return min(verdicts, key=SEVERITY.index)


def judged(fleet: Fleet, case: Case, groups: Sequence[Group]) -> Finding:
    most, *others = groups
    first = known_of(fleet, most, case)
    for group in others:
        compare(fleet, case, first, most, group, told=sum(g.kind is Kind.DIFFERS for g in groups) < MOST_TOLD)
    differ = [g for g in others if g.kind is Kind.DIFFERS]
    verdicts = [group.own for group in groups]
    doubts = list(doubts_about(fleet, groups))
    if differ:
        verdicts.append(Verdict.DIVERGENT)
    if doubts:
        verdicts.append(Verdict.INCONCLUSIVE)
    verdict = worst(verdicts)
    said = [*(difference(fleet, most, group) for group in differ[:MOST_TOLD])]
    if len(differ) > MOST_TOLD:
        said.append(f"{len(differ) - MOST_TOLD} more groups differ too")
    if not most.tokens:
        said.append("no member has a sample of it")
    elif not differ and len(most.members) > 1:
        what = LEVELS.get(first.compared, "outcomes") if first else "outcomes"
        count = len(fleet.answered)
        who = f"all {count}" if len(most.members) == count else f"{len(most.members)} of {count}"
        said.append(f"{who} have the same {what}")
    said += [*by_themselves(groups), *doubts]
    tokens = {group.tokens for group in groups if group.kind in (Kind.MOST, Kind.DIFFERS)}
    return Finding(
        Case(FLEET, case.subject, case.kernels, case.dtype, case.input, case.replica),
        verdict,
        "; ".join(said),
        samples=len(fleet.answered),
        missing=len(fleet.missing),
        distinct=len(tokens),
        distinct_bits=1 + len(differ),
        mode_count=len(most.members),
        evidence=evidence(fleet, groups, first),
    )


def known_of(fleet: Fleet, group: Group, case: Case) -> Known | None:
    table = fleet.table(group.table)
    return next((one for one in table.cases if one.case == case), None)


def compare(fleet: Fleet, case: Case, first: Known, most: Group, group: Group, told: bool) -> None:
    """Says of a group how it stands to the largest, and if `told`, where it parts and what is different about it."""
    other = known_of(fleet, group, case)
    group.kind, group.where = stands(first, other)
    if group.kind is Kind.DIFFERS:
        group.where = where(first, other, fleet.outcomes) if told else ""
        if told:
            sides = [[fleet.facts(m) for m in distinct(side.members)] for side in (group, most)]
            group.apart = causes.apart(*sides)


def distinct(members: Sequence[Member]) -> list[Member]:
    """One of each environment and table."""
    return list({(m.environment, m.table): m for m in members}.values())


def stands(first: Known, other: Known | None) -> tuple[Kind, str]:
    """Of two that are not the same, and why no more is known."""
    if other is None or not other.outcomes:
        return Kind.NOTHING, "no sample of it came"
    if (first.compared, first.unit) != (other.compared, other.unit):
        how = [f"{known.compared or 'its outcome'} of {known.unit}s" for known in (other, first)]
        return Kind.OTHERWISE, f"it is compared by {how[0]}, the others by {how[1]}"
    found = paired(first, other)
    alone = len(first.outcomes) == 1 or (len(other.outcomes) == 1 and not set(other.outcomes) <= set(first.outcomes))
    if alone or found.other or not set(first.outcomes) & set(other.outcomes):
        return Kind.DIFFERS, ""
    if found.unsure or first.unsteady or other.unsteady:
        return Kind.VARIES, ""
    return Kind.OTHERWISE, f"the same in the {len(found.both)} conditions that both have; {found.rest()}"


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


def difference(fleet: Fleet, most: Group, group: Group) -> str:
    """Who differs, from whom, where, and what is different about them."""
    who = listed([described(fleet, m) for m in group.members])
    differ = "differs" if len(group.members) == 1 else "differ"
    if len(most.members) > len(group.members):
        from_whom = (
            f"the {len(most.members)} that agree" if len(most.members) > 1 else described(fleet, most.members[0])
        )
    else:
        from_whom = f"{listed([described(fleet, m) for m in most.members])}, and neither side is the larger"
    facts = group.apart[:MOST_FACTS]
    more = f", and {len(group.apart) - MOST_FACTS} more facts" if len(group.apart) > MOST_FACTS else ""
    why = (
        f"different there: {visible('; '.join(facts))}{more}"
        if facts
        else "nothing that is recorded of its environment is different"
    )
    return f"{who} {differ} from {from_whom}: {group.where}; {why}"


def described(fleet: Fleet, member: Member) -> str:
    """Its name, with device and driver."""
    facts = fleet.environments.get(member.environment, {})
    flags = facts.get("flags") or {}
    device = str(facts.get("device", ""))
    processor = str(facts.get("processor", "")) if device == "cpu" else ""
    said = ", ".join(visible(part) for part in (device, processor, flags.get("driver", "")) if part)
    return visible(member.name) + (f" ({said})" if said else "")


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def by_themselves(groups: Sequence[Group]) -> Iterator[str]:
    """Members that do not pass by themselves."""
    for group in groups:
        if group.own.exit_code and group.kind is not Kind.NOTHING:
            bad = [m for m in group.members if m.verdict not in (Verdict.IDENTICAL, Verdict.CERTIFIED)]
            who = listed([visible(m.name) for m in bad or group.members])
            said = next((f": {visible(m.note)}" for m in bad if m.note and m.verdict == group.own), "")
            yield f"by {'itself' if len(bad) == 1 else 'themselves'} {who} {'is' if len(bad) == 1 else 'are'} {group.own}{said}"


def doubts_about(fleet: Fleet, groups: Sequence[Group]) -> Iterator[str]:
    """Why equal members are no pass."""
    if fleet.missing:
        yield f"{len(fleet.missing)} of {len(fleet.asked)} missing: {listed_missing(fleet)}"
    if len(fleet.answered) == 1:
        yield "there is one answer, and nothing to compare it with"
    for group in groups[1:]:
        if group.kind in (Kind.OTHERWISE, Kind.NOTHING):
            yield f"{listed([visible(m.name) for m in group.members])}: {group.where}"
        if group.kind is Kind.VARIES:
            who = listed([visible(m.name) for m in group.members])
            yield f"whether {who} differs from the others is undetermined, since bits vary within a member"


def listed_missing(fleet: Fleet) -> str:
    why = Counter(reason for _, reason in fleet.missing)
    if len(fleet.missing) > MOST_NAMED and len(why) == 1:
        return f"{listed([visible(name) for name, _ in fleet.missing])}: {visible(next(iter(why)))}"
    said = [f"{visible(name)}: {visible(reason)}" for name, reason in fleet.missing]
    return "; ".join(said[:MOST_NAMED]) + (f"; and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else "")


def evidence(fleet: Fleet, groups: Sequence[Group], first: Known | None) -> dict[str, object]:
    every = [fleet.facts(m) for m in distinct(fleet.answered)]
    return {
        "compared": first.compared if first else "",
        "unit": first.unit if first else "token",
        "members": {"asked": len(fleet.asked), "answered": len(fleet.answered), "missing": len(fleet.missing)},
        "groups": [
            {
                "stands": str(group.kind),
                "members": len(group.members),
                "first": [described(fleet, m) for m in group.members[:MOST_NAMED]],
                "verdict": str(group.own),
                "where": group.where,
                "apart": group.apart,
            }
            for group in groups
        ],
        "missing": dict(Counter(reason for _, reason in fleet.missing)),
        "unlike": causes.unlike(every),
    }
