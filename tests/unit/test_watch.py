"""The watch over a run: what is said of the first divergence, in which arm, how often; and how far the run is."""

from dataclasses import replace

import numpy as np
import pytest

from detcheck.outcomes import Earlier, digest_outcome, outcome, row_outcome
from detcheck.parting import where_and_how_far
from detcheck.records import Case, Condition, Observation, Schedule, Step, Subject
from detcheck.spec import Kernels, Spec
from detcheck.verdict import FailOn, Role
from detcheck.watch import FirstDivergence, Track

STOCK, OURS = (Case("completions", "model", kernels, "float32", "0:ab") for kernels in ("stock", "batch-invariant"))
ROLES = {STOCK: Role.REACTS, OURS: Role.GATES}


def said(tokens, text="", bits=0, margin=0.02, finish_reason="length", **more):
    logprobs = (np.full(len(tokens), -1.0, np.float32).view(np.uint32) + np.uint32(bits)).view(np.float32)
    margins = np.full(len(tokens), margin, np.float32)
    given = {"logprobs": logprobs, "margins": margins, "finish_reason": finish_reason, "text": text} | more
    return outcome(np.asarray(tokens, np.int64), **given)


QUEENS = said([1, 2, 3], "born in Queens, New York")
NEW = said([1, 9, 4], "born in New York City")
LATENT = said([1, 2, 3], "born in Queens, New York", bits=3)


def observed(case, *outcomes):
    """Observations, and what they have."""
    condition = Condition("batch-2", 2, 1, "abc")
    return [
        Observation(case, condition, 0, 0, n, o and o.id, missing="" if o else "lost") for n, o in enumerate(outcomes)
    ], [o for o in outcomes if o]


def sentences(watch, *seen):
    return [found.sentence for each in seen for found in watch.see(*each)]


def test_the_first_divergence_is_told_once_in_each_arm_and_a_control_is_named_as_one():
    watch = FirstDivergence(FailOn.ANY, ROLES)
    assert sentences(watch, observed(STOCK, QUEENS, QUEENS)) == []
    assert sentences(watch, observed(STOCK, NEW, QUEENS, NEW), observed(STOCK, said([7, 7, 7], "a b c"))) == [
        "first divergence in stock (control): sample 3, token 1: ' New' against ' Queens,', margin 0.02 (batch-2, row 1; against sample 1)"
    ]
    assert not watch.diverged  # a control may
    assert sentences(watch, observed(OURS, QUEENS, NEW)) == [
        "first divergence in batch-invariant: sample 2, token 1: ' New' against ' Queens,', margin 0.02 (batch-2, row 1; against sample 1)"
    ]
    assert watch.diverged


def test_tokens_are_told_of_after_log_probabilities_and_not_the_other_way_round():
    watch = FirstDivergence(FailOn.ANY, ROLES)
    bits, tokens = sentences(watch, observed(OURS, QUEENS, LATENT, LATENT, NEW, NEW))
    assert (
        "sample 2, the same tokens, other log-probability bits from token 0 on, up to 3.6e-07 nats (3 ulp) apart"
        in bits
    )
    assert "sample 4, token 1: ' New'" in tokens
    assert len(sentences(FirstDivergence(FailOn.ANY, ROLES), observed(OURS, QUEENS, NEW, LATENT))) == 1


def test_equal_samples_and_missing_ones_tell_nothing():
    watch = FirstDivergence(FailOn.ANY, ROLES)
    assert sentences(watch, observed(OURS, None, QUEENS, None, QUEENS), observed(STOCK, NEW, NEW)) == []
    (found,) = watch.see(*observed(OURS, LATENT))
    assert (found.first, found.sample) == (2, 5)  # a missing one is counted, as in the progress


def test_what_is_planted_is_not_told():
    watch = FirstDivergence(FailOn.ANY, {STOCK: Role.PLANTED})
    assert sentences(watch, observed(STOCK, QUEENS, NEW)) == [] and not watch.diverged


def test_of_several_prompts_the_one_is_named():
    other = replace(OURS, input="1:cd")
    watch = FirstDivergence(FailOn.ANY, {OURS: Role.GATES, other: Role.GATES})
    assert sentences(watch, observed(OURS, QUEENS), observed(other, NEW)) == []
    (sentence,) = sentences(watch, observed(other, QUEENS))
    assert "batch-invariant: input 1:cd, sample 2, token 1" in sentence


def test_only_tokens_fail_where_only_tokens_count():
    watch = FirstDivergence(FailOn.TOKENS, ROLES)
    watch.see(*observed(OURS, QUEENS, LATENT))
    assert not watch.diverged
    watch.see(*observed(OURS, NEW))
    assert watch.diverged


def row(*values):
    return row_outcome(np.asarray(values, np.float32).view(np.int32), "float32")


def at(row, *hashes, names=()):
    return row_outcome(
        np.asarray(row, np.float32).view(np.int32),
        "float32",
        Earlier(np.asarray(hashes, np.int64), np.zeros((2, len(hashes)), np.float32), names),
    )


@pytest.mark.parametrize(
    ("first", "other", "words"),
    [
        (row(1, 2, 3), row(1, 2.0000002, 3), "element 1 of 3, up to 2.4e-07 (1 ulp) apart"),
        (row(1, 2), row(1, np.nan), "element 1 of 2"),
        (row(0.0), row(-0.0), "element 0 of 1, up to 0 (0 ulp) apart"),
        (at([1], 5, 6), at([1], 5, 7), "the same bits at the last position, others at position 1"),
        (at([1], 5, 6, names="ab"), at([1], 5, 7, names="ab"), "the same gradient of the input, another one of b"),
        (digest_outcome(b"a"), digest_outcome(b"b"), "other bits"),
        (QUEENS, said([1], "born"), "token 1: the end against ' in'"),
        (QUEENS, said([1, 2, 3], "born in Queens, New York", finish_reason="stop"), "the same tokens, other ends: stop against length"),
        (QUEENS, said([1, 2, 3], logprobs=None), "the same tokens, other log-probability bits"),
        (QUEENS, said([1, 5, 3], QUEENS.text), "token 1: token id 5 against token id 2, margin 0.02"),
        (said([1, 2], "a \x1b[31m"), said([1, 3], "a \x1b[32m"), "token 1: ' \\x1b[32m' against ' \\x1b[31m', margin 0.02"),
        (said([1, 2], "", words=("a", "b")), said([1, 3], "", words=("a", "c")), "token 1: 'c' against 'b', margin 0.02"),
        (said([1, 2], "甲乙", turns=(1, 1)), said([1, 3], "甲丙", turns=(1, 1)), "turn 2, token 0: '丙' against '乙', margin 0.02"),
    ],
)  # fmt: skip
def test_where_two_outcomes_part(first, other, words):
    assert first.id != other.id
    assert where_and_how_far(first, other) == words


def test_progress_counts_by_arm_and_condition():
    names = ["alone", "alone", "batch-2"]
    steps = [
        Step(n + 3 * arm, "0:ab", name, n, (0,) if name == "alone" else (0, 0), arm)
        for arm in (0, 1)
        for n, name in enumerate(names)
    ]
    subject = Subject("model", "float32", {}, (), Schedule(tuple(steps)), None, tuple(ROLES.items()))
    track = Track(Spec("completions", None, kernels=Kernels.BOTH), subject, {0: 1})  # one was stored before
    seen = [track.progress(n) for n in range(len(track.pending) + 1)]
    assert [(p.done, p.doing, str(p.arm), p.of_condition, p.of_arm) for p in seen[:-1]] == [
        (1, "alone", "stock (control)", (1, 2), (1, 4)),
        (2, "batch-2", "stock (control)", (0, 2), (2, 4)),
        (4, "alone", "batch-invariant", (0, 2), (0, 4)),
        (5, "alone", "batch-invariant", (1, 2), (1, 4)),
        (6, "batch-2", "batch-invariant", (0, 2), (2, 4)),
    ]
    assert (seen[-1].done, seen[-1].total, seen[-1].doing) == (8, 8, "")
