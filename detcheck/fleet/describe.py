"""What reports say of a case that a fleet was asked: who has which result, and what to do about those that differ. Pure."""

from __future__ import annotations

from detcheck.blocks import Block, Facts, Table, Text
from detcheck.finding import Finding
from detcheck.text import visible
from detcheck.verdict import Verdict

SHOWN_GROUPS = 12
SHOWN_FACTS = 8
STANDS = {
    "most": "what most have",
    "differs": "differs",
    "varies": "varies within a member",
    "otherwise": "asked or compared otherwise",
    "nothing": "no sample",
}
SIDES = {2: "two", 3: "three"}
ADVICE = {
    Verdict.DIVERGENT: "Ask a member that differs and one of the others by itself, with the same command but for `fleet` and the fleet's own options, and put "
    "their two runs side by side with `detcheck compare`; the tables of this fleet are in its folder. Where nothing recorded is different, suspect the hardware.",
    Verdict.INCONCLUSIVE: "This is not a pass: ask again when all members can answer.",
    Verdict.FAILED: "Nothing was observed: ask one of them by itself, with the same command but for `fleet` and the fleet's own options.",
}


def describe(finding: Finding) -> tuple[Block, ...]:
    found = finding.evidence
    asked, answered = found["members"]["asked"], found["members"]["answered"]
    facts = [f"{answered} of {asked} members answered; {finding.distinct_bits if answered else 0} distinct results"]
    if names := found["unlike"]:
        more = f" and {len(names) - SHOWN_FACTS} more" if len(names) > SHOWN_FACTS else ""
        facts.append(f"not the same on all members: {visible(', '.join(names[:SHOWN_FACTS]))}{more}")
    blocks: list[Block] = [Facts(tuple(facts))]
    groups = found["groups"]
    if names := found.get("not_tried"):
        more = f" and {len(names) - SHOWN_FACTS} more" if len(names) > SHOWN_FACTS else ""
        blocks.append(
            Facts((f"conditions that only some members met: {visible(', '.join(names[:SHOWN_FACTS]))}{more}",))
        )
    sides = sum(g["stands"] in ("most", "differs") and g["members"] == groups[0]["members"] for g in groups)
    largest = STANDS["most"] if sides < 2 else f"one of {SIDES.get(sides, sides)} sides of the same size"
    if len(groups) > 1:
        lines = [("members", "result", "by themselves", "who")]
        for group in groups[:SHOWN_GROUPS]:
            others = group["members"] - len(group["first"])
            who = ", ".join(group["first"]) + (f" and {others} more" if others else "")
            one_of = group["stands"] in ("most", "differs") and group["members"] == groups[0]["members"]
            lines.append(
                (str(group["members"]), largest if one_of else STANDS[group["stands"]], group["verdict"], visible(who))
            )
        left = len(groups) - SHOWN_GROUPS
        notes = (f"... and {left} more results; report.json has all",) if left > 0 else ()
        blocks.append(Table("Members", tuple(lines), notes=notes))
    if advice := ADVICE.get(finding.verdict):
        blocks.append(Text((advice,)))
    return tuple(blocks)
