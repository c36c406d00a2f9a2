"""Conditions of the prompt alone that must be asked for by name, since each costs more than a batch or is about more than batches.

`prefill`: what a lone sample made token by token is computed once more in one forward pass. `fresh`: a lone sample of a process that was started
for it. Neighbours there are none, so the control is `alone`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from detcheck.condition_name import ConditionKind, kind_of
from detcheck.records import NotTried, Schedule, Step, Traffic
from detcheck.schedules.wanted import Wanted

FED = {ConditionKind.PREFILL: "prefill", ConditionKind.FRESH: "process"}
KINDS = tuple(FED)  # the last ends an engine that runs beside us, so that it comes last
BY_NAME = "by name alone, with --conditions"


def of_these(name: str) -> bool:
    return kind_of(name) in KINDS


def fed(condition: str) -> str:
    """`Condition.fed` of it; "" where it is none of these."""
    return FED.get(kind_of(condition), "")


def rest(wanted: Wanted) -> Wanted:
    """What is wanted without these. A probe that does not have them leaves them where they are, to be refused."""
    if wanted.conditions is None or not wanted.lone:
        return wanted
    return replace(wanted, conditions=tuple(name for name in wanted.conditions if name not in KINDS))


def beside(
    planned: Schedule, inputs: Mapping[str, int], wanted: Wanted, impossible: Mapping[str, str], arriving: bool
) -> Schedule:
    """The schedule with those that were asked for behind it: their samples come on top. Each is repeated as often as was asked.

    `impossible`: kind -> why it cannot be had; `arriving`: the engine forms its batches itself. What cannot be had is listed as not tried.
    """
    if not wanted.lone:
        return planned
    steps, not_tried = list(planned.steps), list(planned.not_tried)
    traffic = Traffic((0,), (0,)) if arriving else None
    for kind in KINDS:
        if kind not in (wanted.conditions or ()):
            not_tried += [] if wanted.by_name else [NotTried(kind, BY_NAME)]
        elif why := impossible.get(kind):
            not_tried.append(NotTried(kind, why))
        else:
            steps += [
                Step(len(steps) + trial, name, kind, trial, (0,), traffic=traffic)
                for name in inputs
                for trial in range(wanted.trials)
            ]
    steps = [replace(step, index=index) for index, step in enumerate(steps)]
    return replace(planned, steps=tuple(steps), not_tried=tuple(not_tried))
