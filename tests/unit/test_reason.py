"""Reasons: a code and values go into a run, a sentence comes out; older runs hold the sentence itself."""

import json

from detcheck.reason import Reason

SENTENCES = {"too_many": "there are {n} of them, and {most} can be told apart"}


def test_a_reason_comes_back_from_json_with_its_sentence():
    reason = Reason("too_many", {"n": 70, "most": 64})
    back = Reason.from_json(json.loads(json.dumps(reason.to_json())))
    assert back == reason
    assert back.sentence(SENTENCES) == "there are 70 of them, and 64 can be told apart"


def test_a_sentence_of_an_older_run_is_said_as_it_was():
    assert Reason.from_json("it is no {plain} sum").sentence(SENTENCES) == "it is no {plain} sum"


def test_no_reason_is_none():
    assert Reason.from_json(None) is Reason.from_json("") is None
