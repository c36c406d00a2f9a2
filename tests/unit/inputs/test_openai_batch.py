"""OpenAI's batch output: chats, completions, and requests that failed."""

from pathlib import Path

import pytest

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.verdict import Verdict

STORED = Path(__file__).parents[2] / "stored" / "judge"


def line(choices, name="r1", status=200, error=None):
    return {
        "id": "b",
        "custom_id": name,
        "response": {"status_code": status, "body": {"choices": choices}},
        "error": error,
    }


def chat(text, name="r1", **message):
    return line(
        [{"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": "stop"}], name
    )


def spelled(words, numbers):
    content = [{"token": w, "logprob": n, "bytes": None} for w, n in zip(words, numbers, strict=True)]
    one = {"message": {"content": "".join(words)}, "logprobs": {"content": content}, "finish_reason": "stop"}
    return line([one])


def test_the_case_of_a_real_report():
    found = {f.case.input: f for f in runner.judge_file(STORED / "openai_batch.jsonl").findings}
    assert {name: (f.verdict, f.samples, f.missing, f.mode_text) for name, f in found.items()} == {
        "r1": (Verdict.INCONCLUSIVE, 1, 0, "hello there"),
        "r2": (Verdict.INCONCLUSIVE, 1, 0, "hello world"),
    }
    assert "there is nothing to compare with" in found["r1"].note


def test_lines_of_one_id_are_repeats(judged):
    found = judged(chat("a"), chat("b"), chat("c", "r2"), chat("c", "r2"), allow_unseen_batch=True)
    assert [f.verdict for f in found.values()] == [Verdict.DIVERGENT, Verdict.IDENTICAL]


def test_completions_and_their_choices(judged):
    (finding,) = judged(line([{"text": t, "finish_reason": "length"} for t in ("a", "a", "b")])).values()
    assert (finding.samples, finding.distinct, finding.evidence["finish_reasons"]) == (3, 2, {"length": 3})


def test_log_probabilities(judged):
    (finding,) = judged(spelled(["a", "b"], [-0.5, -1.0]), spelled(["a", "b"], [-0.5, -1.25])).values()
    assert (finding.distinct, finding.distinct_bits, finding.metrics) == (1, 2, {"max_abs": 0.25})
    one = {"text": "ab", "finish_reason": "stop", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [None, -1.0]}}
    (finding,) = judged(line([one]), line([one]), allow_unseen_batch=True).values()
    assert (finding.verdict, finding.evidence["compared"]) == (Verdict.IDENTICAL, "digits")


@pytest.mark.parametrize(
    ("failed", "why"),
    [
        (
            line([], status=400) | {"response": {"status_code": 400, "body": {"error": {"message": "too long"}}}},
            "HTTP 400: too long",
        ),
        (
            line([], error={"code": "batch_expired", "message": "too late"}) | {"response": None},
            "batch_expired: too late",
        ),
        (line([], error="no engine") | {"response": None}, "no engine"),
        (line([]) | {"response": None}, "no response"),
        (line([]) | {"response": {"status_code": 503, "body": None}}, "HTTP 503"),
    ],
)
def test_a_request_that_failed_is_a_missing_sample_with_its_reason(judged, failed, why):
    (finding,) = judged(failed, chat("a"), chat("a")).values()
    assert finding.verdict is Verdict.INCONCLUSIVE and finding.evidence["missing"] == {why: 1}
    (finding,) = judged(failed).values()
    assert finding.verdict is Verdict.FAILED and why in finding.note


def test_what_the_tokens_do_not_spell_is_compared_too(judged):
    """Log-probabilities of a chat name the tokens of its content alone, not those of its tool calls."""

    def row(arguments):
        made = spelled(["a"], [-0.5])
        call = {"function": {"name": "f", "arguments": arguments}}
        made["response"]["body"]["choices"][0]["message"]["tool_calls"] = [call]
        return made

    (finding,) = judged(row("{}"), row("{1}")).values()
    assert (finding.distinct, finding.common_prefix) == (2, 1)
    (finding,) = judged(row("{}"), row("{}"), allow_unseen_batch=True).values()
    assert finding.verdict is Verdict.IDENTICAL


def test_where_something_is_said_counts(judged):
    (finding,) = judged(chat("a"), chat("", reasoning="a")).values()
    assert finding.distinct == 2
    (finding,) = judged(chat("b\nc", reasoning="a"), chat("c", reasoning="a\nb")).values()
    assert finding.distinct == 2


@pytest.mark.parametrize(
    "other",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"refusal": "no"},
        {"tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "{}"}}]},
        {"content": [{"type": "text", "text": "a"}]},
        {"content": ""},
        {"content": None},
    ],
)
def test_all_that_a_message_says_is_compared(judged, other):
    (finding,) = judged(chat("a"), chat("a", **other)).values()
    assert (finding.distinct, finding.missing) == (2, 0)


def test_ids_of_tool_calls_are_not_compared(judged):
    calls = [[{"id": made, "function": {"name": "f", "arguments": "{}"}}] for made in ("x", "y")]
    (finding,) = judged(*(chat(None, tool_calls=c) for c in calls), allow_unseen_batch=True).values()
    assert finding.verdict is Verdict.IDENTICAL


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"custom_id": 5, "response": None}, "line 2: `custom_id` wants a string; found '5' (int)"),
        (
            line([]) | {"response": {"status_code": 200, "body": {"data": []}}},
            "line 2: `response.body` wants `choices`",
        ),
        (line([]) | {"response": {"status_code": 200, "body": []}}, "line 2: `response.body` wants an object"),
        (line({}), "line 2: `choices` wants a list"),
        (line([{"text": 3}]), "line 2: `text` wants a string"),
        (line([{"message": {"role": "assistant"}}]), "line 2: `message` wants `content`; found the keys role"),
        (line([{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [1, 2]}}]), "2 numbers for 1 tokens"),
        ({"text": "a"}, "line 2: is not openai-batch, as the lines before it are"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(judged, row, says):
    with pytest.raises(UsageError) as refused:
        judged(chat("a"), row)
    assert says in str(refused.value)
