"""The first answer to a prompt is a sample: a server whose cold prefix cache gives other bits than its warm one is found out."""

import json

import pytest
from misbehaving import completion, serving

ASKED = ("-n", "8", "--max-tokens", "8", "--allow-unseen-batch", "--format", "json", "-q")


@pytest.fixture
def ask(detcheck):
    def call(server, *arguments):
        result = detcheck("completions", "--base-url", server.url, *ASKED, *arguments)
        return result.code, json.loads(result.out)

    return call


def caching(cold_differs=True, salted=True):
    """Answers otherwise where nothing of the prompt was computed before, as with a prefix cache; under another salt too, if `salted`."""

    def key(body):
        return body.get("prompt") or body.get("messages"), body.get("cache_salt") if salted else None

    def answer(handler, body, number, together):
        cold = [key(each) for each in handler.server.requests].count(
            key(body)
        ) == 1  # requests that open a run included
        return completion(handler.server, body, number, flip=cold and cold_differs)

    return answer


@pytest.mark.parametrize("chat", [(), ("--chat",)])
def test_the_first_answer_is_a_sample_and_its_difference_is_named(ask, chat):
    with serving(caching()) as server:
        code, report = ask(server, *chat)
    (finding,) = report["findings"]
    assert (code, finding["verdict"]) == (1, "divergent")
    assert finding["note"].startswith("the first answer to the prompt differs from all 7 later ones")
    assert finding["evidence"]["first_variant_condition"] == "cold" and finding["samples"] == 8


@pytest.mark.parametrize("prompt", ["Tell me about copper", "copper"])
def test_nothing_that_opens_the_run_asks_for_the_prompt_itself(ask, prompt):
    with serving(caching()) as server:
        ask(server, "--prompt", prompt)
        asked = [body["prompt"] for body in server.requests]
    texts = [text if isinstance(text, str) else "".join(map(chr, text)) for text in asked]
    first = texts.index(prompt)
    assert server.requests[first]["max_tokens"] == 8, "a short one would have filled the cache"
    assert first > 2 and not any(text[0] == prompt[0] for text in texts[:first])


def test_where_the_server_takes_a_salt_cold_answers_are_repeated(ask):
    """vLLM, by its metrics: cold answers agree with each other, and warm ones do."""
    with serving(caching(), metrics=True) as server:
        code, report = ask(server, "--trials", "3", "-n", "16")
        salts = [body["cache_salt"] for body in server.requests if "cache_salt" in body]
    (finding,) = report["findings"]
    assert (code, finding["verdict"]) == (1, "batch-variant")
    assert "all 3 cold answers differ from all 13 warm ones" in finding["note"]
    assert len(set(salts)) == 2


def test_cold_answers_that_differ_from_each_other_are_run_variant(ask):
    """The fault is noise, not the cache."""
    count = iter(range(100))

    def noisy(handler, body, number, together):
        flip = "cache_salt" in body and next(count) % 2 == 0
        return completion(handler.server, body, number, flip=flip)

    with serving(noisy, metrics=True) as server:
        code, report = ask(server, "--trials", "3", "-n", "16")
    assert (code, report["findings"][0]["verdict"]) == (1, "run-variant")


def test_a_sound_server_passes_with_its_first_answers_among_the_samples(ask, tmp_path):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    with serving(caching(cold_differs=False)) as server:
        code, report = ask(server, "--prompt-file", "prompts.txt")
    assert code == 0 and len(report["findings"]) == 2
    for finding in report["findings"]:
        assert finding["evidence"]["conditions"]["cold"]["samples"] == 1


def test_without_the_condition_prompts_are_warm_before_they_count(ask):
    with serving(caching()) as server:
        code, report = ask(server, "--conditions", "alone,wave-2")
    assert code == 0 and set(report["findings"][0]["evidence"]["conditions"]) == {"alone", "wave-2"}


def test_few_samples_leave_it_out_and_say_so(ask):
    with serving(caching()) as server:
        _, report = ask(server, "-n", "2")
    (finding,) = report["findings"]
    assert any(line.startswith("cold: ") for line in finding["evidence"]["not_tried"])


def test_cold_needs_something_to_compare_it_with(detcheck):
    with serving(caching()) as server:
        result = detcheck("completions", "--base-url", server.url, "-n", "1", "--conditions", "cold", "-q")
    assert result.code == 2 and "--conditions cold" in result.err and "Ask for more samples" in result.err
