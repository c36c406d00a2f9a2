"""Given tokens, scored by servers whose every answer we wrote."""

import json

import pytest
from conftest import only_run
from misbehaving import completion, serving

from detcheck.storage.folder import RunFolder

PAIR = ("--prompt", "The sky is", "--continuation", " blue")
ASKED = (*PAIR, "-n", "16", "--format", "json", "-q")


@pytest.fixture
def ask(detcheck):
    def call(server, *arguments):
        result = detcheck("score", "--base-url", server.url, *ASKED, *arguments)
        return result, json.loads(result.out)["findings"][0] if result.out else None

    return call


@pytest.mark.parametrize(
    ("how", "level"), [({}, "bits"), ({"ids": False}, "bits"), ({"round_to": 4}, "digits")], ids=str
)
def test_the_same_scores_are_identical(ask, tmp_path, how, level):
    with serving(metrics=True, scores=True, **how) as server:
        result, found = ask(server)
    assert (result.code, found["verdict"], found["evidence"]["compared"]) == (0, "identical", level), found["note"]
    assert {"cold", "alone", "wave-2", "wave-8"} <= set(found["evidence"]["conditions"])
    assert found["evidence"]["finish_reasons"] == {"greedy": 16} and found["mode_text"] == " blue"
    outcomes = list(RunFolder(only_run(tmp_path / "runs")).outcomes().values())
    assert [len(o.tokens) for o in outcomes] == [5]
    if level == "bits":
        assert found["metrics"]["loglikelihood"] == pytest.approx(sum(-0.1 * (ord(c) % 8 + 1) for c in " blue"))
    sent = [body for body in server.requests if body.get("echo") and body.get("logprobs") == 2]
    assert len(sent) > 16 and {body["max_tokens"] for body in sent} == {1}
    prompts = {json.dumps(body["prompt"]) for body in sent[-16:]}
    assert prompts == {json.dumps([ord(c) for c in "The sky is blue"] if how != {"ids": False} else "The sky is blue")}


def off(when, **how):
    return lambda handler, body, number, together: completion(
        handler.server, body, number, **(how if when(number, together) else {})
    )


@pytest.mark.parametrize("fault", [{"ulp": 1}, {"leads": False}], ids=str)
def test_other_bits_in_company_are_caught(ask, fault):
    with serving(off(lambda number, together: together > 1, **fault), metrics=True, scores=True) as server:
        result, found = ask(server)
    assert (result.code, found["verdict"], found["distinct"]) == (1, "batch-variant", 1), found["note"]


def test_lone_requests_that_differ_are_run_variant(ask):
    with serving(off(lambda number, together: number % 2, ulp=1), metrics=True, scores=True) as server:
        result, found = ask(server)
    assert (result.code, found["verdict"]) == (1, "run-variant"), found["note"]


def test_unseen_batches_are_no_pass(ask):
    with serving(scores=True) as server:
        assert ask(server)[0].code == 3
        assert ask(server, "--allow-unseen-batch")[0].code == 0


@pytest.mark.parametrize("how", [{}, {"endpoints": ("chat",)}], ids=str)
def test_a_server_that_gives_no_scores_is_refused(ask, how):
    with serving(metrics=True, **how) as server:
        result, _ = ask(server)
    assert result.code == 2 and "gives no log-probabilities of a prompt" in " ".join(result.err.split())


def test_a_run_is_read_again(ask, detcheck, tmp_path):
    with serving(metrics=True, scores=True) as server:
        result, found = ask(server)
    again = detcheck("report", only_run(tmp_path / "runs"), "--format", "json")
    assert again.code == result.code and json.loads(again.out)["findings"][0] == found
    shown = detcheck("report", only_run(tmp_path / "runs"))
    assert "scores: echo, logprobs 2, max_tokens 1" in " ".join(shown.out.split())


@pytest.mark.parametrize("how", [{}, {"ids": False}], ids=str)
def test_an_empty_continuation_asks_for_the_prompts_own_tokens(detcheck, tmp_path, how):
    own = ("--prompt", "The sky ", "--continuation", "", "-n", "16", "-q")
    with serving(metrics=True, scores=True, **how) as server:
        result = detcheck("score", "--base-url", server.url, *own)
        (outcome,) = RunFolder(only_run(tmp_path / "runs")).outcomes().values()
        short = detcheck("score", "--base-url", server.url, "--prompt", "a", "--continuation", "", "-q")
    assert result.code == 0 and len(outcome.tokens) == len("he sky "), result.err
    said = (4, "no log-probabilities of the continuation") if how else (2, "has 1 token")
    assert short.code == said[0] and said[1] in " ".join(short.err.split())


def test_a_continuation_without_tokens_is_refused(detcheck, monkeypatch):
    monkeypatch.setattr("misbehaving.ids_of", lambda text: [ord(c) for c in text if c != "b"])
    with serving(metrics=True, scores=True) as server:
        result = detcheck("score", "--base-url", server.url, "--prompt", "xa", "--continuation", "b")
    assert result.code == 2 and "adds no token to the 2 of the context" in " ".join(result.err.split())
