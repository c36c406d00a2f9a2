"""What is read out of one answer of a server, and what it says of itself."""

import pytest

from detcheck import strict_json
from detcheck.engines.server.answer import BadAnswerError, read


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
