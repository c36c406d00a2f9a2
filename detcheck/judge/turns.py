"""Conversations: at which turn and token the answers of samples part, and how many are still the same after each turn. Pure.

Turns count from 1, tokens of an answer from 0. A sample is compared with the most common conversation; one that broke off, in the turns that
it has. What follows a parting follows from it: the model is asked something else from then on.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from detcheck.bits import as_integers, first_difference
from detcheck.condition_name import ConditionKind, kind_of
from detcheck.outcomes import token_key
from detcheck.records import Observation, Outcome, Step

if TYPE_CHECKING:
    from detcheck.judge.tally import Tally

FORGETS = "does not read what came before it"
TOKENS, BITS = "", "_bits"  # what is compared, as it ends the names of its figures
Range = tuple[int, int]
"""the least and the most"""
Parting = tuple[int, int]
"""(turn, token of its answer)"""


@dataclass(frozen=True)
class Turn:
    """One answer of a conversation."""

    tokens: np.ndarray
    logprobs: np.ndarray | None
    finish_reason: str


def answers(outcome: Outcome) -> Iterator[Turn]:
    """Those that it has, in order."""
    ends = np.cumsum(outcome.turns).tolist()
    reasons = (outcome.finish_reason or "").split(",")
    for begin, end, reason in zip([0, *ends], ends, reasons, strict=False):
        yield Turn(outcome.tokens[begin:end], None if outcome.logprobs is None else outcome.logprobs[begin:end], reason)


def parting(a: Outcome, b: Outcome, bits: bool = False) -> Parting | None:
    """Where the answers of two conversations first differ, as far as both go; with `bits` log-probabilities and ends count too."""
    for turn, (one, other) in enumerate(zip(answers(a), answers(b), strict=False), 1):
        found = [first_difference(one.tokens, other.tokens)]
        if bits and one.logprobs is not None and other.logprobs is not None:
            shared = min(len(one.tokens), len(other.tokens))
            found.append(first_difference(*(as_integers(x.logprobs[:shared]) for x in (one, other))))
        if bits and one.finish_reason != other.finish_reason:
            found.append(min(len(one.tokens), len(other.tokens)))
        if places := [place for place in found if place is not None]:
            return turn, min(places)
    return None


def seen(
    tally: Tally, counts: Counter[str], outcomes: Mapping[str, Outcome], steps: Sequence[Step] | None
) -> dict[str, object]:
    """Evidence; {} where no conversation was asked for. `counts`: whole ones -> samples; those that broke off are in the tally."""
    asked = max((step.turns for step in steps or ()), default=1)
    if asked == 1:
        return {}
    every = counts + tally.broken
    found = {"asked": asked, "broken_off": tally.broken.total(), "prompts": tally.turns.by_condition}
    found["samples"] = [sum(n for o, n in every.items() if reached(outcomes[o], turn)) for turn in range(1, asked + 1)]
    usual = modes(counts or every, outcomes)
    for kind, mode in usual.items():
        parted = {o: parting(mode, outcomes[o], kind == BITS) for o in every}
        where: Counter[Parting] = Counter()
        for o, at in parted.items():
            if at:
                where[at] += every[o]
        found[f"partings{kind}"] = [[*at, n] for at, n in sorted(where.items())]
        found[f"same{kind}"] = [
            sum(every[o] for o, at in parted.items() if reached(outcomes[o], turn) and not (at and at[0] <= turn))
            for turn in range(1, asked + 1)
        ]
    cold, warm = (named(tally, kind) for kind in (ConditionKind.COLD, ConditionKind.ALONE))
    if len(cold) == len(warm) == 1 and cold != warm:
        found["cold"] = parting(outcomes[warm.pop()], outcomes[cold.pop()], bits=True)
    return found


def named(tally: Tally, condition: str) -> set[str]:
    """Outcomes under it."""
    return {o for c, found in tally.conditions.items() if c.name == condition for o in found}


def modes(counts: Counter[str], outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """The most common conversation by its tokens, and by its bits; of equally common ones that of most turns. {} where there is none."""
    if not counts:
        return {}
    by_tokens: Counter[object] = Counter()
    for o, n in counts.items():
        by_tokens[token_key(outcomes[o])] += n
    ordered = sorted(counts)
    usual = max(ordered, key=lambda o: (by_tokens[token_key(outcomes[o])], len(outcomes[o].turns)))
    return {TOKENS: outcomes[usual], BITS: outcomes[max(ordered, key=lambda o: (counts[o], len(outcomes[o].turns)))]}


def reached(outcome: Outcome, turn: int) -> bool:
    return len(outcome.turns) >= turn


@dataclass
class PromptSizes:
    """Of each condition's turns: tokens of their prompts, and of these in the prefix cache."""

    by_condition: dict[str, list[list[Range | None]]] = field(default_factory=dict)
    """condition name -> of each turn [tokens, tokens in the cache], the least and the most; None: not known"""

    def add(self, o: Observation) -> None:
        turns = self.by_condition.setdefault(o.condition.name, []) if o.turns else []
        for n, numbers in enumerate(o.turns):
            if n == len(turns):
                turns.append([None, None])
            turns[n] = [wider(known, found) for known, found in zip(turns[n], numbers, strict=True)]


def wider(known: Range | None, found: int | None) -> Range | None:
    if found is None:
        return known
    return (found, found) if known is None else (min(known[0], found), max(known[1], found))


def broken_and_apart(evidence: Mapping[str, object]) -> str:
    """Why conversations that broke off are a divergence: they differ in the turns that they have. "" where they do not."""
    talk = evidence.get("turns") or {}
    return f"conversations that broke off differ from the others{note(evidence)}" if talk.get("partings_bits") else ""


def note(evidence: Mapping[str, object]) -> str:
    """Where conversations part first, in words to follow others; "" where they do not."""
    talk = evidence.get("turns") or {}
    said = ""
    for kind, what in ((TOKENS, "answers"), (BITS, "log-probabilities or ends")):
        if partings := talk.get(f"partings{kind}"):
            turn, token, _ = partings[0]
            said = f"; {what} part first in turn {turn}, at token {token}"
            break
    if cold := talk.get("cold"):
        said += (
            f"; cold and warm conversations part in turn {cold[0]}, at token {cold[1]}: the bits of a turn depend on whether what came before it "
            "is in the prefix cache"
        )
    return said


def doubts(evidence: Mapping[str, object]) -> Iterator[str]:
    """Why equal conversations are no pass: warm and cold were asked for, and nothing was ever warm."""
    sizes = (evidence.get("turns") or {}).get("prompts", {})
    for turns in sizes.values():
        asked = [tokens for tokens, _ in turns]
        for turn, (before, after) in enumerate(itertools.pairwise(asked), 2):
            if before and after and max(after) <= min(before):
                yield f"the prompt of turn {turn} has {max(after)} tokens, and that of turn {turn - 1} had {min(before)}: the server {FORGETS}"
                return
    cold = [name for name in sizes if kind_of(name) == ConditionKind.COLD]
    if sum(evidence["conditions"][name]["asked"] for name in cold) < 2:
        return  # of a server that takes no salt the first turn alone is cold, once
    known = [
        cached for name, turns in sizes.items() if name not in cold for _, cached in turns[1:] if cached is not None
    ]
    if cold and known and not any(most for _, most in known):
        yield "no turn found anything of its history in the prefix cache, so warm and cold turns were not compared"
