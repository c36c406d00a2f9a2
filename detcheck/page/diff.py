"""Two texts, up to where they part and from there on: words that only one of them has are marked. Pure.

`page.js` does the same for any two that a reader picks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from detcheck.finding import Variant
from detcheck.text import visible

BEFORE = 200  # characters shown of what is common
WORD = 24  # to go back at most, so that what is shown starts with a whole word
WORDS = 300  # that are compared; what follows is shown as it is
Piece = tuple[str, bool]
"""(text, whether only this side has it)"""


@dataclass(frozen=True)
class Diff:
    """How two texts go on."""

    shared: int
    """characters that both begin with"""
    before: str
    """the last of these"""
    left: tuple[Piece, ...]
    right: tuple[Piece, ...]


def diff(a: str, b: str) -> Diff:
    start = whole_word(a, b)
    one, other = pieces(a[start:]), pieces(b[start:])
    found = SequenceMatcher(None, one[:WORDS], other[:WORDS], autojunk=False).get_matching_blocks()
    return Diff(
        start,
        a[max(0, start - BEFORE) : start],
        marked(one, [(m.a, m.a + m.size) for m in found]),
        marked(other, [(m.b, m.b + m.size) for m in found]),
    )


def whole_word(a: str, b: str) -> int:
    """Where the texts part, or the beginning of the word in which they do."""
    cut = common_beginning([a, b])
    back = a.rfind(" ", max(0, cut - WORD), cut)
    return back + 1 if back >= 0 and cut < max(len(a), len(b)) else cut


def common_beginning(texts: Sequence[str]) -> int:
    """Characters."""
    first, last = min(texts), max(texts)
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def pieces(text: str) -> list[str]:
    return re.findall(r"\S+|\s+", text)


def marked(words: Sequence[str], common: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
    """Neighbours of one kind are one piece."""
    both = {n for begin, end in common for n in range(begin, end)}
    found: list[Piece] = []
    for n, word in enumerate(words):
        alone = n < WORDS and n not in both and not word.isspace()
        if found and found[-1][1] == alone:
            found[-1] = (found[-1][0] + word, alone)
        else:
            found.append((word, alone))
    return tuple(found)


def shown(variants: Sequence[Variant], most: int) -> tuple[int, list[str]]:
    """(characters of the common beginning that are left out, the texts from there on, each of `most` characters at most)."""
    texts = [v.text for v in variants]
    left_out = max(0, common_beginning(texts) - BEFORE)
    cut = (text[left_out : left_out + most] + ("…" if len(text) > left_out + most else "") for text in texts)
    return left_out, [visible(text) for text in cut]


def says(variants: Sequence[Variant]) -> list[int]:
    """Of each, which of them is the first with its text, of which only a beginning may be shown."""
    texts = [v.text for v in variants]
    return [texts.index(text) for text in texts]


def part_at(a: Variant, b: Variant) -> int | None:
    """The index at which the tokens of two part, where that follows from where each leaves the most common; None: both leave it there."""
    places = {v.leaves for v in (a, b)}
    return None if len(places) == 1 else min(place for place in places if place is not None)
