"""guidellm's report, of its first schema and of the one that it has now."""

import json

import pytest

from detcheck.errors import UsageError
from detcheck.verdict import Verdict


def request(prompt, output, **more):
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    return {
        "request_id": "made-up",
        "request_args": json.dumps({"method": "POST", "body": body}),
        "output": output,
    } | more


def benchmark(*successful, errored=(), incomplete=(), strategy=("concurrent", 8)):
    kinds = {"successful": list(successful), "errored": list(errored), "incomplete": list(incomplete), "total": None}
    return {"config": {"strategy": {"type_": strategy[0], "streams": strategy[1]}}, "requests": kinds}


def report(*benchmarks):
    return {"metadata": {"version": 2}, "config": {}, "benchmarks": list(benchmarks)}


def test_requests_are_paired_by_what_was_asked(judged):
    first = benchmark(request("a", "x"), request("b", "y"))
    second = benchmark(request("b", "z"), request("a", "x"), strategy=("constant", None))
    found = list(judged(json.dumps(report(first, second), indent=2), name="benchmarks.json").values())
    assert [(f.samples, f.distinct) for f in found] == [(2, 1), (2, 2)]
    assert list(found[1].evidence["conditions"]) == ["concurrent-8", "constant"]


def test_the_first_schema(judged):
    old = {
        "args": {"strategy": {"type_": "synchronous"}},
        "requests": {"successful": [{"prompt": "a", "output": "x"}] * 2},
    }
    (finding,) = judged(report(old), name="benchmarks.json", allow_unseen_batch=True).values()
    assert finding.verdict is Verdict.IDENTICAL and list(finding.evidence["conditions"]) == ["synchronous"]


def test_reasoning_and_tool_calls_are_part_of_the_answer(judged):
    calls = [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    rows = benchmark(request("a", "x"), request("a", "x", reasoning_output="hm"), request("a", "x", tool_calls=calls))
    (finding,) = judged(report(rows)).values()
    assert finding.distinct == 3


def test_failed_requests_are_named_and_those_cut_off_are_left_out(judged):
    failed = request("a", None, info={"error": "HTTP 500"})
    (finding,) = judged(report(benchmark(request("a", "x"), errored=[failed], incomplete=[request("a", "")]))).values()
    assert (finding.samples, finding.evidence["missing"]) == (1, {"HTTP 500": 1})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (report(benchmark({"output": "x"})), "benchmark 1, successful request 1: wants `prompt` or `request_args`"),
        (report(benchmark(request("a", 3))), "successful request 1: `output` wants a string or null; found '3' (int)"),
        (report(benchmark({"prompt": "a"})), "successful request 1: wants `output`"),
        (report({"requests": []}), "benchmark 1: `requests` wants an object"),
        ({"benchmarks": 3}, "line 1: `benchmarks` wants a list"),
        (report(), "holds no completions"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(judged, row, says):
    with pytest.raises(UsageError) as refused:
        judged(row)
    assert says in str(refused.value)
