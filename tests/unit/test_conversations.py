"""Conversations without a model: how a file is cut into turns, what a template puts between answers, and where answers part."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from detcheck.engine import Sample
from detcheck.errors import UsageError
from detcheck.harness.conversations import conversation
from detcheck.judge import turns
from detcheck.judge.statistics import describe
from detcheck.judge.tally import Tally
from detcheck.models.conversation import LostAnswerError, between
from detcheck.outcomes import joined, outcome, turn_at
from detcheck.records import Case, Condition, Observation, Step
from detcheck.storage.tables import outcome_row, read_outcome
from detcheck.turns import whole


def said(role, content="x", **others):
    return {"role": role, "content": content, **others}


def roles(*messages, where="file, line 1"):
    found = conversation({"messages": list(messages)}, where)
    return [[m["role"] for m in group] for group in (found.messages, *found.later)]


def test_a_script_is_answered_after_each_user_message_and_each_group_of_tool_results():
    system, user, tool = said("system"), said("user"), said("tool", tool_call_id="1")
    assert roles(system, user, user, tool, tool, user) == [["system", "user"], ["user"], ["tool", "tool"], ["user"]]
    assert roles(user, system) == [["user"], ["system"]]


def test_an_agents_trace_is_answered_where_its_assistant_answered():
    call = said("assistant", None, tool_calls=[{"id": "1"}])
    system, user, tool, answer = said("system"), said("user"), said("tool", tool_call_id="1"), said("assistant")
    assert roles(system, user, user, call, tool, tool, answer, user, answer) == [
        ["system", "user", "user"],
        ["tool", "tool"],
        ["user"],
    ]
    assert roles(user, call, answer, user) == [["user"], ["user"]], "two answers in a row are one"


def test_what_is_handed_on_is_scripted_and_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = conversation({"messages": [said("user", parts), said("tool", "r", tool_call_id="7", extra=1)]}, "here")
    assert found.messages == ({"role": "user", "content": "a\nb"},)
    assert found.later == (({"role": "tool", "content": "r", "tool_call_id": "7"},),)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"prompt": "x"}, "with --turns a line wants"),
        ({"messages": []}, "no message before"),
        ({"messages": [said("assistant"), said("user")]}, "no message before the model's first answer"),
        ({"messages": [said("user", [{"type": "image_url"}])]}, "no text"),
        ({"messages": [said("user", None)]}, "no text"),
        ({"messages": [{"content": "x"}]}, "no role"),
        ({"messages": [said("user")], "tools": [{}]}, "`tools` are not offered"),
    ],
)
def test_what_cannot_be_scripted_is_refused_with_its_place(value, why):
    with pytest.raises(UsageError, match="line 3.*" + why.replace("(", r"\(")):
        conversation(value, "file, line 3")


def chatml(messages):
    return "".join(f"<{m['role']}>{m['content'].strip()}</>\n" for m in messages) + "<assistant>"


def test_between_two_answers_stands_what_the_template_writes_there():
    later = [[said("tool", "r1"), said("tool", "r2")], [said("user", "next")]]
    assert between(chatml, [said("user", "first")], later) == [
        "</>\n<tool>r1</>\n<tool>r2</>\n<assistant>",
        "</>\n<user>next</>\n<assistant>",
    ]


def test_a_template_that_drops_answers_is_found_out():
    forgetful = lambda messages: chatml(m for m in messages if m["role"] == "user")  # noqa: E731
    with pytest.raises(LostAnswerError) as lost:
        between(forgetful, [said("user")], [[said("user")]])
    assert lost.value.turn == 2


def answer(*tokens, bits=0, reason="length"):
    logprobs = (np.full(len(tokens), -1.0, np.float32).view(np.uint32) + np.uint32(bits)).view(np.float32)
    return outcome(
        np.asarray(tokens, np.int64), logprobs=logprobs, finish_reason=reason, text=" ".join(map(str, tokens))
    )


def test_answers_are_joined_and_survive_storage():
    whole = joined([answer(1, 2, 3), answer(4, reason="stop")])
    assert whole.turns.tolist() == [3, 1] and whole.finish_reason == "length,stop"
    assert whole.text == "1 2 3 [turn 2] 4"
    assert [turn_at(whole, n) for n in range(5)] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    again = read_outcome(
        {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in outcome_row(whole).items()}
    )
    assert again.id == whole.id and again.turns.tolist() == [3, 1]
    elsewhere = joined([answer(1, 2), answer(3, 4, reason="stop")])
    assert elsewhere.tokens.tolist() == whole.tokens.tolist() and elsewhere.id != whole.id


def test_answers_of_unlike_kinds_are_compared_by_their_text():
    text = outcome(np.asarray([104, 105]), unit="character", text="hi", finish_reason="stop")
    whole = joined([answer(1), text])
    assert whole.unit == "character" and whole.turns.tolist() == [1, 2] and whole.logprobs is None


@pytest.mark.parametrize(
    ("other", "tokens", "bits"),
    [
        ([answer(1, 2), answer(3, 4)], None, None),
        ([answer(1, 2), answer(3, 9)], (2, 1), (2, 1)),
        ([answer(9, 2), answer(9, 4)], (1, 0), (1, 0)),
        ([answer(1, 2), answer(3, 4, bits=1)], None, (2, 0)),
        ([answer(1, 2, bits=1), answer(9, 4)], (2, 0), (1, 0)),
        ([answer(1, 2, reason="stop"), answer(3, 4)], None, (1, 2)),
        ([answer(1), answer(2, 3, 4)], (1, 1), (1, 1)),
        ([answer(1, 2)], None, None),  # it broke off, and is the same as far as it goes
        ([answer(1, 7)], (1, 1), (1, 1)),
    ],
)
def test_where_conversations_part(other, tokens, bits):
    usual = joined([answer(1, 2), answer(3, 4)])
    assert turns.parting(usual, joined(other)) == tokens
    assert turns.parting(usual, joined(other), bits=True) == bits


def evidence(*samples, asked=3):
    """(condition, answers, why it broke off, cached tokens) each -> what is seen of them."""
    case, tally, outcomes = Case("completions", "m", "stock", "float32", "0:0"), Tally(), {}
    for n, (name, given, missing, cached) in enumerate(samples):
        one = joined(given) if given else None
        outcomes |= {one.id: one} if one else {}
        sizes = tuple((10 * turn, cached) for turn in range(1, len(given) + 1))
        seen = Observation(
            case, Condition(name, 1, 0, "c"), n, n, 0, one and one.id, (1,), missing=missing, turns=sizes
        )
        tally.add(seen, readable=one is not None, scheduled=True)
    tally.close()
    counts = sum(tally.conditions.values(), Counter())
    steps = [Step(0, "0:0", "alone", 0, (0,), turns=asked)]
    return turns.seen(tally, counts, outcomes, steps), tally


WHOLE = [answer(1, 2), answer(3, 4), answer(5, 6)]
LEAVES = [answer(1, 2), answer(3, 9), answer(8, 8)]


def test_survival_counts_those_that_broke_off_as_far_as_they_go():
    found, tally = evidence(
        ("alone", WHOLE, "", 0),
        ("alone", WHOLE, "", 0),
        ("batch-2", LEAVES, "", 8),
        ("alone", WHOLE[:1], "turn 2 of 3: gone", 0),
        ("alone", [], "turn 1 of 3: gone", 0),
    )
    assert found["samples"] == [4, 3, 3] and found["same"] == [4, 2, 2] == found["same_bits"]
    assert found["partings"] == [[2, 1, 1]] and found["broken_off"] == 1
    assert found["prompts"]["batch-2"] == [[(10, 10), (8, 8)], [(20, 20), (8, 8)], [(30, 30), (8, 8)]]
    assert dict(tally.missing) == {"turn 2 of 3: gone": 1, "turn 1 of 3: gone": 1}


def test_one_that_broke_off_can_differ_already():
    found, _ = evidence(("alone", WHOLE, "", 0), ("alone", [answer(1, 7)], "turn 2 of 3: gone", 0))
    assert found["partings"] == [[1, 1, 1]]
    assert turns.broken_and_apart({"turns": found}) == (
        "conversations that broke off differ from the others; answers part first in turn 1, at token 1"
    )


def test_cold_and_warm_are_compared_by_name():
    found, _ = evidence(("alone", WHOLE, "", 8), ("cold", LEAVES, "", 0))
    assert found["cold"] == (2, 1) and "cold and warm conversations part in turn 2" in turns.note({"turns": found})
    same, _ = evidence(("alone", WHOLE, "", 8), ("cold", WHOLE, "", 0))
    assert "cold" not in same and not [*turns.doubts({"turns": same, "conditions": {"cold": {"asked": 2}}})]


def test_a_cache_that_gave_nothing_is_no_comparison():
    found, _ = evidence(("alone", WHOLE, "", 0), ("cold", WHOLE, "", 0))
    asked = {"cold": {"asked": 2}}
    assert "were not compared" in next(turns.doubts({"turns": found, "conditions": asked}))
    assert not [*turns.doubts({"turns": found, "conditions": {"cold": {"asked": 1}}})], "only its first turn was cold"
    unknown, _ = evidence(("alone", WHOLE, "", None), ("cold", WHOLE, "", None))
    assert not [*turns.doubts({"turns": unknown, "conditions": asked})], "what is not known is no reason"


def test_without_conversations_nothing_is_said():
    assert evidence(("alone", WHOLE, "", 0), asked=1)[0] == {}
    assert not turns.note({}) and not turns.broken_and_apart({}) and not [*turns.doubts({})]
    assert replace(answer(1), turns=None).id == answer(1).id


def test_answers_that_end_elsewhere_are_other_answers_though_all_tokens_are_the_same():
    """Under --fail-on tokens too."""
    a, b = joined([answer(1, 2), answer(3)]), joined([answer(1), answer(2, 3)])
    case, counts = Case("completions", "m", "stock", "", "0"), Counter({a.id: 3, b.id: 1})
    found = describe(case, counts, Counter({frozenset([a.id]): 1, frozenset([b.id]): 1}), {a.id: a, b.id: b})
    assert (found.distinct, found.distinct_bits, found.latent, found.forks) == (2, 2, False, ())


def test_a_conversation_that_was_cut_off_between_turns_is_missing_its_end():
    """Ctrl-C at a server: the answers so far are no whole conversation."""
    came = Sample(Condition("alone", 1, 0), answer(1, 2))
    assert whole([came], 3, "").missing == "turn 2 of 3: interrupted"
    assert whole([came, came], 2, "").missing == ""
