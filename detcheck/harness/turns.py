"""The rows of a conversation's next turn, made of the answers to the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from detcheck.engine import Completion, Row


def answered(row: Row, completion: Completion, tail: Sequence[int]) -> Row:
    """The sample's next prompt: its history, its answer without the end token, which the template writes, and `tail`."""
    made = completion.tokens[:-1] if completion.finish_reason == "stop" else completion.tokens
    return replace(row, prompt=(*row.prompt, *made, *tail))


def filled(row: Row, made_up: Callable[[int], Sequence[int]], tail: int) -> Row:
    """A filler's next prompt: its history, `tail` made-up tokens, and as many to feed behind it as before."""
    made = made_up(tail + len(row.continuation))
    prompt = (*row.prompt, *row.continuation, *made[:tail])
    return replace(row, prompt=prompt, continuation=tuple(made[tail:]))


def no_room(longest: int, max_tokens: int, name: str, context: int) -> str:
    """Why a turn cannot be asked for; "" where it can."""
    if longest + max_tokens <= context:
        return ""
    return (
        f"the context is full: with --max-tokens {max_tokens} the history of {longest} tokens needs {longest + max_tokens}, and {name} holds "
        f"{context}. Ask for fewer tokens or turns"
    )
