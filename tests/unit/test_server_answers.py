"""What is read out of one answer of a server, and what it says of itself."""

import pytest

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
