"""Which sequence of the trainer's file belongs to which of the sampler's. Pure.

By the names that both files give, where each names its own; otherwise by what they hold: the same prompt and tokens. What is left over is
paired by the prompt, or else by its place, where most of the tokens agree: a tokeniser of another kind, or an answer that was cut off.
Two prompts that contradict each other are never paired: the same tokens behind another prompt are another question to a model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from detcheck.probes.logprobs.keys import FileSequence

AGREE = 0.5  # of the tokens that both have, so that two sequences may be one

Match = tuple[int | None, int | None]
"""places in the sampler's and in the trainer's file; None: it does not have it"""


def pair(a: Sequence[FileSequence], b: Sequence[FileSequence]) -> list[Match]:
    """Every sequence of both files once, in the order of the sampler's."""
    found: dict[int, int] = {}
    left, right = dict(enumerate(a)), dict(enumerate(b))

    def match(key: Callable[[int, FileSequence], Hashable | None], alike: bool = False) -> None:
        """Those with equal keys, in their order; `alike`: only where most tokens agree."""
        waiting: dict[Hashable, list[int]] = defaultdict(list)
        for place, one in right.items():
            if (name := key(place, one)) is not None:
                waiting[name].append(place)
        for place, one in list(left.items()):
            there = waiting.get(key(place, one), [])
            fits = (o for o in there if not contradict(one, right[o]) and (not alike or agree(one, right[o])))
            chosen = next(fits, None)
            if chosen is not None:
                there.remove(chosen)
                found[place] = chosen
                del left[place], right[chosen]

    if named(a) and named(b):
        match(lambda _, one: one.name)
    both = bool(a and b and a[0].prompt and b[0].prompt)
    match(lambda _, one: content(one, both))
    if both:
        match(lambda _, one: one.prompt, alike=True)
    match(lambda place, _: place, alike=True)
    if len(left) == len(right):
        order = dict(zip(left, right, strict=True))
        for place, other in order.items():
            if agree(left[place], right[other]) and not contradict(left[place], right[other]):
                found[place] = other
                del left[place], right[other]
    return [(place, found.get(place)) for place in range(len(a))] + [(None, other) for other in right]


def named(side: Sequence[FileSequence]) -> bool:
    """Whether the file gives each sequence a name of its own."""
    names = {one.name for one in side}
    return "" not in names and len(names) == len(side)


def content(one: FileSequence, prompts: bool) -> Hashable | None:
    if one.tokens is None:
        return None
    return (one.prompt if prompts else "", one.tokens.tobytes())


def agree(a: FileSequence, b: FileSequence) -> bool:
    """Whether two sequences can be one: most of the tokens that both have are the same ids; without ids, whether they have any."""
    if a.tokens is None or b.tokens is None:
        return True
    shared = min(len(a.tokens), len(b.tokens))
    return bool(shared) and float(np.mean(a.tokens[:shared] == b.tokens[:shared])) >= AGREE


def contradict(a: FileSequence, b: FileSequence) -> bool:
    """Whether both give a prompt in the same form, as ids or as a text, and not the same one."""
    in_one_form = bool(a.prompt and b.prompt) and bool(a.prompt_ids) == bool(b.prompt_ids)
    return in_one_form and a.prompt != b.prompt


def contradicted(left: Iterable[FileSequence], right: Iterable[FileSequence]) -> set[int]:
    """By `id`, which of those left over have their name or their tokens in the other file, and contradict its prompt there."""
    found: set[int] = set()
    for key in (lambda one: one.name or None, lambda one: content(one, False)):
        there: dict[Hashable, FileSequence] = {}
        for one in right:
            there.setdefault(key(one), one)
        for one in left:
            name = key(one)
            if name is not None and name in there and contradict(one, there[name]):
                found |= {id(one), id(there[name])}
    return found
