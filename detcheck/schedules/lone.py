"""Conditions of the prompt alone that must be asked for by name, since each costs more than a batch or is about more than batches.

`prefill`: what a lone sample made token by token is computed once more in one forward pass. `fresh`: a lone sample of a process that was started
for it. `chunked-1-tokens-16`: the prompt fed in chunks of 16 tokens, where we form the batches. Neighbours there are none, so the control is `alone`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from detcheck.condition_name import ConditionKind, ConditionName, kind_of
from detcheck.records import NotTried, Schedule, Step, Traffic
from detcheck.schedules.wanted import Wanted

FED = {ConditionKind.PREFILL: "prefill", ConditionKind.FRESH: "process"}
KINDS = tuple(FED)  # the last ends an engine that runs beside us, so that it comes last
BY_NAME = "by name alone, with --conditions"


def of_these(name: str) -> bool:
    return kind_of(name) in KINDS


def of_step(step: Step) -> bool:
    """Whether it is one of these; `chunked` is where the engine does not cut prompts itself."""
    return of_these(step.condition) or (kind_of(step.condition) == ConditionKind.CHUNKED and step.traffic is None)


def chunk(condition: str) -> int | None:
    """Tokens of a chunk in which a lone prompt is fed: chunked-1-tokens-16. None: it is another condition."""
    made = ConditionName.parse(condition)
    return made.tokens if made.kind == ConditionKind.CHUNKED and made.size == 1 and made.tokens else None


def fed(condition: str) -> str:
    """`Condition.fed` of it; "" where it is none of these."""
    return "chunk" if chunk(condition) else FED.get(kind_of(condition), "")


def asked(wanted: Wanted, arriving: bool) -> list[str]:
    """Those that are asked for. `arriving`: the engine forms its batches itself, and cuts prompts as it is told elsewhere."""
    names = wanted.conditions or ()
    return [name for name in names if not arriving and chunk(name)] + [name for name in KINDS if name in names]


def rest(wanted: Wanted, arriving: bool) -> Wanted:
    """What is wanted without these. A probe that does not have them leaves them where they are, to be refused."""
    if wanted.conditions is None or not wanted.lone:
        return wanted
    own = asked(wanted, arriving)
    return replace(wanted, conditions=tuple(name for name in wanted.conditions if name not in own))


def beside(
    planned: Schedule, inputs: Mapping[str, int], wanted: Wanted, impossible: Mapping[str, str], arriving: bool
) -> Schedule:
    """The schedule with those that were asked for behind it: their samples come on top. Each is repeated as often as was asked.

    `impossible`: name -> why it cannot be had. What cannot be had is listed as not tried.
    """
    if not wanted.lone:
        return planned
    steps, not_tried = list(planned.steps), list(planned.not_tried)
    traffic = Traffic((0,), (0,)) if arriving else None
    not_tried += [] if wanted.by_name else [NotTried(kind, BY_NAME) for kind in KINDS]
    for kind in asked(wanted, arriving):
        if (tokens := chunk(kind)) and tokens >= min(inputs.values()):
            impossible = {**impossible, kind: f"the shortest prompt's {min(inputs.values())} tokens fit into one chunk"}
        if why := impossible.get(kind):
            not_tried.append(NotTried(kind, why))
        else:
            steps += [
                Step(len(steps) + trial, name, kind, trial, (0,), traffic=traffic)
                for name in inputs
                for trial in range(wanted.trials)
            ]
    steps = [replace(step, index=index) for index, step in enumerate(steps)]
    return replace(planned, steps=tuple(steps), not_tried=tuple(not_tried))
