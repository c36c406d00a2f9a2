"""Results of vLLM's serving benchmark, and of SGLang's, which have the same keys."""

import json

import pytest

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.verdict import Verdict


def result(*texts, **more):
    """Keys as both write them; of the figures only those that matter here."""
    return {
        "completed": len(texts), "request_throughput": 2.0, "max_concurrency": 8, "input_lens": [5] * len(texts),
        "generated_texts": list(texts), "errors": [""] * len(texts),
    } | more  # fmt: skip


def test_appended_results_are_repeats_of_the_same_requests(judged):
    found = judged(result("a", "b"), result("a", "c"), name="bench.json")
    assert {name: (f.samples, f.distinct) for name, f in found.items()} == {
        "request-0:5-tokens": (2, 1),
        "request-1:5-tokens": (2, 2),
    }
    assert found["request-1:5-tokens"].verdict is Verdict.DIVERGENT


def test_a_result_over_several_lines(judged):
    assert list(judged(json.dumps(result("a"), indent=1), name="bench.json")) == ["request-0:5-tokens"]


def test_concurrency_and_rate_are_conditions(judged):
    rows = [result("a"), result("a"), result("b", max_concurrency=None, request_rate="inf")]
    (finding,) = judged(*rows, rows[-1]).values()
    assert list(finding.evidence["conditions"]) == ["concurrency-8", "rate-inf"]
    assert finding.verdict is Verdict.DIVERGENT and "not known in full" in finding.note


def test_requests_of_another_length_are_no_partners(write):
    a, b = write("a.json", result("x")), write("b.json", result("x", input_lens=[6]))
    run = runner.judge_file(a, other=b)
    assert run.exit_code == 3 and len(run.findings) == 2


def test_a_request_that_failed_is_named(judged):
    (finding,) = judged(
        result("a"), result("", errors=["Traceback (most recent call last):\n  x\nTimeoutError: late\n"])
    ).values()
    assert finding.evidence["missing"] == {"TimeoutError: late": 1}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"completed": 3, "request_throughput": 1.0},
            "line 1: the result holds no `generated_texts`. Run the benchmark again",
        ),
        (result("a", errors=[]), "line 1: `errors` has 0 entries for 1 `generated_texts`"),
        (result(3), "line 1, request 0: `generated_texts` wants a string; found '3' (int)"),
        (result("a", input_lens=["x"]), "line 1, request 0: `input_lens` wants a whole number"),
        (result("a", generated_texts={}), "line 1: `generated_texts` wants a list"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(judged, row, says):
    with pytest.raises(UsageError) as refused:
        judged(row)
    assert says in str(refused.value)
