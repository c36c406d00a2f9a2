"""A prompt that is drawn with several seeds: do these give different tokens? If not, nothing was drawn, and equal bits say nothing of it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from detcheck import sampling
from detcheck.finding import Finding
from detcheck.judge.tally import Tally
from detcheck.outcomes import token_key
from detcheck.records import Case, Outcome
from detcheck.verdict import Verdict


def drawn(findings: Sequence[Finding], tallies: Mapping[Case, Tally], outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """The findings, with `evidence["seeds"]` where tokens are drawn. One that is equal is no pass where all seeds gave the same tokens."""
    groups: dict[Case, list[Case]] = defaultdict(list)
    for case in tallies:
        prompt, seed = sampling.parted(case.input)
        if seed is not None:
            groups[replace(case, input=prompt)].append(case)
    seen = {case: of_group(group, tallies, outcomes) for group in groups.values() for case in group}
    return [of_finding(finding, seen[finding.case]) if finding.case in seen else finding for finding in findings]


def of_group(group: Sequence[Case], tallies: Mapping[Case, Tally], outcomes: Mapping[str, Outcome]) -> dict[str, int]:
    found = {case: {token_key(outcomes[o]) for n in tallies[case].conditions.values() for o in n} for case in group}
    return {
        "asked": len(group),
        "came": sum(map(bool, found.values())),
        "distinct": len(frozenset().union(*found.values())),
    }


def of_finding(finding: Finding, seen: Mapping[str, int]) -> Finding:
    finding = replace(finding, evidence={**finding.evidence, "seeds": dict(seen)})
    if finding.verdict is not Verdict.IDENTICAL or seen["distinct"] > 1:
        return finding
    why = (
        f"{seen['came']} seeds gave the same tokens, so nothing shows that any were drawn: ask for a higher --temperature or more --max-tokens"
        if seen["came"] > 1
        else "only one seed gave samples, so nothing shows that tokens were drawn"
    )
    return replace(finding, verdict=Verdict.INCONCLUSIVE, note=f"{why}; {finding.note}")
