"""Two files of the same requests: does another system give the same? Pure.

Both files are asked about at once: all samples of a request, of both, have one outcome, or they differ. Which samples shared a batch
need not be known for that. A request that only one file has is compared with nothing, so it is no pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from detcheck.finding import Finding
from detcheck.judge.tally import Tally
from detcheck.verdict import Verdict

MOST_NAMED = 20  # requests in a warning


def seen(tally: Tally, sides: Sequence[str]) -> dict[str, object]:
    """Evidence: of each file how many samples of the request came and how many distinct ones; and the files that do not have it."""
    said = {side: answers(tally, place) for place, side in enumerate(sides)}
    shared = set.intersection(*(set(found) for found in said.values()))
    return {
        "sides": {side: {"samples": n.total(), "distinct_bits": len(n)} for side, n in said.items()},
        "absent_in": [side for place, side in enumerate(sides) if place not in tally.by_process],
        "shared": len(shared),
    }


def answers(tally: Tally, place: int) -> Counter[str]:
    """Outcome -> samples of it in that file."""
    return sum(tally.by_process.get(place, {}).values(), Counter())


def why_they_differ(finding: Finding, tally: Tally) -> tuple[Verdict, str]:
    """The verdict on unequal samples of one request."""
    sides, absent = finding.evidence["sides"], finding.evidence["absent_in"]
    there = {side: n for side, n in sides.items() if n["samples"]}
    steady = [side for side, n in there.items() if n["distinct_bits"] == 1]
    names = " and ".join(there)
    if len(there) == len(steady):
        again = ", though each repeats itself" if all(n["samples"] > 1 for n in there.values()) else ""
        note = f"{names} differ{again}"
    else:
        said = [
            f"{side} gives {many(n['distinct_bits'], 'answer')} in {many(n['samples'], 'sample')}"
            for side, n in there.items()
        ]
        shared = f"; they share {finding.evidence['shared'] or 'none'}" if len(there) > 1 else ""
        note = f"{', and '.join(said)}{shared}"
    if absent:
        note += f"; {' and '.join(absent)} does not have this request"
    if finding.evidence["arms"]["repeat"]:
        return Verdict.RUN_VARIANT, f"equal conditions gave different bits within one file; {note}"
    return Verdict.DIVERGENT, note


def many(number: int, word: str) -> str:
    return f"{number} {word}" + "s" * (number != 1)


def doubts(finding: Finding) -> Iterator[str]:
    """Why equal samples are no pass."""
    for side in finding.evidence.get("absent_in", ()):
        yield f"{side} does not have this request"


def of_both(sides: Sequence[str]) -> str:
    return f", of {' and '.join(sides)}," if sides else ""


def unpaired(findings: Sequence[Finding], prompts: Mapping[str, str]) -> Iterator[str]:
    """Names the requests that one file does not have. `prompts`: how those begin whose name says little."""
    absent: dict[str, list[str]] = {}
    for finding in findings:
        for side in finding.evidence.get("absent_in", ()):
            name = finding.case.input
            absent.setdefault(side, []).append(f"{name} ({prompts[name]!r})" if name in prompts else name)
    for side, names in absent.items():
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        yield f"{side} does not have {len(names)} of {len(findings)} requests: {', '.join(names[:MOST_NAMED])}{more}"
