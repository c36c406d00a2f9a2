"""What a finding on a fleet's case says: who differs, from whom, where, and what is different there. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from detcheck.fleet.groups import Group, Recorded, Standing
from detcheck.fleet.members import FleetMember
from detcheck.text import visible
from detcheck.verdict import Verdict

MOST_NAMED = 3  # members in a sentence
MOST_FACTS = 8


def difference(fleet: Recorded, most: Group, group: Group) -> str:
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
    recorded = all(fleet.recorded(m) for m in (*group.members, *most.members))
    nothing = "nothing that is recorded of its environment is different"
    why = f"different there: {visible('; '.join(facts))}{more}" if facts else nothing
    if not recorded:
        unknown = "the environment of some of them is not recorded"
        why = f"{why}; {unknown}" if facts else unknown
    return f"{who} {differ} from {from_whom}: {group.where}; {why}"


def described(fleet: Recorded, member: FleetMember) -> str:
    """Its name, with device and driver."""
    facts = fleet.environments.get(member.environment, {})
    flags = facts.get("flags") or {}
    device = str(facts.get("device", ""))
    processor = str(facts.get("processor", "")) if device == "cpu" else ""
    said = ", ".join(visible(part) for part in (device, processor, flags.get("driver", ""), member.gpu) if part)
    return visible(member.name) + (f" ({said})" if said else "")


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def by_themselves(groups: Sequence[Group]) -> Iterator[str]:
    """Members that do not pass by themselves."""
    for group in groups:
        if group.own.exit_code and group.kind is not Standing.NOTHING:
            bad = [m for m in group.members if m.verdict not in (Verdict.IDENTICAL, Verdict.CERTIFIED)]
            who = listed([visible(m.name) for m in bad or group.members])
            said = next((f": {visible(m.note)}" for m in bad if m.note and m.verdict == group.own), "")
            yield f"by {'itself' if len(bad) == 1 else 'themselves'} {who} {'is' if len(bad) == 1 else 'are'} {group.own}{said}"


def doubts_about(fleet: Recorded, groups: Sequence[Group]) -> Iterator[str]:
    """Why equal members are no pass."""
    if fleet.missing:
        yield f"{len(fleet.missing)} of {len(fleet.asked)} missing: {listed_missing(fleet)}"
    if len(fleet.answered) == 1:
        yield "there is one answer, and nothing to compare it with"
    for group in groups[1:]:
        if group.kind in (Standing.OTHERWISE, Standing.NOTHING):
            yield f"{listed([visible(m.name) for m in group.members])}: {group.where}"
        if group.kind is Standing.VARIES:
            who = listed([visible(m.name) for m in group.members])
            yield f"whether {who} differs from the others is undetermined, since bits vary within a member"


def listed_missing(fleet: Recorded) -> str:
    why = Counter(reason for _, reason in fleet.missing)
    if len(fleet.missing) > MOST_NAMED and len(why) == 1:
        return f"{listed([visible(name) for name, _ in fleet.missing])}: {visible(next(iter(why)))}"
    said = [f"{visible(name)}: {visible(reason)}" for name, reason in fleet.missing]
    return "; ".join(said[:MOST_NAMED]) + (f"; and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else "")
