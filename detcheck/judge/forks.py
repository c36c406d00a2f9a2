"""The prefix tree of the distinct completions: where they part, into what, and how many go each way. Pure, no torch."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detcheck.bits import first_difference
from detcheck.finding import Branch, Fork
from detcheck.outcomes import turn_at
from detcheck.records import Outcome

CONTINUATION = 48  # characters of text shown behind a fork
WORD = 24  # characters to go back at most, so that the shown text starts with a whole word


@dataclass(frozen=True)
class TokenSequence:
    """A distinct token sequence: how often it came, and the commonest outcome that has it."""

    tokens: np.ndarray
    count: int
    outcome: Outcome

    @property
    def key(self) -> bytes:
        """Sorts like the tokens themselves, a prefix before what it begins."""
        return self.tokens.astype(">i8").tobytes()


def find_forks(sequences: Sequence[TokenSequence]) -> tuple[Fork, ...]:
    """All forks, parents before children, widest first among the children of one parent."""
    ordered = sorted(sequences, key=lambda s: s.key)
    # In sorted order the sequences below one node are neighbours, and they part at the least prefix that neighbours share.
    shared = np.asarray([first_difference(a.tokens, b.tokens) for a, b in itertools.pairwise(ordered)], dtype=np.int64)
    forks: list[Fork] = []
    todo: list[tuple[int, int, int | None, int | None]] = [(0, len(ordered), None, None)]
    while todo:
        low, high, parent, parent_branch = todo.pop()
        if high - low < 2:
            continue
        index = int(shared[low : high - 1].min())
        starts = [low, *(low + 1 + np.flatnonzero(shared[low : high - 1] == index)).tolist(), high]
        groups = list(itertools.pairwise(starts))
        groups.sort(key=lambda g: (-sum(s.count for s in ordered[g[0] : g[1]]), g[0]))
        leaders = [max(ordered[a:b], key=lambda s: s.count) for a, b in groups]
        texts = continuations([leader.outcome.text for leader in leaders])
        branches = tuple(
            branch(sum(s.count for s in ordered[a:b]), leader.outcome, index, text)
            for (a, b), leader, text in zip(groups, leaders, texts, strict=True)
        )
        talks = [leader.outcome for leader in leaders if leader.outcome.turns is not None]
        place = min(
            (turn_at(one, index) for one in talks), default=None
        )  # an answer that has ended goes on in the next turn
        forks.append(Fork(len(forks), parent, parent_branch, index, branches, place))
        todo += [(a, b, forks[-1].id, n) for n, (a, b) in reversed(list(enumerate(groups)))]
    return tuple(forks)


def branch(count: int, outcome: Outcome, index: int, text: str) -> Branch:
    if index >= len(outcome.tokens):
        return Branch(count, None, "", None)
    token = outcome.words[index] if outcome.words is not None else int(outcome.tokens[index])
    known = outcome.margins is not None and index < len(outcome.margins)  # an engine may leave some out
    margin = float(outcome.margins[index]) if known else math.nan
    return Branch(count, token, text, None if math.isnan(margin) else margin)


def continuations(texts: Sequence[str]) -> list[str]:
    """How each text goes on from where they part, starting with a whole word."""
    back, cut = last_space(texts)
    start = back + 1 if back >= 0 else cut
    return [shorten(text[start:]) for text in texts]


def words_apart(one: str, other: str) -> tuple[str, str]:
    """The first word that differs in each, with the space before it: (" New", " Queens,")."""
    back, cut = last_space((one, other))
    found = (re.match(r"\s*\S*", text[back if back >= 0 else cut :])[0][:WORD] for text in (one, other))
    return tuple(found)


def last_space(texts: Sequence[str]) -> tuple[int, int]:
    """(index of the last space before they part, -1 where there is none near; index at which they part)"""
    first, last = min(texts), max(texts)
    cut = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return max(first.rfind(space, max(0, cut - WORD), cut) for space in " \n\t"), cut


def shorten(text: str) -> str:
    """Cut at a word where it is long."""
    if len(text) <= CONTINUATION:
        return text
    cut = text.rfind(" ", CONTINUATION - WORD, CONTINUATION)
    return text[: cut if cut > 0 else CONTINUATION] + " ..."
