"""Tables as CSV."""

import pytest

from detcheck.errors import UsageError
from detcheck.verdict import Verdict


def test_text_by_id(judged):
    found = judged("id,text", "q1,a", 'q1,"a, and\nb"', "q2,c", "q2,c", name="t.csv", allow_unseen_batch=True)
    assert {name: f.verdict for name, f in found.items()} == {"q1": Verdict.DIVERGENT, "q2": Verdict.IDENTICAL}


def test_one_id_with_two_prompts_is_two_requests(judged):
    found = judged("id,prompt,text", "q,a,x", "q,b,y", name="t.csv")
    assert [f.samples for f in found.values()] == [1, 1]


def test_tokens_and_log_probabilities(judged):
    rows = ["p,5 17 2,-0.5 -1 -2", 'p,"[5, 17, 2]","[-0.5, -1, -2.5]"']
    (finding,) = judged("prompt,tokens,logprobs", *rows, name="t.csv").values()
    assert (finding.distinct, finding.distinct_bits, finding.metrics) == (1, 2, {"max_abs": 0.5})


def test_an_empty_cell_is_a_missing_sample(judged):
    (finding,) = judged("text", "a", '""', name="t.csv").values()
    assert finding.evidence["missing"] == {"empty completion": 1}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["name,value", "a,b"], "line 1: is none of JSONL, JSON, CSV and parquet"),
        (["text"], "holds no completions"),
        (["id,text", "a"], "line 2: has 1 cells for the 2 columns of the heading"),
        (["id,text", "a,b", 'c,"torn'], "is not CSV: unexpected end of data"),
        (["tokens", "5 x"], "line 2: `tokens` wants ids, like 5 17 2, or a JSON list; found '5 x' (str)"),
        (["tokens,logprobs", "5,-1 -2"], "line 2: `logprobs` has 2 numbers for 1 tokens"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(judged, lines, says):
    with pytest.raises(UsageError) as refused:
        judged(*lines, name="t.csv")
    assert says in str(refused.value)
