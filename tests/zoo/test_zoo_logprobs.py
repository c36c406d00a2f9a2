"""Engines whose tokens agree and whose log-probabilities do not, to the last bit."""

import dataclasses

import numpy as np
from knowing import Forming, moved, noise, with_logprobs
from scripted import SAME, Scripted
from zoo import broken, sound, visits

NAN, OTHER_NAN = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)


def of(*numbers):
    return with_logprobs(SAME, numbers)


def in_batches(one, other):
    return Scripted(lambda rows, slot, call: other if rows > 2 else one)


@broken("run-variant", says='"distinct": 1')
def noise_in_bits_alone(zoo):
    """One log-probability in fifty is an ulp off, whatever the batch; the tokens are equal."""
    strikes = noise(1 / 50)
    return zoo.completions(Scripted(lambda rows, slot, call: moved(SAME) if strikes() else SAME), samples=200)


@broken("batch-variant", says='"max_ulp": 1.0')
def less_than_is_printed(zoo):
    """In a batch log-probabilities are one ulp off, which nine digits hardly show."""
    return zoo.completions(in_batches(SAME, moved(SAME, 1, at=3)))


@broken("batch-variant", says='"common_prefix_bits": 1')
def heals_in_bits(zoo):
    """In a batch one log-probability differs, and those behind it are equal again."""
    return zoo.completions(in_batches(SAME, moved(SAME, 3, at=1, only=True)))


@broken("batch-variant")
def the_sign_of_zero(zoo):
    """In a batch a log-probability is -0.0, and 0.0 alone."""
    return zoo.completions(in_batches(of(-1, 0.0, -1, -1), of(-1, -0.0, -1, -1)))


@broken("batch-variant")
def another_payload_of_a_nan(zoo):
    """In a batch a NaN has other payload bits than alone."""
    return zoo.completions(in_batches(of(-1, NAN, -1, -1), of(-1, OTHER_NAN, -1, -1)))


@broken("batch-variant")
def nothing_but_nan_of_two_payloads(zoo):
    """Every log-probability is NaN, in a batch of another payload."""
    return zoo.completions(in_batches(of(*[NAN] * 4), of(*[OTHER_NAN] * 4)))


@broken("inconclusive", 3, says="each number is NaN")
def nothing_but_nan(zoo):
    """Every log-probability is the same NaN: a model that overflowed, of which equal bits say nothing."""
    return zoo.completions(Scripted(lambda rows, slot, call: of(*[NAN] * 4)))


@broken("batch-variant")
def a_number_becomes_infinite(zoo):
    """In a batch a log-probability is minus infinity, and finite alone."""
    return zoo.completions(in_batches(SAME, of(-1, -np.inf, -1, -1)))


@broken("batch-variant")
def small_numbers_flushed_to_zero(zoo):
    """In a batch a log-probability that is no normal number is zero."""
    return zoo.completions(in_batches(of(-1, -1e-45, -1, -1), of(-1, -0.0, -1, -1)))


@broken("batch-variant")
def fewer_numbers_than_tokens(zoo):
    """In a batch the last log-probability is missing."""
    return zoo.completions(in_batches(SAME, of(-1, -1, -1)))


@broken("batch-variant", says='"distinct": 2')
def another_token_and_no_numbers(zoo):
    """In a batch the last token is another one, and no log-probability or margin comes with it."""
    none = np.empty(0, np.float32)
    other = dataclasses.replace(SAME, tokens=(5, 6, 7, 9), logprobs=none, margins=none, runners_up=())
    return zoo.completions(in_batches(SAME, other))


@broken("batch-variant")
def the_numbers_of_another_token(zoo):
    """In a batch the log-probabilities are those of the runners-up."""
    return zoo.completions(in_batches(SAME, of(-1.5, -1.5, -1.5, -1.5)))


@broken("batch-variant")
def numbers_in_half_precision(zoo):
    """In a batch log-probabilities went through bfloat16."""
    fine = np.array([-1.2345678, -0.1, -2.7, -1e-3], np.float32)
    coarse = (fine.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return zoo.completions(in_batches(with_logprobs(SAME, fine), with_logprobs(SAME, coarse)))


@broken("batch-variant")
def one_bit_in_a_long_answer(zoo):
    """In batches of four one bit of one of 500 log-probabilities is another one."""
    from scripted import completion

    long = completion([5] * 500)
    return zoo.completions(Forming(lambda a: moved(long, 1, 321, only=True) if a.size == 4 else long), max_tokens=500)


@sound
def minus_zero_always(zoo):
    """A log-probability is always -0.0."""
    return zoo.completions(Scripted(lambda rows, slot, call: of(-0.0, -1, -1, -0.0)))


@sound
def one_nan_always(zoo):
    """One log-probability is the same NaN everywhere, and the others are numbers."""
    return zoo.completions(Scripted(lambda rows, slot, call: of(-1, OTHER_NAN, -1, -1)))


@sound
def infinite_always(zoo):
    """A token that could not be drawn: its log-probability is minus infinity everywhere."""
    return zoo.completions(Scripted(lambda rows, slot, call: of(-1, -np.inf, -1, -1)))


test_subject = visits(globals())
