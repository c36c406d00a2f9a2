"""`adapters-N`: a prompt beside neighbours that have another adapter, and as its control the same rows with the prompt's own.

Tokens, lengths and places are equal in the two: all that differs is which adapter the neighbours have.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from detcheck.condition_name import ConditionKind, ConditionName, named
from detcheck.errors import UsageError
from detcheck.records import NotTried, Schedule, Step, Traffic
from detcheck.schedules.batches import Plan, compose
from detcheck.schedules.wanted import Wanted

KIND = ConditionKind.ADAPTERS
SIZES = (4, 16)  # a few neighbours, and several of each adapter
SHARE = 4  # rows a sample: most of them are neighbours


def of_this(name: str) -> bool:
    return ConditionName.parse(name).kind == KIND


def check(wanted: Wanted) -> None:
    """Raises UsageError where the condition and the adapters for it are not asked for together."""
    chosen = [name for name in wanted.conditions or () if of_this(name)]
    if chosen and not wanted.others:
        raise UsageError(
            f"--conditions {chosen[0]} is about neighbours with another adapter: add --other-adapter FOLDER"
        )
    if wanted.others and wanted.conditions is not None and not chosen:
        raise UsageError(
            "--other-adapter is about neighbours with another adapter, and --conditions leaves them out: add adapters to it"
        )
    if wanted.others and not sizes(wanted):
        raise UsageError(f"{KIND}-N has a prompt and a neighbour at least: ask for a size of 2 or more")


def rest(wanted: Wanted) -> Wanted:
    """What is wanted without this condition."""
    if wanted.conditions is None:
        return wanted
    return replace(wanted, conditions=tuple(name for name in wanted.conditions if not of_this(name)))


def sizes(wanted: Wanted) -> tuple[int, ...]:
    """Rows of each batch of the condition."""
    chosen = [ConditionName.parse(name).size for name in wanted.conditions or () if of_this(name)]
    usual = SIZES if wanted.sizes is None else wanted.sizes
    found = {size for size in chosen if size} | set(usual if None in chosen or wanted.conditions is None else ())
    return tuple(sorted(size for size in found if size > 1))


def beside(
    planned: Schedule, inputs: Mapping[str, int], wanted: Wanted, control: str, impossible: Callable[[Plan], str]
) -> Schedule:
    """The schedule with these batches behind it: their samples come on top of those that were asked for.

    `control`: the kind of condition that their controls are; an engine that forms its batches itself has waves.
    Raises UsageError where sizes were asked for and cannot be had.
    """
    if not wanted.others:
        return planned
    steps, not_tried = list(planned.steps), list(planned.not_tried)
    for size in sizes(wanted):
        plan = Plan(named(control, size), size, False, wanted.trials, max(1, size // SHARE))
        if why := impossible(plan):
            if wanted.by_name:
                raise UsageError(f"cannot have {KIND}-{size}: {why}")
            not_tried.append(NotTried(named(KIND, size), why))
            continue
        for name, length in inputs.items():
            rows = compose(plan, length, length, random.Random(f"{wanted.seed}/{named(KIND, size)}"))
            traffic = None if control == ConditionKind.BATCH else Traffic((0,) * size, (0,) * size, None, False)
            for condition in (plan.name, named(KIND, size)):
                steps += [Step(len(steps) + t, name, condition, t, rows, traffic=traffic) for t in range(plan.trials)]
    tried = {step.condition for step in steps}
    left = tuple(one for one in not_tried if one.what not in tried)
    return replace(planned, steps=tuple(steps), not_tried=left)
