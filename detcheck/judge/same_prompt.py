"""A prompt that was given more than once: each place is a case of its own, and all must give the same under equal conditions. Pure.

Whatever changes while a run goes on (a model that is swapped, a cache that fills) is seen here, even where it changes between two prompts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from detcheck.condition_name import ConditionKind
from detcheck.finding import Finding
from detcheck.judge.level import level, unit
from detcheck.judge.paired import listed
from detcheck.judge.statistics import describe
from detcheck.judge.tally import Tally
from detcheck.records import Case, Condition, Outcome, Prompt
from detcheck.verdict import Role, Verdict

PLACE = re.compile(r"(?P<index>\d+):(?P<prompt>[0-9a-f]{8}.*)")


def against_each_other(
    tallies: Mapping[Case, Tally],
    outcomes: Mapping[str, Outcome],
    roles: Mapping[Case, Role],
    prompts: Sequence[Prompt],
) -> Iterator[Finding]:
    """A finding for each of `prompts` whose places differ; those that are equal need none."""
    known = {prompt.name: prompt for prompt in prompts}
    groups: dict[tuple[Case, object], list[Case]] = defaultdict(list)
    for case in tallies:
        named = PLACE.fullmatch(case.input)
        if named and case.input in known:
            groups[replace(case, input=named["prompt"]), content(known[case.input])].append(case)
    for group in groups.values():
        shared = repeated({case: tallies[case] for case in group})
        if apart := [condition for condition, found in shared.items() if len(found) > 1]:
            yield differing(group, shared, apart, outcomes, roles.get(group[0], Role.GATES))


def content(prompt: Prompt) -> tuple[object, ...]:
    """What it is, beside its name: that holds eight digits of a hash, which two prompts may have in common."""
    return prompt.token_ids or prompt.text, prompt.later, prompt.seed


def repeated(tallies: Mapping[Case, Tally]) -> dict[Condition, Counter[str]]:
    """Conditions known in full that several places had, and in which each of them gave one outcome: a place that differs by itself has its own finding."""
    found: dict[Condition, list[Counter[str]]] = defaultdict(list)
    for tally in tallies.values():
        for condition, outcomes in tally.conditions.items():
            if condition.complete and condition.name != ConditionKind.COLD:  # cold is the first of them alone
                found[condition].append(outcomes)
    return {
        condition: sum(places, Counter())
        for condition, places in found.items()
        if len(places) > 1 and all(len(outcomes) == 1 for outcomes in places)
    }


def differing(
    group: Sequence[Case],
    shared: Mapping[Condition, Counter[str]],
    apart: Sequence[Condition],
    outcomes: Mapping[str, Outcome],
    role: Role,
) -> Finding:
    places = listed([PLACE.fullmatch(case.input)["index"] for case in group])
    case = replace(group[0], subject=f"{group[0].subject}, prompts {places} against each other")
    counts = sum(shared.values(), Counter())
    note = (
        f"prompts {places} are the same prompt, and equal conditions gave it different bits (in {len(apart)} of {len(shared)}, first in {apart[0].name}): "
        "something changed while the run went on"
    )
    evidence = {
        "batches": None,
        "batch_sizes": {},
        "conditions": {},
        "compared": level(outcomes[o] for o in counts),
        "unit": unit(outcomes[o] for o in counts),
    }
    draft = describe(case, counts, Counter(), outcomes)
    return replace(draft, verdict=Verdict.RUN_VARIANT, note=note, evidence=evidence, role=role)
