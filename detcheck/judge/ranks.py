"""Several prompts that one model scores: does their order by score change with the batch? It is what a reranker is asked for. Pure, no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from detcheck.bits import floats_of
from detcheck.finding import Finding
from detcheck.judge.tally import Tally
from detcheck.records import Case, Outcome

LONE = "alone"
Scores = Mapping[str, tuple[float, float]]
"""condition -> (lowest, highest) score that a prompt had under it"""


@dataclass(frozen=True)
class Swap:
    """Two prompts that change places."""

    condition: str
    above: str
    """`Case.input` of the one that scores higher where each is alone"""
    below: str

    def __str__(self) -> str:
        return f"in {self.condition} prompt {index(self.above)} scores below prompt {index(self.below)}, which it leads where each is alone"


def index(name: str) -> str:
    return name.partition(":")[0]


def ranked(
    findings: Sequence[Finding], tallies: Mapping[Case, Tally], outcomes: Mapping[str, Outcome]
) -> list[Finding]:
    """The findings, with `evidence["order"]` where several prompts got one number each, and with its change in the note."""
    groups: dict[Case, list[Case]] = defaultdict(list)
    for case in tallies:
        groups[replace(case, input="")].append(case)
    swaps: dict[Case, list[Swap]] = {}
    counts: dict[Case, int] = {}
    for group in groups.values():
        scores = {case: scores_of(tallies[case], outcomes) for case in group}
        if len(group) > 1 and all(LONE in found for found in scores.values()):
            changed = list(changes({case.input: found for case, found in scores.items()}))
            for case in group:
                swaps[case] = [s for s in changed if case.input in (s.above, s.below)]
                counts[case] = len(group)
    return [of_finding(f, counts[f.case], swaps[f.case]) if f.case in counts else f for f in findings]


def of_finding(finding: Finding, prompts: int, swaps: Sequence[Swap]) -> Finding:
    found = [{"condition": s.condition, "above": s.above, "below": s.below} for s in swaps]
    evidence = {**finding.evidence, "order": {"prompts": prompts, "swaps": found}}
    note = f"; by score it changes places: {swaps[0]}" if swaps else ""
    return replace(finding, evidence=evidence, note=finding.note + note)


def scores_of(tally: Tally, outcomes: Mapping[str, Outcome]) -> Scores:
    """{} where a sample is not one number. Alone the commonest counts, so that it is one number too."""
    found: dict[str, list[float]] = defaultdict(list)
    for condition, samples in tally.conditions.items():
        for name in samples:
            if outcomes[name].unit != "element" or len(outcomes[name].tokens) != 1:
                return {}
        commonest = [max(samples, key=lambda o: (samples[o], o))] if condition.name == LONE else samples
        found[condition.name] += [
            float(floats_of(outcomes[name].tokens, outcomes[name].dtype)[0]) for name in commonest
        ]
    return {name: (min(values), max(values)) for name, values in found.items()}


def changes(scores: Mapping[str, Scores]) -> Iterator[Swap]:
    """Prompts of which another scores higher in some condition though it scores lower alone: each with the lowest such. A tie is no order."""
    alone = {prompt: found[LONE][0] for prompt, found in scores.items()}
    for condition in dict.fromkeys(name for found in scores.values() for name in found):
        present = sorted((p for p in scores if condition in scores[p]), key=lambda p: -alone[p])
        lowest: str | None = None  # of those that score strictly higher alone
        waiting: list[str] = []  # those that score as much alone as the prompt that is looked at
        for prompt in present:
            if waiting and alone[waiting[0]] > alone[prompt]:
                lowest = min((p for p in (lowest, *waiting) if p is not None), key=lambda p: scores[p][condition][0])
                waiting = []
            if lowest is not None and scores[lowest][condition][0] < scores[prompt][condition][1]:
                yield Swap(condition, lowest, prompt)
            waiting.append(prompt)
