"""What the members of a fleet observed, against each other: one finding a case. Pure.

A case is a promise: whoever computes it, and under whichever condition, its bits are the same. Members are compared with what most of them
have. One that is missing is not equal, and a fleet is never better than what its members say of themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from detcheck.finding import Finding
from detcheck.fleet import causes
from detcheck.fleet.groups import Group, Recorded, Standing, question, stands, where, worst
from detcheck.fleet.members import FleetMember
from detcheck.fleet.said import MOST_NAMED, by_themselves, described, difference, doubts_about, listed, listed_missing
from detcheck.judge.level import LEVELS
from detcheck.records import Case
from detcheck.storage.baselines import Known
from detcheck.text import visible
from detcheck.verdict import SEVERITY, Verdict

FLEET = "fleet"  # `Case.probe` of its findings
MOST_TOLD = 3  # groups of which it is said where and why they differ


def findings(fleet: Recorded, nothing: Case) -> tuple[Finding, ...]:
    """`nothing`: the case that is said to have failed, where no member answered."""
    if not fleet.answered:
        note = f"none of {len(fleet.asked)} answered: {listed_missing(fleet)}"
        return (Finding(nothing, Verdict.FAILED, note, missing=len(fleet.asked), evidence=evidence(fleet, [], None)),)
    found = [judged(fleet, case, groups) for case, groups in grouped(fleet).items()]
    return (*found, *by_whole_runs(fleet, found, nothing))


def by_whole_runs(fleet: Recorded, found: Sequence[Finding], whole: Case) -> Iterator[Finding]:
    """What members say of their runs that no case of their tables shows: one of which nothing was observed, or no case at all."""
    own = worst([Verdict(m.verdict) for m in fleet.answered])
    if not found or SEVERITY.index(own) < min(SEVERITY.index(f.verdict) for f in found):
        bad = [m for m in fleet.answered if m.verdict == own]
        note = f"{listed([visible(m.name) for m in bad])}: by itself {own}" + (
            f": {visible(bad[0].note)}" if bad[0].note else ""
        )
        verdict = own if own.exit_code else Verdict.INCONCLUSIVE
        yield Finding(
            whole, verdict, note if found else f"no case was observed; {note}", samples=len(fleet.answered), missing=len(fleet.missing),
            distinct=1, distinct_bits=1, evidence=evidence(fleet, [], None),
        )  # fmt: skip


def grouped(fleet: Recorded) -> dict[Case, list[Group]]:
    """Who has the same of each case, the largest group first."""
    holders: dict[str, list[FleetMember]] = {}
    for member in fleet.answered:
        holders.setdefault(member.table, []).append(member)
    found: dict[Case, dict[str, Group]] = {}
    for digest, members in holders.items():
        for case, one in fleet.cases[digest].items():
            group = found.setdefault(case, {}).setdefault(one.signature, Group([], digest, one.tokens, one.own))
            group.members += members
            group.own = worst([group.own, one.own])
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


def judged(fleet: Recorded, case: Case, groups: Sequence[Group]) -> Finding:
    most, *others = groups
    first = known_of(fleet, most, case)
    for group in others:
        compare(fleet, case, first, most, group, told=sum(g.kind is Standing.DIFFERS for g in groups) < MOST_TOLD)
    differ = [g for g in others if g.kind is Standing.DIFFERS]
    verdicts = [group.own for group in groups]
    doubts = list(doubts_about(fleet, groups))
    if not differ:
        doubts += [f"the weights are not the same, {one}" for one in fleet.other_weights]
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
    tokens = {group.tokens for group in groups if group.kind in (Standing.MOST, Standing.DIFFERS)}
    return Finding(
        Case(FLEET, case.subject, case.kernels, case.dtype, case.input, case.replica),
        verdict,
        "; ".join(said),
        samples=len(fleet.answered),
        missing=len(fleet.missing),
        distinct=len(tokens),
        distinct_bits=1 + len(differ),
        mode_count=len(most.members),
        evidence=evidence(fleet, groups, first) | {"not_tried": not_tried_by_some(fleet, case)},
    )


def not_tried_by_some(fleet: Recorded, case: Case) -> list[str]:
    """Conditions that some members met and others did not, of those of which all are known."""
    found = [fleet.cases[m.table][case].conditions for m in distinct(fleet.answered) if case in fleet.cases[m.table]]
    known = {one for one in found if one is not None}
    return sorted(frozenset().union(*known) - frozenset.intersection(*known)) if known else []


def known_of(fleet: Recorded, group: Group, case: Case) -> Known | None:
    table = fleet.table(group.table)
    return next((one for one in table.cases if one.case == case), None)


def compare(fleet: Recorded, case: Case, first: Known, most: Group, group: Group, told: bool) -> None:
    """Says of a group how it stands to the largest, and if `told`, where it parts and what is different about it."""
    other = known_of(fleet, group, case)
    group.kind, group.where = stands(first, other)
    asked, here = question(fleet.table(most.table)), question(fleet.table(group.table))
    if other and other.outcomes and asked != here:
        apart = causes.apart([here], [asked])
        group.kind, group.where = Standing.OTHERWISE, f"it was asked something else: {'; '.join(map(visible, apart))}"
    if group.kind is Standing.DIFFERS:
        group.where = where(first, other, fleet.outcomes) if told else ""
        if told:
            known = all(fleet.recorded(m) for m in (*group.members, *most.members))
            around = fleet if known else replace(fleet, environments={})
            group.apart = causes.apart(*([around.facts(m) for m in distinct(side.members)] for side in (group, most)))


def distinct(members: Sequence[FleetMember]) -> list[FleetMember]:
    """One of each environment and table."""
    return list({(m.environment, m.table): m for m in members}.values())


def evidence(fleet: Recorded, groups: Sequence[Group], first: Known | None) -> dict[str, object]:
    every = [fleet.facts(m) for m in distinct(fleet.answered) if fleet.recorded(m)]
    return {
        **({"compared": first.compared} if first and first.compared else {}),
        "unit": first.unit if first and first.unit else "token",
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
