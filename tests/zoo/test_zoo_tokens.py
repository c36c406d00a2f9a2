"""Engines whose tokens differ: seldom, late, in one kind of batch only."""

import random

from scripted import OTHER, SAME, Scripted, completion
from zoo import broken, sound, visits


@broken("run-variant")
def noise_of_one_token_in_a_thousand(zoo):
    """A token in a thousand is another one, whatever the batch."""
    rng = random.Random(0)

    def answer(rows, slot, call):
        return completion([9 if rng.random() < 1e-3 else 5 for _ in range(32)])

    return zoo.completions(Scripted(answer), samples=400, max_tokens=32)


@broken("batch-variant")
def only_at_seven_rows(zoo):
    """Batches of exactly seven rows have another token."""
    return zoo.completions(Scripted(lambda rows, slot, call: OTHER if rows == 7 else SAME))


@sound
def always_the_same(zoo):
    """Always the same answer."""
    return zoo.completions(Scripted(lambda rows, slot, call: SAME))


test_subject = visits(globals())
