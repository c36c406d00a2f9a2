"""Which batches to form: a pure, seeded function of what was asked.

Kernels change their reduction order at certain numbers of rows, so the schedule crosses those thresholds, small sizes first.
Every condition is repeated as often as was asked (twice by default), one repetition after the other: without a repeat,
run-to-run noise cannot be distinguished from the batch. Large batches are made up of fillers, so that a few samples suffice to try them; the more samples are asked
for, the more of the rows are samples.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from detcheck.condition_name import ConditionName, kind_of, named
from detcheck.errors import UsageError
from detcheck.records import FIRST_AGAIN, NotTried, Schedule, Step
from detcheck.schedules.wanted import Wanted
from detcheck.schedules.widths import EDGES, edges

THRESHOLDS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 127, 128, 129, 255, 256, 257)
RAGGED = (4, 8, 16, 32, 64, 128)  # sizes tried also with neighbours of other lengths; small ones suffice for padding
ROWS_PER_SAMPLE = (
    4  # rows that the default schedule may compute for each sample asked for, so that fillers stay affordable
)


@dataclass
class Plan:
    """A condition while the schedule is being fitted."""

    name: str
    size: int
    ragged: bool
    trials: int
    samples: int = 1
    """samples in each of its batches"""
    neighbours: int = 2
    """rows of a ragged batch that are fillers, at least: one at either end"""
    edge: int | None = None
    """to which of the prompt's `edges` it is padded, where there is room; None: to none"""

    @property
    def room(self) -> int:
        """Samples its batch can hold."""
        return max(1, self.size - self.neighbours) if self.ragged else self.size


def conditions(sizes: tuple[int, ...], ragged: tuple[int, ...], trials: int) -> list[Plan]:
    plans = []
    for size in sorted(set(sizes)):
        plans.append(Plan("alone" if size == 1 else named("batch", size), size, False, trials))
        if size in ragged and size >= 2:
            plans.append(Plan(named("ragged", size), size, True, trials))
    return plans


def with_edges(plans: Sequence[Plan], trials: int) -> list[Plan]:
    """Each ragged batch as wide as one of the edges, and behind it the prompt alone, padded as much; edges that are left come last."""
    found, left = [], list(range(EDGES))
    for plan in plans:
        found.append(plan)
        if plan.ragged and left:
            plan.edge = left.pop(0)
            found.append(Plan("padded", 1, False, trials, edge=plan.edge))
    return found + [Plan("padded", 1, False, trials, edge=edge) for edge in left]


def fit(
    wanted: Wanted, max_rows: int, ragged: bool = True, padded: Collection[int] | None = range(EDGES)
) -> tuple[list[Plan], list[NotTried]]:
    """Conditions with trials and samples so that the samples come out exactly, and what was left out.

    `ragged`: whether the context has room for neighbours longer than the prompt; `padded`: to which edges the prompt may be padded
    alone, None: it is not to be. Raises UsageError where sizes were asked for by name and cannot be had.
    """
    samples, trials, sizes, chosen = wanted.samples, wanted.trials, wanted.sizes, wanted.conditions
    asked = sizes is not None
    candidates = conditions(sizes or THRESHOLDS, sizes or RAGGED, trials)
    if padded is not None:
        candidates = with_edges(candidates, trials)
    if chosen is not None:
        known = {plan.name for plan in candidates} | {kind_of(plan.name) for plan in candidates}
        if unknown := [name for name in chosen if name not in known]:
            raise UsageError(
                f"--conditions {unknown[0]}: there is no such condition with --engine transformers. Use alone, batch, ragged, padded, "
                "prefill, fresh, chunked-1-tokens-16, or one with its size, like batch-8 (other sizes with --batch-sizes)"
            )
        candidates = [plan for plan in candidates if plan.name in chosen or kind_of(plan.name) in chosen]
    elif asked:
        candidates = [plan for plan in candidates if plan.name != "padded"]
    plans: list[Plan] = []
    not_tried: list[NotTried] = []
    no_room: list[NotTried] = []
    rows_left = ROWS_PER_SAMPLE * samples
    for plan in candidates:
        if plan.ragged and not ragged:
            no_room.append(NotTried(plan.name, "the context has no room for neighbours longer than the prompt"))
        elif plan.name == "padded" and plan.edge not in (padded or ()):
            no_room.append(NotTried(plan.name, "the context has no room for a wider row"))
        elif why := too_large(plan, max_rows):
            not_tried.append(NotTried(plan.name, why))
        elif not asked and (len(plans) + 1) * trials > samples:
            not_tried.append(NotTried(plan.name, f"{samples} samples are used up"))
        elif not asked and plan.size * trials > rows_left:
            not_tried.append(NotTried(plan.name, f"would cost more than {ROWS_PER_SAMPLE} rows a sample"))
        else:
            plans.append(plan)
            rows_left -= plan.size * trials
    if asked and not_tried:
        raise UsageError(
            f"--batch-sizes: cannot form {'; '.join(map(str, not_tried))}. Ask for smaller sizes, or fewer --max-tokens"
        )
    if asked and len(plans) * trials > samples:
        raise UsageError(
            f"--batch-sizes: {len(plans)} conditions repeated {trials} times need at least {len(plans) * trials} samples; "
            f"got --samples {samples}. Ask for more samples or fewer sizes"
        )
    if not plans:  # fewer samples than trials: nothing can be repeated, and the judge will say so
        return [Plan("alone", 1, False, samples)], not_tried + no_room
    spread(plans, samples - len(plans) * trials)
    return plans, not_tried + no_room


def spread(plans: list[Plan], left: int) -> None:
    """Hand out the remaining samples: first instead of fillers, then as further trials."""
    grown = True
    while grown:
        grown = False
        for plan in plans:
            if plan.samples < plan.room and plan.trials <= left:
                plan.samples += 1
                left -= plan.trials
                grown = True
    smallest = min(plan.samples for plan in plans)
    while left >= smallest:
        for plan in reversed(plans):
            if plan.samples <= left:
                plan.trials += 1
                left -= plan.samples
    # What is left is less than any batch holds: further, thinner batches of the first kind, repeated as often as the others.
    first = plans[0]
    trials = min(plan.trials for plan in plans)
    while left:
        if left < trials:  # too few to repeat: borrow from a batch that holds several
            lender = min((p for p in plans if p.samples > 1), key=lambda p: p.trials)
            lender.samples -= 1
            left += lender.trials
        elif left < 2 * trials:
            plans.append(replace(first, trials=left, samples=1))
            left = 0
        else:
            share = min(first.room, left // trials)
            if share > 1 and 0 < left - share * trials < trials:
                share -= 1
            plans.append(replace(first, trials=trials, samples=share))
            left -= share * trials


def schedule(
    inputs: dict[str, int], wanted: Wanted, max_rows: int, longest: int, widest: int | None = None
) -> Schedule:
    """The steps for each input (name -> its length in tokens).

    `longest`: the most tokens that a filler's prompt may have; `widest`: that a prompt may be padded to where it is alone, None: it
    is not to be. A function of its arguments alone; `max_rows`, the engine's estimate of what memory holds, is stored with it.
    """
    ragged = all(longest > length for length in inputs.values())
    room = None if widest is None else [n for n in range(EDGES) if all(edges(i)[n] <= widest for i in inputs.values())]
    plans, not_tried = fit(wanted, max_rows, ragged, room)
    steps: list[Step] = []
    for name, length in inputs.items():
        first, late = [], []
        for plan in plans:
            width = 0 if plan.edge is None else edges(length)[plan.edge]
            padded = width - length if plan.name == "padded" else 0
            condition = named(plan.name, width) if padded else plan.name
            rows = compose(plan, length, longest, random.Random(f"{wanted.seed}/{plan.name}"), width)
            for trial in range(plan.trials):
                (late if trial >= wanted.trials else first).append((condition, trial, rows, padded))
        # Repeats beyond the asked ones come at the end, so that a drift over the run would show in them.
        steps += [
            Step(len(steps) + i, name, condition, trial, rows, padding=padded)
            for i, (condition, trial, rows, padded) in enumerate(first + late)
        ]
    return first_again_last(steps, wanted.fail_fast, not_tried, max_rows)


def first_again_last(
    steps: Sequence[Step],
    fail_fast: bool,
    not_tried: Sequence[NotTried],
    max_rows: int | None,
    conditions: Sequence[str] = (),
) -> Schedule:
    """The schedule of these steps. Of several inputs the first one's first condition is repeated last of all: what changes between two inputs shows in nothing else.

    `conditions`: the first of these that the input has is taken. Not where the run is to stop at the first divergence, since a condition that
    was met once does not tell which of the two it is, nor where nothing is repeated: that is listed as not tried then.
    """
    left_out = []
    if steps and steps[-1].input != steps[0].input:
        own = [step for step in steps if step.input == steps[0].input]
        again = min(own, key=lambda step: (*conditions, step.condition).index(step.condition)).condition
        same = [step for step in own if step.condition == again]
        if fail_fast or len(same) < 2:
            why = "--fail-fast stops at the first divergence" if fail_fast else "it is asked for once (--trials 1)"
            left_out = [NotTried(FIRST_AGAIN, f"{why}, so a change between two prompts is not seen")]
        else:
            steps = [*(s for s in steps if s is not same[-1]), same[-1]]
            steps = [replace(s, index=n) for n, s in enumerate(steps)]
    return Schedule(tuple(steps), tuple(dict.fromkeys([*not_tried, *left_out])), max_rows)


def compose(plan: Plan, length: int, longest: int, rng: random.Random, width: int = 0) -> tuple[int, ...]:
    """The rows of a batch: 0 for a sample, else a filler's length in tokens.

    Samples stand first, last and in between. In a ragged batch a longer filler comes before and a shorter one after them
    (where lengths allow), so that the samples are padded and others too; `width`: how long the longest is, where there is room.
    """
    inner = range(1, plan.size - 1) if plan.ragged and plan.size > 2 else range(plan.size)
    ends = [inner[0], inner[-1]] if plan.samples > 1 else [rng.choice(inner)]
    others = [slot for slot in inner if slot not in ends]
    slots = {*ends, *rng.sample(others, plan.samples - len(set(ends)))} if plan.samples > 1 else set(ends)
    rows = [0 if slot in slots else length for slot in range(plan.size)]
    if plan.ragged:
        for order, slot in enumerate(slot for slot in range(plan.size) if slot not in slots):
            longer = min(longest, length + rng.randint(1, max(1, length // 2)))
            shorter = rng.randint(max(1, length // 2), max(1, length - 1))
            rows[slot] = longer if order % 2 == 0 else shorter
        if length < width <= longest:
            rows[next(slot for slot in range(plan.size) if slot not in slots)] = width
            rows = [min(row, width) for row in rows]
    return tuple(rows)


def neighbours(condition: str) -> str:
    """What the neighbours of a condition are drawn by: those of `adapters-N` are tokens of `batch-N`."""
    made = ConditionName.parse(condition)
    return named("batch", made.size) if made.kind == "adapters" else condition


def fed(condition: str) -> str:
    """`Condition.fed` of a condition's rows."""
    return {"adapters": "adapters", "padded": "padding"}.get(kind_of(condition), "")


def too_large(plan: Plan, max_rows: int) -> str:
    """Why memory does not hold it; "" where it does."""
    return f"memory is estimated to hold {max_rows} rows" if plan.size > max_rows else ""
