"""The turns of a conversation as one sample: its answers joined, under the condition that all of them were made in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from detcheck.condition_name import kind_of
from detcheck.engine import Ran, Sample
from detcheck.hashes import content_hash
from detcheck.outcomes import joined

OF_THE_FIRST = ("chunked", "cached")  # conditions that are about how the first turn's prompt is computed


def whole(turns: Sequence[Sample], asked: int, missing: str) -> Sample:
    """What came of one sample. `turns`: those that were asked for, of `asked` in all; `missing`: why there are no more of them.

    Its condition is that of its first turn, with the trace of all of them: what it is asked later follows from what it answered. Where a turn
    was not under a condition that is known, the whole is not.
    """
    came = [turn.outcome for turn in turns if turn.outcome]
    broken = next((turn.missing for turn in turns if not turn.outcome), missing)
    if len(came) < asked and not broken:  # Ctrl-C at a server, between two turns
        broken = "interrupted"
    condition = next((t.condition for t in turns if not t.condition.complete), turns[0].condition)
    if condition.trace:
        condition = replace(condition, trace=content_hash(*(t.condition.trace.encode() for t in turns))[:16])
    if any(turn.condition.fed for turn in turns):
        condition = replace(condition, fed=next(turn.condition.fed for turn in turns if turn.condition.fed))
    formed = [turn.as_asked for turn in turns[: 1 if kind_of(condition.name) in OF_THE_FIRST else None]]
    return Sample(
        condition,
        joined(came) if came else None,
        f"turn {len(came) + 1} of {asked}: {broken}" if broken else "",
        tuple(sorted({size for turn in turns for size in turn.batch_sizes})),
        False if False in formed else None if None in formed else True,
        sum(turn.preemptions for turn in turns),
        tuple(prompt for turn in turns for prompt in turn.turns),
    )


def together(turns: Sequence[Ran], asked: int, why: str) -> Ran:
    """A conversation's turns as one step. `why`: there are no more of them, where fewer than `asked` came."""
    if asked == 1:
        only = turns[0]
        return replace(only, samples=tuple(replace(sample, turns=()) for sample in only.samples))
    samples = tuple(whole(of_one, asked, why) for of_one in zip(*(ran.samples for ran in turns), strict=True))
    calls: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for ran in turns:
        calls.update(dict(ran.calls))
        counts.update(dict(ran.metrics))
    steps = tuple(step for ran in turns for step in ran.steps)
    return Ran(samples, tuple(calls.items()), steps, tuple(counts.items()))
