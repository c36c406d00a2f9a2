"""Conversations with a server: its answers are fed back as messages, and what it does wrong in a turn is found at that turn."""

import json

import pytest
from misbehaving import completion, good, serving

TALK = {
    "messages": [
        {"role": "user", "content": "Say a number."},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
        {"role": "assistant", "content": "Seven."},
        {"role": "user", "content": "And another."},
    ]
}
WAYS = ("--max-tokens", "8", "--turns", "--format", "json", "-q", "--prompt-file", "talk.jsonl")


@pytest.fixture
def ask(detcheck, write):
    write("talk.jsonl", TALK)

    def call(server, *arguments, conditions="cold,alone,wave-2", samples=8):
        how = ("-n", samples, *(("--conditions", conditions) if conditions else ()))
        result = detcheck("completions", "--base-url", server.url, *WAYS, *how, *arguments)
        return result.code, json.loads(result.out) if result.out else result.err

    return call


def turn_of(body):
    return sum(m["role"] == "assistant" for m in body.get("messages", ())) + 1


def answering(fault=lambda handler, body, number, turn, together: None, **changes):
    """`fault` may write an answer of its own, or return what is changed in a good one."""

    def answer(handler, body, number, together):
        return completion(
            handler.server, body, number, **(fault(handler, body, number, turn_of(body), together) or {}), **changes
        )

    return answer


def test_answers_are_fed_back_as_messages_and_a_sound_server_passes(ask):
    with serving(answering(), metrics=True) as server:
        code, report = ask(server)
        talks = [body["messages"] for body in server.requests if turn_of(body) == 3]
    (finding,) = report["findings"]
    assert (code, finding["verdict"]) == (0, "identical"), finding["note"]
    assert finding["evidence"]["turns"]["same_bits"] == [8, 8, 8] and "in all 3 turns" in finding["note"]
    asked, answer, result, second, last = talks[-1]
    assert (asked["content"], last["content"]) == ("Say a number.", "And another.")
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "7"}
    assert answer["role"] == second["role"] == "assistant" and "tool_calls" not in answer
    words = completion(server, {"messages": [asked], "max_tokens": 8}, 0)["choices"][0]["message"]["content"]
    assert answer["content"] == words


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_parting_under_load_is_found_at_its_turn_and_token(ask, turn):
    with serving(answering(lambda h, b, n, t, together: {"flip": t == turn and together > 1}), metrics=True) as server:
        code, report = ask(server)
    (finding,) = report["findings"]
    assert (code, finding["verdict"]) == (1, "batch-variant"), finding["note"]
    assert f"answers part first in turn {turn}, at token 3" in finding["note"]
    assert finding["evidence"]["turns"]["partings"][0][:2] == [turn, 3]


def test_a_server_that_dies_between_turns_leaves_what_was_observed(ask):
    def dies(handler, body, number, turn, together):
        if turn == 2 and number > 20:
            handler.server.dead = True
        if getattr(handler.server, "dead", False):
            handler.connection.close()
            raise ConnectionError

    with serving(answering(dies), metrics=True) as server:
        code, report = ask(server)
    (finding,) = report["findings"]
    talk = finding["evidence"]["turns"]
    assert (code, finding["verdict"]) == (3, "inconclusive")
    assert 0 < finding["samples"] < 8 and talk["broken_off"] >= 1
    assert talk["samples"][0] == finding["samples"] + talk["broken_off"]
    assert talk["samples"][0] > talk["samples"][2] == finding["samples"] == talk["same"][2]
    assert any(why.startswith("turn 2 of 3: ") for why in finding["evidence"]["missing"]), finding["evidence"][
        "missing"
    ]


def leaking(differs, salted):
    """A prefix cache: what was computed under a salt is found again under it; a turn that finds its history there `differs`."""
    known = set()

    def answer(handler, body, number, together):
        messages, salt = body.get("messages", ()), body.get("cache_salt")
        history = json.dumps(messages[:-1]), salt if salted else None
        hit = turn_of(body) > 1 and history in known
        for n in range(len(messages)):
            known.add((json.dumps(messages[:n]), salt if salted else None))
        known.add((json.dumps(list(messages)), salt if salted else None))
        made = completion(handler.server, body, number, flip=differs and hit)
        words = made["choices"][0]["message"]["content"]
        known.add((json.dumps([*messages, {"role": "assistant", "content": words}]), salt if salted else None))
        made["usage"]["prompt_tokens_details"] = {"cached_tokens": 4 if hit else 0}
        return made

    return answer


def test_a_cache_that_leaks_into_a_turn_is_named_as_such(ask):
    with serving(leaking(differs=True, salted=True), metrics=True) as server:
        code, report = ask(server)
        salts = {body["cache_salt"] for body in server.requests if "cache_salt" in body}
    (finding,) = report["findings"]
    assert (code, finding["verdict"]) == (1, "batch-variant"), finding["note"]
    assert "cold answers differ from all" in finding["note"]
    assert "cold and warm conversations part in turn 2, at token 3" in finding["note"]
    assert finding["evidence"]["first_variant_condition"] == "cold" and len(salts) == 5  # the very first needs none
    sizes = finding["evidence"]["turns"]["prompts"]
    assert [cached for _, cached in sizes["cold"]] == [[0, 0]] * 3
    assert [cached for _, cached in sizes["alone"]][1:] == [[4, 4]] * 2


def test_a_cache_that_gives_the_same_bits_passes_and_one_that_gives_nothing_is_no_comparison(ask):
    with serving(leaking(differs=False, salted=True), metrics=True) as server:
        code, report = ask(server)
    assert code == 0, report["findings"][0]["note"]
    with serving(answering(usage={"prompt_tokens_details": {"cached_tokens": 0}}), metrics=True) as server:
        code, report = ask(server)
    assert code == 3 and "warm and cold turns were not compared" in report["findings"][0]["note"]


def test_a_tool_call_ends_a_conversation_and_is_said(ask):
    def calls(handler, body, number, turn, together):
        text = "".join(f"{t}" for t in good("x")[0])
        called = {"message": {"role": "assistant", "content": text, "tool_calls": [{"id": "c"}]}}
        return {"choice": called} if turn == 2 else {}

    with serving(answering(calls), metrics=True) as server:
        code, report = ask(server)
    (finding,) = report["findings"]
    assert code == 3 and finding["evidence"]["turns"]["samples"] == [8, 8, 0]
    assert any(
        why.startswith("turn 3 of 3: the answer before it calls a tool") for why in finding["evidence"]["missing"]
    )


def test_a_server_whose_context_is_full_says_so_at_that_turn(ask):
    def full(handler, body, number, together):
        if turn_of(body) == 3:
            return handler.send({"error": {"message": "This model's maximum context length is 64 tokens"}}, 400)
        return completion(handler.server, body, number)

    with serving(full, metrics=True) as server:
        code, report = ask(server)
    (finding,) = report["findings"]
    assert code == 3 and finding["evidence"]["turns"]["same"] == [8, 8, 0]
    (why,) = finding["evidence"]["missing"]
    assert why == 'turn 3 of 3: status 400: "This model\'s maximum context length is 64 tokens"'


def test_turns_count_in_what_may_be_sent(ask, detcheck):
    with serving(answering(), metrics=True) as server:
        _, report = ask(server, "--max-requests", "90", conditions=None)
        assert len(server.requests) <= 90
        result = detcheck("completions", "--base-url", server.url, *WAYS, "-n", "8", "--dry-run")
    assert report["findings"][0]["samples"] == 8 and "24 turns of samples" in result.out, result.out
