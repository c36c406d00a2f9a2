"""A conversation's turns: the rows of the next one, and the answers of one sample as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from detcheck.condition_name import kind_of
from detcheck.engine import Completion, Row, Sample
from detcheck.hashes import content_hash
from detcheck.outcomes import joined

OF_THE_FIRST = ("chunked", "cached")  # conditions that are about how the first turn's prompt is computed


def answered(row: Row, completion: Completion, tail: Sequence[int]) -> Row:
    """The sample's next prompt: its history, its answer without the end token, which the template writes, and `tail`."""
    made = completion.tokens[:-1] if completion.finish_reason == "stop" else completion.tokens
    return replace(row, prompt=(*row.prompt, *made, *tail))


def filled(row: Row, made_up: Callable[[int], Sequence[int]], tail: int) -> Row:
    """A filler's next prompt: its history, `tail` made-up tokens, and as many to feed behind it as before."""
    made = made_up(tail + len(row.continuation))
    prompt = (*row.prompt, *row.continuation, *made[:tail])
    return replace(row, prompt=prompt, continuation=tuple(made[tail:]))


def whole(turns: Sequence[Sample], asked: int, missing: str) -> Sample:
    """What came of one sample. `turns`: those that were asked for, of `asked` in all; `missing`: why there are no more of them.

    Its condition is that of its first turn, with the trace of all of them: what it is asked later follows from what it answered. Where a turn
    was not under a condition that is known, the whole is not.
    """
    came = [turn.outcome for turn in turns if turn.outcome]
    broken = next((turn.missing for turn in turns if not turn.outcome), missing)
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


def no_room(longest: int, max_tokens: int, name: str, context: int) -> str:
    """Why a turn cannot be asked for; "" where it can."""
    if longest + max_tokens <= context:
        return ""
    return (
        f"the context is full: with --max-tokens {max_tokens} the history of {longest} tokens needs {longest + max_tokens}, and {name} holds "
        f"{context}. Ask for fewer tokens or turns"
    )
