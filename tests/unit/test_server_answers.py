"""What is read out of one answer of a server, and what it says of itself."""

import pytest

from detcheck import strict_json
from detcheck.engines.server.answer import BadAnswerError, read
from detcheck.engines.server.engine import Capability, PromptInput
from detcheck.engines.server.outcome import EarlierAnswers, doubts, outcome_of
from detcheck.judge import answers


def body(text="Yes.", reason="stop", **around):
    choice = {"text": text, "finish_reason": reason} if isinstance(text, str) else text | {"finish_reason": reason}
    return {"id": "1", "choices": [choice], **around}


def test_a_thought_that_fills_the_answer_is_one():
    """A reasoning model that is asked for few tokens says nothing beside its thought."""
    message = {"role": "assistant", "content": None, "reasoning_content": "let me see"}
    assert read(body({"message": message}, "length")).whole.startswith("let me see")
    with pytest.raises(BadAnswerError, match="the answer is empty"):
        read(body({"message": message | {"reasoning_content": ""}}, "length"))


@pytest.mark.parametrize("value", ["-1.0", "null", "NaN"])
def test_candidates_that_are_spelled_alike_are_read_also_where_one_has_no_number(value):
    assert strict_json.loads('{"top": {"a": -1.0, "b": -2, "a": %s}}' % value)["top"]["b"] == -2  # noqa: UP031


@pytest.mark.parametrize("value", ['"x"', '"x", "a": 1', "true", "{}", "[null]"])
def test_other_keys_that_stand_twice_are_refused(value):
    with pytest.raises(strict_json.TwiceError):
        strict_json.loads('{"top": {"a": -1.0, "a": %s}}' % value)  # noqa: UP031


NO_ERRORS = (
    {"code": None, "message": None}, {"code": 0, "message": "Success"}, {"code": "0", "message": "ok"}, {"message": "", "type": ""},
    {"code": 0}, {}, "", 0, False, [], {"code": None, "message": "", "param": None},
)  # fmt: skip
ERRORS = (
    {"code": 500, "message": "it broke"}, {"message": "it broke"}, {"code": None, "message": "it broke"}, {"code": 7, "message": ""},
    {"code": "", "message": "it broke"}, "it broke", True, ["it broke"], {"type": "it broke", "message": None},
)  # fmt: skip


@pytest.mark.parametrize("error", NO_ERRORS, ids=str)
def test_an_error_object_that_says_none_is_no_error(error):
    assert read(body(error=error)).text == "Yes."
    assert read(body({"text": "Yes.", "error": error})).text == "Yes."


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_an_error_beside_a_whole_answer_is_one(error):
    with pytest.raises(BadAnswerError, match="it has status 200 and an error in it"):
        read(body(error=error))


GEMINI = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 12}


def doubted(said, most, ignore_eos=False):
    return [*doubts(said, PromptInput(text="a"), EarlierAnswers(), most, ignore_eos)]


def test_thoughts_that_usage_counts_in_its_total_alone_are_tokens_that_were_made():
    assert doubted(read(body(reason="length", usage=GEMINI)), 8) == []
    assert doubted(read(body(reason="length", usage=GEMINI)), 9) == [answers.CUT_SHORT]
    assert doubted(read(body(reason="length", usage=GEMINI | {"total_tokens": 7})), 8) == [answers.CUT_SHORT]


@pytest.mark.parametrize("usage", [{"total_tokens": 12}, GEMINI | {"total_tokens": "12"}, GEMINI | {"total_tokens": 1}])
def test_a_total_that_tells_nothing_is_not_read(usage):
    made = usage.get("completion_tokens")
    assert read(body(usage=usage)).length == made


IDS = Capability("completions", {}, can={"token ids": "yes", "log-probabilities": "none"})


def why_missing(*told):
    """(ids that are given, tokens that usage counts, finish reason) of each answer -> why it is missing, or ""."""
    before, found = EarlierAnswers(), []
    for number, (given, made, reason) in enumerate(told):
        choice = {"text": "one " * given, "token_ids": [1] * given}
        try:
            said = read(body(choice, reason, usage={"completion_tokens": made}) | {"id": str(number)})
        except BadAnswerError as error:
            found.append(str(error))
        else:
            found.append(outcome_of(said, IDS, before, PromptInput(text="a"))[1])
    return found


def test_an_end_token_that_usage_counts_and_ids_leave_out_is_no_missing_one():
    assert why_missing((4, 5, "stop"), (7, 8, "stop"), (8, 8, "length"), (4, 5, "tool_calls")) == [""] * 4


def test_a_token_that_is_missing_now_and_then_is_a_missing_one():
    for told in ([(4, 5, "stop"), (5, 5, "stop")], [(5, 5, "stop"), (4, 5, "stop")]):
        assert why_missing(*told)[0] == "" and "earlier answers" in why_missing(*told)[1]
    assert "its usage says that 8 were made" in why_missing((7, 8, "length"))[0]
    assert "its usage says that 8 were made" in why_missing((6, 8, "stop"))[0]


LONG = "x" * 48


def said_to(before, *told, **more):
    """(prompt, text) -> what each of these answers says of itself."""
    return [[*doubts(read(body(text, **more)), PromptInput(text=prompt), before, 8, False)] for prompt, text in told]


def test_one_long_text_whatever_was_asked_is_doubted_from_the_third_prompt_on():
    before = EarlierAnswers()
    assert said_to(before, ("a", LONG), ("b", LONG), ("a", LONG)) == [[]] * 3
    assert said_to(before, ("c", LONG), ("d", "x"), ("d", LONG + "x")) == [[answers.ALIKE], [], [answers.ALIKE]]
    assert said_to(before, ("a", "y"), ("a", LONG)) == [[answers.VARIED]] * 2
    assert answers.seen({answers.ALIKE: 3, answers.VARIED: 1}) == {} != answers.seen({answers.ALIKE: 3})


def test_one_text_that_is_short_or_to_few_prompts_is_ordinary():
    assert said_to(EarlierAnswers(), *[(prompt, LONG[1:]) for prompt in "abcdef"]) == [[]] * 6
    assert said_to(EarlierAnswers(), *[(prompt, LONG) for prompt in "abababab"]) == [[]] * 8
    turns = [PromptInput(messages=({"role": "user", "content": "a"}, *({"role": "assistant"},) * n)) for n in range(5)]
    before = EarlierAnswers()
    assert not [doubt for asked in turns for doubt in doubts(read(body(LONG)), asked, before, 8, False)]


def test_log_probabilities_tell_prompts_apart_whose_texts_are_one():
    def scored(prompt, before, *values):
        choice = {"text": LONG, "logprobs": {"tokens": [LONG] * len(values), "token_logprobs": list(values)}}
        return [*doubts(read(body(choice)), PromptInput(text=prompt), before, 99, False)]

    before = EarlierAnswers()
    assert not [doubt for n, prompt in enumerate("abcdef") for doubt in scored(prompt, before, -0.1 * n, -0.5)]
    printed = [-0.123, -1.25, -0.0112, -0.456, -0.789, -2.12]
    for values, doubted in ((printed, True), (printed[:5], False), ([round(v, 1) for v in printed], False)):
        before = EarlierAnswers()
        assert not scored("a", before, *values)
        assert (answers.CANNED in scored("b", before, *values)) == doubted
