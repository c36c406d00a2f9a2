"""What a chat template writes between the answers of a conversation, so that these can be fed back as they were made. Pure.

An answer is never written out and cut into tokens again: tokens are appended to tokens. Each answer is stood in for by a mark, and what
the template puts behind the mark follows the answer's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

MARK = "detcheckanswer{}end"  # letters and a number, which no template cuts or changes


class LostAnswerError(Exception):
    """The template leaves an earlier answer out. `turn`: where that is seen."""

    def __init__(self, turn: int) -> None:
        super().__init__(turn)
        self.turn = turn


def between(
    render: Callable[[Sequence[Mapping[str, str]]], str],
    first: Sequence[Mapping[str, str]],
    later: Sequence[Sequence[Mapping[str, str]]],
) -> list[str]:
    """What follows each answer but the last: the end of its message, the scripted ones, the beginning of the next answer.

    `render`: messages -> the template's text, the beginning of an answer at its end. Raises LostAnswerError.
    """
    found, messages = [], list(first)
    for place, group in enumerate(later):
        mark = MARK.format(place + 1)
        messages += [{"role": "assistant", "content": mark}, *group]
        _, there, behind = render(messages).rpartition(mark)
        if not there:
            raise LostAnswerError(place + 2)
        found.append(behind)
    return found
