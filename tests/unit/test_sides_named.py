"""What two runs are sides of, in words, and whether anything was drafted."""

import pytest

from detcheck.judge import speculation
from detcheck.judge.named_sides import named
from detcheck.judge.tally import Tally

NGRAM = '{"method": "ngram", "num_speculative_tokens": 3}'


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ({}, {"vllm.speculative_config": NGRAM}, "speculative decoding: none then, ngram now"),
        ({"vllm.tensor_parallel_size": "1"}, {"vllm.tensor_parallel_size": "2"}, "tensor parallel size: 1 then, 2 now"),
        ({}, {"compile": "torch.compile, inductor"}, "compiling: eager then, torch.compile, inductor now"),
        ({"vllm.compilation": "NONE"}, {"vllm.compilation": "DYNAMO_TRACE_ONCE"}, "compiling: eager then, DYNAMO_TRACE_ONCE now"),
        ({"cache": "static"}, {}, "cache: static then, dynamic now"),
        ({"compile": "eager", "engine": "vllm 1"}, {"engine": "vllm 2"}, ""),
    ],
)  # fmt: skip
def test_sides_are_named(then, now, said):
    assert named({"flags": then}, {"flags": now}) == said


@pytest.mark.parametrize(
    ("drafted", "accepted", "doubt", "said"),
    [
        (0, 0, "no token was drafted", "; 0 of 0"),
        (24, 0, "none of 24 drafted tokens was accepted", "; 0 of 24"),
        (24, 3, "", "; 3 of 24 drafted tokens were accepted"),
    ],
)
def test_drafts_that_are_not_taken_are_no_speculation(drafted, accepted, doubt, said):
    tally = Tally()
    assert speculation.seen(tally) == {} and not speculation.doubt({}) and not speculation.said({})
    tally.speculation["wave-2"].update(drafted=drafted, accepted=accepted)
    evidence = speculation.seen(tally)
    assert speculation.doubt(evidence).startswith(doubt) and bool(speculation.doubt(evidence)) == bool(doubt)
    assert speculation.said(evidence).startswith(said)


def test_a_condition_in_which_no_draft_was_taken_was_plain_decoding():
    tally = Tally()
    tally.speculation["alone"].update(drafted=9, accepted=8)
    tally.speculation["wave-8"].update(drafted=9, accepted=0)
    assert speculation.doubt(speculation.seen(tally)).startswith("no drafted token was accepted in wave-8, so")
