"""Engines whose tokens differ: seldom, late, at their end, in one kind of batch only."""

import random

from knowing import Forming, Scheduling
from scripted import OTHER, SAME, SHORT, Scripted, completion
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


@broken("batch-variant", says='"common_prefix": 220')
def only_after_two_hundred_tokens(zoo):
    """Batches part from the prompt alone after 220 equal tokens."""
    long, late = completion([5] * 240), completion([5] * 220 + [6] * 20)
    return zoo.completions(Scripted(lambda rows, slot, call: late if rows > 2 else long), max_tokens=240)


@broken("batch-variant", says='"histogram": [[1, ')
def heals(zoo):
    """In a batch one token in the middle is another one, and all behind it are equal again."""
    return zoo.completions(Scripted(lambda rows, slot, call: completion([5, 99, 7, 8]) if rows > 2 else SAME))


@broken("batch-variant")
def an_end_one_token_early(zoo):
    """In a batch the answer ends one token early."""
    early = completion([5, 6, 7], finish_reason="stop")
    return zoo.completions(Scripted(lambda rows, slot, call: early if rows > 2 else SAME))


@broken("batch-variant", says='"finish_reasons": {"length": ')
def finish_reason_alone(zoo):
    """In a batch the same tokens end for another reason."""
    ended = completion([5, 6, 7, 8], finish_reason="stop")
    return zoo.completions(Scripted(lambda rows, slot, call: ended if rows > 2 else SAME))


@broken("batch-variant")
def goes_on_past_the_limit(zoo):
    """In a batch the answer has more tokens than were asked for."""
    return zoo.completions(Scripted(lambda rows, slot, call: completion([5, 6, 7, 8, 9]) if rows > 2 else SAME))


class Spelling(Scripted):
    """Token 300 is "th", 301 "he", 302 "e"; others are letters."""

    def decode(self, tokens):
        return "".join({300: "th", 301: "he"}.get(t) or chr(t) for t in tokens)


@broken("batch-variant", says='"distinct": 2')
def another_split_of_the_same_text(zoo):
    """In a batch the same text is made of other tokens."""
    one, other = completion([300, ord("e")]), completion([ord("t"), 301])
    return zoo.completions(Spelling(lambda rows, slot, call: other if rows > 2 else one))


@broken("batch-variant")
def ids_equal_in_their_low_32_bits(zoo):
    """In a batch a token's id is 2**32 higher, which an index of 32 bits would not show."""
    return zoo.completions(Scripted(lambda rows, slot, call: completion([5, 6, 7 + 2**32]) if rows > 2 else SAME_SHORT))


SAME_SHORT = completion([5, 6, 7])


@broken("batch-variant")
def a_neighbours_token(zoo):
    """The last token is one of the row before it in the batch."""

    def answer(asked):
        return completion([5, 6, 7, asked.rows[asked.slot - 1].prompt[-1] if asked.slot else 8])

    return zoo.completions(Forming(answer))


@broken("batch-variant")
def empty_in_large_batches(zoo):
    """In a batch of nine rows the answer is empty."""
    return zoo.completions(Scripted(lambda rows, slot, call: completion([]) if rows == 9 else SAME))


@broken("inconclusive", 3, says="every completion is empty")
def empty_everywhere(zoo):
    """Every answer is empty, so that equal ones say nothing."""
    return zoo.completions(Scripted(lambda rows, slot, call: completion([], finish_reason="stop")))


@broken("run-variant")
def a_temperature_that_is_not_zero(zoo):
    """Tokens are drawn, though the likeliest were asked for."""
    rng = random.Random(0)
    return zoo.completions(Scripted(lambda rows, slot, call: completion([rng.randrange(5, 9) for _ in range(4)])))


@broken("run-variant", 1)
def a_latent_one_and_a_token(zoo):
    """Log-probabilities follow the batch, which --fail-on tokens lets pass, and once a token is another one, which it does not."""
    latent = completion([5, 6, 7, 8], bits=3)
    engine = Scripted(lambda rows, slot, call: OTHER if call == 13 else latent if rows > 2 else SAME)
    return zoo.completions(engine, "--fail-on", "tokens")


@sound
def always_the_same(zoo):
    """Always the same answer."""
    return zoo.completions(Scripted(lambda rows, slot, call: SAME))


@sound
def one_token(zoo):
    """Completions of a single token."""
    return zoo.completions(Scripted(lambda rows, slot, call: completion([7])), max_tokens=1)


@sound
def ends_at_once(zoo):
    """The end token is the first one, which is an answer."""
    return zoo.completions(Scripted(lambda rows, slot, call: completion([0], finish_reason="stop")))


@sound
def ends_early(zoo):
    """Every answer ends before --max-tokens."""
    return zoo.completions(Scripted(lambda rows, slot, call: SHORT), max_tokens=64)


@sound
def long_answers(zoo):
    """Answers of 2000 tokens."""
    long = completion([5 + n % 200 for n in range(2000)])
    return zoo.completions(Scripted(lambda rows, slot, call: long), max_tokens=2000)


@sound
def huge_ids(zoo):
    """Ids of tokens up to 2**63 - 1."""
    return zoo.completions(Scripted(lambda rows, slot, call: completion([2**31, 2**40, 2**63 - 2])))


class Unwritten(Scripted):
    """Its tokens have no text."""

    def decode(self, tokens):
        return ""


@sound
def tokens_without_text(zoo):
    """Tokens that are there and whose text is empty."""
    return zoo.completions(Unwritten(lambda rows, slot, call: SAME))


class Emoji(Scripted):
    """Writes what terminals, XML and UTF-8 find hard: joiners, right-to-left, a lone surrogate, a zero byte, markup."""

    def decode(self, tokens):
        return "👩‍👩‍👧 ẛ̣ שלום \u202e \ud800 \x00 \x1b[31m </script> ]]> 日本"


@sound
def text_that_is_hard_to_write(zoo):
    """Emoji with joiners, right-to-left marks, half of a surrogate pair, zero bytes and escapes in the text."""
    return zoo.completions(Emoji(lambda rows, slot, call: SAME))


@sound
def ties_that_always_go_one_way(zoo):
    """The runner-up is exactly as likely at every token, and the lower id is always taken."""
    import dataclasses

    import numpy as np

    tie = dataclasses.replace(SAME, margins=np.zeros(4, np.float32))
    return zoo.completions(Scripted(lambda rows, slot, call: tie))


@sound
def an_engine_of_its_own_schedule(zoo):
    """An engine that forms its batches itself, in waves, staggered, in chunks and from its cache, always with the same answer."""
    return zoo.completions(Scheduling(lambda asked: SAME), samples=40)


test_subject = visits(globals())
