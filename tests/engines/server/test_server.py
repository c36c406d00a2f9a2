"""detcheck against servers, through the command. What each must be found to be was written beforehand."""

import json
import os
import re
import socket
import struct
import time
from pathlib import Path

import misbehaving
import pytest
from misbehaving import completion, ids_of, serving
from warm import hears_ctrl_c

SMALL = ("-n", "16", "--max-tokens", "8", "--conditions", "alone,wave-2,staggered-4,wave-8", "--format", "json", "-q")


@pytest.fixture
def ask(detcheck):
    """Servers -> (exit code, report)."""

    def call(*servers, arguments=()):
        urls = [word for server in servers for word in ("--base-url", server.url)]
        result = detcheck("completions", *urls, *SMALL, *arguments)
        return result, json.loads(result.out)

    return call


def test_the_same_answers_where_batches_are_seen_are_identical_by_bits(ask):
    with serving(metrics=True) as server:
        result, report = ask(server)
    (finding,) = report["findings"]
    assert (result.code, finding["verdict"]) == (0, "identical"), finding["note"]
    assert finding["evidence"]["compared"] == "bits" and finding["samples"] == 16
    assert finding["evidence"]["concurrency"] > 4


def test_where_batches_are_not_seen_a_pass_must_be_accepted(ask):
    with serving() as server:
        result, report = ask(server)
        assert (result.code, report["verdict"]) == (3, "inconclusive")
        result, report = ask(server, arguments=["--allow-unseen-batch"])
    assert (result.code, report["verdict"]) == (0, "identical")
    assert "could not be seen, with up to" in report["findings"][0]["note"]


def by_company(handler, body, number, together):
    return completion(handler.server, body, number, flip=together > 1)


@pytest.mark.parametrize(("metrics", "verdict"), [(True, "batch-variant"), (False, "divergent")])
def test_another_answer_in_company_is_blamed_on_the_batch_only_where_it_was_seen(ask, metrics, verdict):
    with serving(by_company, metrics=metrics) as server:
        result, report = ask(server)
    assert (result.code, report["verdict"]) == (1, verdict), report["findings"][0]["note"]


def asks_me(body):
    """Whether it is the prompt that counts, and no neighbour's."""
    return body["prompt"] in ("ask me", ids_of("ask me"))


def test_a_rare_answer_that_comes_under_load_is_not_blamed_on_the_batch(ask):
    """Most requests are sent under load, so that is where a fault that strikes any request most likely shows."""
    once = iter([True])

    def rarely(handler, body, number, together):
        rare = together > 4 and asks_me(body) and next(once, False)
        return completion(handler.server, body, number, flip=rare)

    with serving(rarely, metrics=True) as server:
        result, report = ask(server, arguments=["--prompt", "ask me"])
    (finding,) = report["findings"]
    assert (result.code, finding["verdict"]) == (1, "divergent")
    assert finding["note"].startswith("4 lone requests agree, and 1 under load gives other bits, first in wave-8; ")
    assert "would spare all 4 in 75% of runs, so it is undetermined whether the batch caused it" in finding["note"]


def test_where_it_is_undetermined_the_lone_requests_that_are_advised_find_it_out(detcheck):
    noise = iter(range(1000))

    def noisy(handler, body, number, together):
        return completion(handler.server, body, number, flip=asks_me(body) and next(noise) % 14 == 13)

    asked = ("--prompt", "ask me", "--max-tokens", "8", "--format", "json", "-q", "--conditions")
    with serving(noisy, metrics=True, takes_s=0.01) as server:
        first = detcheck("completions", "--base-url", server.url, *asked, "alone,wave-2,wave-4", "-n", "36")
        advised = re.search(r"--conditions (\S+ --trials \d+ -n \d+)", json.loads(first.out)["findings"][0]["note"])[1]
        then = detcheck("completions", "--base-url", server.url, *asked, *advised.split())
    assert json.loads(first.out)["verdict"] == "divergent" and json.loads(then.out)["verdict"] == "run-variant"


@pytest.mark.parametrize("metrics", [True, False])
def test_lone_requests_that_differ_are_run_variant(ask, metrics):
    with serving(lambda h, body, n, t: completion(h.server, body, n, flip=n % 2), metrics=metrics) as server:
        result, report = ask(server)
    assert (result.code, report["verdict"]) == (1, "run-variant"), report["findings"][0]["note"]


def test_levels_of_comparison(ask):
    for how, level in (
        ({}, "bits"),
        ({"ids": False}, "bits"),
        ({"logprobs": False}, "tokens"),
        ({"ids": False, "logprobs": False}, "text"),
    ):
        with serving(metrics=True, **how) as server:
            result, report = ask(server)
        (finding,) = report["findings"]
        assert (result.code, finding["evidence"]["compared"]) == (0, level), finding["note"]


def test_log_probabilities_that_were_rounded_are_digits_not_bits(ask):
    def rounded(handler, body, number, together):
        return completion(handler.server, body, number, round_to=2 if spoils(number) else 3)

    with serving(lambda h, b, n, t: completion(h.server, b, n, round_to=3), metrics=True) as server:
        result, report = ask(server)
    (finding,) = report["findings"]
    assert (result.code, finding["evidence"]["compared"]) == (0, "digits"), finding["note"]
    assert "as they were printed" in finding["note"]
    with serving(rounded, metrics=True) as server:
        result, report = ask(server)
    assert result.code == 1 and report["findings"][0]["latent"]


def test_chat_where_that_is_all_there_is_or_was_asked_for(ask):
    for endpoints, arguments in ((("chat",), ()), (("completions", "chat"), ("--chat",))):
        with serving(metrics=True, endpoints=endpoints) as server:
            result, report = ask(server, arguments=arguments)
        assert (result.code, report["findings"][0]["evidence"]["compared"]) == (0, "bits"), report["findings"][0][
            "note"
        ]
        assert "messages" in server.requests[-1]
        assert report["environment"]["flags"]["server.endpoint"] == "/v1/chat/completions"


def test_a_prompt_goes_as_token_ids_where_they_are_taken(ask):
    with serving(metrics=True) as server:
        ask(server, arguments=["--prompt", "Say a number"])
        assert isinstance(server.requests[-1]["prompt"], list)
    with serving(metrics=True, ids=False) as server:
        ask(server, arguments=["--prompt", "Say a number"])
        assert isinstance(server.requests[-1]["prompt"], str)


def spoils(number):
    """One answer in five, after those that open the run."""
    return number > 8 and number % 5 == 0


def spoiled(fault):
    def answer(handler, body, number, together):
        return fault(handler, body, number) if spoils(number) else completion(handler.server, body, number)

    return answer


def reset(handler, body, number):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())
    raise ConnectionError


def half(handler, body, number):
    raw = json.dumps(completion(handler.server, body, number)).encode()
    handler.send(raw[: len(raw) // 2])


def cut_short(handler, body, number):
    handler.send_response(200)
    handler.send_header("Content-Length", "9999")
    handler.end_headers()
    handler.wfile.write(b'{"id": ')
    handler.close_connection = True


def bomb(handler, body, number):
    import gzip

    handler.send(gzip.compress(b" " * (64 << 20)), Content_Encoding="gzip")


def changed(**choice):
    return lambda h, body, number: completion(h.server, body, number, choice=choice)


def with_logprobs(values):
    def made(handler, body, number):
        whole = completion(handler.server, body, number)
        whole["choices"][0]["logprobs"]["token_logprobs"] = values(whole["choices"][0]["logprobs"]["token_logprobs"])
        return whole

    return made


# What is wrong with it, and the reason that must be given for the sample that is missing then.
FAULTS = {
    "reset": (reset, "ReadError"),
    "status 500": (lambda h, b, n: h.send({"error": {"message": "it broke"}}, 500), "status 500: 'it broke'"),
    "429 without Retry-After": (lambda h, b, n: h.send({"error": "slow down"}, 429), "status 429: 'slow down'"),
    "HTML": (lambda h, b, n: h.send(b"<html>hi</html>", content_type="text/html"), "not JSON (text/html)"),
    "half a JSON": (half, "not JSON"),
    "cut short": (cut_short, "RemoteProtocolError"),
    "a number": (lambda h, b, n: h.send(b"17"), "not a JSON object"),
    "gzip bomb": (bomb, "larger than 32 MiB"),
    "redirect": (lambda h, b, n: h.send(b"", 307, Location="http://127.0.0.2:1/v1/completions"), "it points to"),
    "another model": (lambda h, b, n: completion(h.server, b, n, model="other"), "answered by the model 'other'"),
    "no choices": (lambda h, b, n: completion(h.server, b, n, choices=[]), "0 choices"),
    "no choices at all": (lambda h, b, n: {"id": str(n)}, "no choices"),
    "two choices": (
        lambda h, b, n: (c := completion(h.server, b, n)) | {"choices": c["choices"] * 2},
        "2 choices, and one was asked for",
    ),
    "unfinished": (changed(finish_reason=None), "not finished"),
    "aborted": (changed(finish_reason="abort"), "not finished"),
    "no text": (changed(text=None), "no text"),
    "empty and yet long": (changed(text="", token_ids=[], logprobs=None), "empty"),
    "text without tokens": (changed(token_ids=[], logprobs=None), "a text and no tokens"),
    "no token ids": (changed(token_ids=None, logprobs=None), "no log-probabilities, which earlier answers had"),
    "log-probability as text": (with_logprobs(lambda v: [str(x) for x in v]), "not a number"),
    "log-probability null": (with_logprobs(lambda v: [None, *v[1:]]), "'None', not a number"),
    "log-probability -9999": (with_logprobs(lambda v: [*v[:-1], -9999.0]), "stands for one that is not known"),
    "too few log-probabilities": (with_logprobs(lambda v: v[1:]), "7 log-probabilities for 8 tokens"),
    "other text, same tokens": (changed(text="something else"), "not that of an earlier answer with the same tokens"),
    "from a cache": (lambda h, b, n: completion(h.server, b, "again"), "its id is that of an earlier answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_server_gets_wrong_is_a_missing_sample_with_its_reason(ask, name):
    fault, reason = FAULTS[name]
    with serving(spoiled(fault), metrics=True) as server:
        result, report = ask(server)
    (finding,) = report["findings"]
    assert (result.code, finding["verdict"]) == (3, "inconclusive"), finding["note"]
    assert finding["missing"] > 0 and finding["samples"] + finding["missing"] == 16 and finding["distinct_bits"] == 1
    assert any(reason in why for why in finding["evidence"]["missing"]), finding["evidence"]["missing"]


def test_a_fault_hides_no_difference(ask):
    def fault(handler, body, number, together):
        if spoils(number):
            return handler.send({"error": "broke"}, 500)
        return by_company(handler, body, number, together)

    with serving(fault, metrics=True) as server:
        result, report = ask(server)
    assert (result.code, report["verdict"]) in (
        (1, "batch-variant"),
        (1, "divergent"),
    )  # the second if a lone one was hit
    assert report["findings"][0]["missing"] > 0


def test_finish_reasons_that_differ_are_a_divergence(ask):
    with serving(spoiled(changed(finish_reason="stop")), metrics=True) as server:
        result, report = ask(server)
    assert result.code == 1 and report["findings"][0]["latent"]
    assert set(report["findings"][0]["evidence"]["finish_reasons"]) == {"stop", "length"}


def test_completions_that_are_all_empty_prove_nothing(ask):
    empty = {"text": "", "token_ids": [], "logprobs": {"tokens": [], "token_logprobs": []}, "finish_reason": "stop"}
    none = {"prompt_tokens": 4, "completion_tokens": 0}
    with serving(lambda h, b, n, t: completion(h.server, b, n, choice=empty, usage=none), metrics=True) as server:
        result, report = ask(server)
    assert (result.code, report["verdict"]) == (3, "inconclusive")
    assert "every completion is empty" in report["findings"][0]["note"]


def test_a_busy_server_is_waited_for_when_it_says_how_long(ask):
    turned_away = set()

    def busy(handler, body, number, together):
        key = json.dumps(body), number // 7
        if number % 7 == 0 and key not in turned_away:
            turned_away.add(key)
            return handler.send({"error": "busy"}, 503, Retry_After="0.05")
        return completion(handler.server, body, number)

    with serving(busy, metrics=True) as server:
        result, report = ask(server)
    assert result.code == 0, report["findings"][0]["note"]
    assert report["findings"][0]["evidence"]["resent"] > 0 and report["findings"][0]["missing"] == 0
    with serving(spoiled(lambda h, b, n: h.send({}, 429, Retry_After="9999")), metrics=True) as server:
        result, report = ask(server)
    assert result.code == 3 and any("Retry-After 9999 s" in why for why in report["findings"][0]["evidence"]["missing"])


def test_a_server_that_is_slow_costs_the_samples_that_took_too_long(ask):
    def slow(handler, body, number):
        time.sleep(2)

    with serving(spoiled(slow), metrics=True) as server:
        result, report = ask(server, arguments=["--timeout", "0.5"])
    assert result.code == 3 and any(
        "no answer within 0.5 s" in why for why in report["findings"][0]["evidence"]["missing"]
    )


def test_a_server_that_goes_away_is_judged_on_what_it_said(ask):
    def dying(handler, body, number, together):
        if number > 20:
            handler.server.socket.close()
            return reset(handler, body, number)
        return completion(handler.server, body, number)

    with serving(dying, metrics=True) as server:
        result, report = ask(server)
    (finding,) = report["findings"]
    assert (result.code, finding["verdict"]) == (3, "inconclusive") and 0 < finding["samples"] < 16
    assert finding["samples"] + finding["missing"] == 16


def test_other_traffic_is_seen_and_a_lone_request_in_company_is_no_lone_one(ask):
    with serving(metrics=True) as server:
        server.running = 3  # somebody else's, all the time
        result, report = ask(server)
    (finding,) = report["findings"]
    assert result.code == 3 and "not formed as asked in alone" in finding["note"]


def test_replicas_are_judged_apart_and_against_each_other(ask):
    def other(handler, body, number, together):
        return completion(handler.server, body, number, flip=True)

    with serving(metrics=True) as a, serving(other, metrics=True) as b, serving(metrics=True) as c:
        result, report = ask(a, b, c)
    found = {f["case"]["replica"]: f for f in report["findings"]}
    assert result.code == 1 and [found[n]["verdict"] for n in (1, 2, 3)] == ["identical"] * 3
    assert found[0]["verdict"] == "divergent" and found[0]["note"] == "replica 2 differs from 1 and 3"
    assert found[0]["evidence"]["compared"] == found[1]["evidence"]["compared"] == "bits"
    assert found[0]["histogram"] == [[3, found[0]["samples"] // 3]]
    with serving(metrics=True) as a, serving(metrics=True) as b:
        result, report = ask(a, b)
    assert (result.code, report["verdict"]) == (0, "identical")


KEY = "sk-secret-0123456789"


def test_no_secret_is_written_anywhere(detcheck, monkeypatch, tmp_path):
    monkeypatch.setenv("DETCHECK_API_KEY", KEY)
    monkeypatch.setenv("GATEWAY", "gateway-secret")

    def quoting(handler, body, number):
        handler.send({"error": f"bad key {handler.headers['Authorization']} {handler.headers['X-Gate']}"}, 403)

    with serving(spoiled(quoting), metrics=True) as server:
        result = detcheck("completions", "--base-url", server.url, "--header", "X-Gate=GATEWAY", *SMALL)
    assert any(
        h.get("Authorization") == f"Bearer {KEY}" and h.get("X-Gate") == "gateway-secret" for h in server.headers_seen
    )
    assert "status 403: 'bad key Bearer *** ***'" in result.out
    with serving(metrics=True) as server:
        url = server.url.replace("//", "//user:word-of-passing@")
        named = detcheck("completions", "--base-url", url, *SMALL)
    assert any("Basic" in h.get("Authorization", "") for h in server.headers_seen) and named.code == 0
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 8
    for text in (*written, result.out.encode(), result.err.encode(), named.out.encode(), named.err.encode()):
        for secret in (KEY, "gateway-secret", "word-of-passing"):
            assert secret.encode() not in text


def test_a_key_does_not_follow_a_redirect(ask, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as other:
        to_other = spoiled(lambda h, b, n: h.send(b"", 302, Location=f"{other.url}/v1/completions"))
        with serving(to_other, metrics=True) as server:
            ask(server)
    assert not other.headers_seen


def test_tls_is_verified(detcheck):
    authority = Path(misbehaving.__file__).with_name("loopback-ca.pem")
    with serving(metrics=True, tls=True) as server:
        unknown = detcheck("completions", "--base-url", server.url, *SMALL)
        known = detcheck("completions", "--base-url", server.url, *SMALL, "--ca-bundle", authority)
    assert unknown.code == 4 and "CERTIFICATE_VERIFY_FAILED" in unknown.err
    assert known.code == 0, known.err


REFUSED = {
    ("--kernels", "batch-invariant"): "DETCHECK_KERNELS=batch-invariant vllm serve",
    ("--kernels", "engine"): "VLLM_BATCH_INVARIANT=1 vllm serve",
    ("--engine", "vllm"): "--base-url is for servers, and the engine is vLLM",
    ("--dtype", "bf16"): "--dtype is the server's own matter",
    ("--header", "X-Key: secret"): "wants NAME=VARIABLE",
    ("--header", "X-Key=NOT_SET_ANYWHERE"): "no environment variable NOT_SET_ANYWHERE",
    ("--ca-bundle", "nowhere.pem"): "no such file",
    ("--conditions", "cached"): "no such condition of a server",
    ("--conditions", "rate"): "--load-rate",
    ("--conditions", "wave-80"): "--max-concurrency",
    ("--timeout", "0"): "--timeout must be a number above 0",
    ("--max-requests", "20"): "--max-requests",
}


@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_what_cannot_be_asked_of_a_server_is_refused_in_words(detcheck, options):
    with serving(metrics=True) as server:
        result = detcheck("completions", "--base-url", server.url, *SMALL, *options)
    assert result.code == 2 and REFUSED[options] in result.err and not result.out
    assert "secret" not in result.err


def test_urls_and_models_that_are_none(detcheck):
    for url, said in (("localhost:8000", "wants http://"), ("http://", "wants http://"), ("ftp://x", "wants http://")):
        result = detcheck("completions", "--base-url", url, *SMALL)
        assert result.code == 2 and said in result.err, result.err
    result = detcheck("completions", "--base-url", "http://127.0.0.1:9", *SMALL)
    assert result.code == 4 and "cannot be asked" in result.err
    with serving(metrics=True) as server:
        result = detcheck("completions", "--base-url", f"{server.url}/v1/", *SMALL)
        assert result.code == 0
        server.model = "other"
        result = detcheck("completions", "--base-url", server.url, "--model", "mine", *SMALL)
        assert result.code == 4 and "answered as other" in result.err
        server.models = ("m", "n")
        result = detcheck("completions", "--base-url", server.url, *SMALL)
        assert result.code == 2 and "serves m, n. Say which one" in result.err
    result = detcheck("completions", "--dry-run")
    assert result.code == 2 and "give --base-url" in result.err


def test_a_dry_run_says_the_cost_and_sends_nothing(detcheck):
    with serving() as server:
        result = detcheck("completions", "--base-url", server.url, "-n", "40", "--max-tokens", "8", "--dry-run")
    assert result.code == 0 and not server.headers_seen
    sent, samples, fillers = map(int, re.findall(r"\d+", result.out.split("at most")[0])[:3])
    assert samples == 40 and sent == samples + fillers
    with serving(metrics=True) as server:
        detcheck("completions", "--base-url", server.url, "-n", "40", "--max-tokens", "8", "-q", "--trials", "2")
    assert sent < len(server.requests) <= sent + 16


def test_max_requests_is_never_passed(detcheck):
    with serving(metrics=True) as server:
        result = detcheck("completions", "--base-url", server.url, *SMALL, "--max-requests", "40")
    assert len(server.requests) <= 40 and result.code == 0


def test_a_steady_load_is_sent_whether_or_not_answers_come(ask):
    with serving(by_company, metrics=True, takes_s=0.2) as server:
        result, report = ask(server, arguments=["--load-rate", "60", "--conditions", "alone,rate", "--trials", "2"])
    (finding,) = report["findings"]
    assert (result.code, finding["verdict"]) == (1, "batch-variant"), finding["note"]
    assert finding["evidence"]["concurrency"] > 4 and list(finding["evidence"]["conditions"]) == ["alone", "rate"]


def test_a_run_of_a_server_can_be_resumed_and_shown_without_it(detcheck):
    with serving(metrics=True) as server:
        detcheck("completions", "--base-url", server.url, *SMALL)
        (run,) = Path("runs").iterdir()
        for part in sorted((run / "observations").iterdir())[1:]:
            part.unlink()
        again = detcheck("completions", "--resume", run, "--format", "json", "-q")
    assert again.code == 0, again.err
    shown = detcheck("report", run, "--format", "json")
    assert json.loads(shown.out)["findings"] == json.loads(again.out)["findings"]
    for format in ("terminal", "md", "html", "junit"):
        assert detcheck("report", run, "--format", format).code == 0
    assert "seen in /metrics" in detcheck("report", run).out


def test_a_batch_that_was_never_seen_is_not_blamed(ask):
    with serving(by_company, metrics=True, gauge=lambda running: min(running, 1), counts=False) as server:
        result, report = ask(server)
    (finding,) = report["findings"]
    assert (result.code, finding["verdict"]) == (1, "divergent") and "not seen to run requests together" in finding[
        "note"
    ]


def test_a_change_in_time_is_not_blamed_on_the_load(ask):
    with serving(lambda h, b, n, t: completion(h.server, b, n, flip=n > 9), metrics=True) as server:
        result, report = ask(server)
    assert (result.code, report["verdict"]) == (1, "run-variant")


ODD = {
    "top_logprobs a number": lambda c: c["logprobs"].update(top_logprobs=3),
    "top_logprobs of numbers": lambda c: c["logprobs"].update(top_logprobs=[{"a": 10**400}] * 8),
    "a huge log-probability": lambda c: c["logprobs"].update(token_logprobs=[-(10**400)] * 8),
    "huge names": lambda c: c["logprobs"].update(tokens=[f"token_id:{10**30}"] * 8),
    "negative ids": lambda c: c.update(token_ids=[-1] * 8),
    "ids that contradict": lambda c: c.update(token_ids=[1] * 8),
    "a reason that is none": lambda c: c.update(finish_reason="\ud800"),
    "a surrogate": lambda c: c.update(text="\ud800" * 3),
    "a choice that is null": lambda c: c.clear(),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_values_cost_a_sample_and_nothing_else(ask, name):
    def odd(handler, body, number):
        whole = completion(handler.server, body, number)
        ODD[name](whole["choices"][0])
        return whole

    with serving(spoiled(odd), metrics=True) as server:
        result, report = ask(server)
    (finding,) = report["findings"]
    harmless = name.startswith("top_logprobs")  # they are shown, and not compared
    assert (result.code == 0) if harmless else (result.code in (1, 3)), finding["note"]
    assert finding["samples"] >= 10 and not report["summary"]["warnings"]


def test_metrics_that_are_rubbish_are_not_evidence(ask):
    for value in ("NaN", "+Inf", "1e12", "-3", "x"):
        with serving(metrics=True, gauge=lambda running, value=value: value) as server:
            result, report = ask(server)
        assert (result.code, report["verdict"]) == (3, "inconclusive"), value


def test_log_probabilities_that_are_all_zero_are_no_bits(ask):
    with serving(lambda h, b, n, t: with_logprobs(lambda v: [0.0] * len(v))(h, b, n), metrics=True) as server:
        _, report = ask(server)
    assert report["findings"][0]["evidence"]["compared"] == "digits"


def test_a_model_whose_name_only_begins_alike_is_another(detcheck):
    for served, code in (("mixtral-evil", 4), ("m-2024-08-06", 0)):
        with serving(lambda h, b, n, t: completion(h.server, b, n), metrics=True, model=served) as server:
            result = detcheck("completions", "--base-url", server.url, "--model", "m", *SMALL)
        assert result.code == code, result.err


def test_a_server_that_is_always_busy_is_not_flooded(ask):
    def busy(handler, body, number, together):
        return completion(handler.server, body, number) if number < 9 else handler.send({}, 429, Retry_After="0")

    with serving(busy, metrics=True) as server:
        ask(server, arguments=["--timeout", "2", "--max-requests", "40", "--conditions", "alone,wave-4"])
    assert len(server.requests) <= 40


def test_ctrl_c_in_a_wave_keeps_what_has_come(tmp_path):
    """31 of 32 answered at once, one never: then Ctrl-C."""
    import signal
    import subprocess
    import sys
    import threading

    hang, waiting = threading.Event(), threading.Event()

    def one_hangs(handler, body, number, together):
        if number == 20:
            waiting.set()
            hang.wait(30)
        return completion(handler.server, body, number)

    with serving(one_hangs, metrics=True) as server:
        command = [
            sys.executable,
            "-m",
            "detcheck",
            "completions",
            "--base-url",
            server.url,
            "-n",
            "38",
            "--max-tokens",
            "8",
            "-q",
        ]
        command += ["--conditions", "alone,wave-32", "--trials", "1", "--batch-sizes", "1,32", "--format", "json"]
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hears_ctrl_c
        )
        assert waiting.wait(60)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        hang.set()
    report = json.loads(out)
    assert process.returncode == 130, err
    (finding,) = report["findings"]
    assert finding["samples"] >= 31 and "interrupted before it was answered" in finding["evidence"]["missing"]


def test_a_named_header_goes_before_the_key(ask, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GATEWAY", "Bearer gateway-secret")
    with serving(metrics=True) as server:
        ask(server, arguments=["--header", "authorization=GATEWAY"])
    assert {v for h in server.headers_seen for n, v in h.items() if n.lower() == "authorization"} == {
        "Bearer gateway-secret"
    }


PASSWORDS = ("p@ssword-X", "pass word-X", "pa/ssword-X", "plain-word-X")


@pytest.mark.parametrize("password", PASSWORDS)
def test_no_password_of_a_url_is_written_whatever_is_in_it(detcheck, tmp_path, password):
    with serving(metrics=True) as server:
        result = detcheck("completions", "--base-url", server.url.replace("//", f"//user:{password}@"), *SMALL)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for text in (*written, result.out.encode(), result.err.encode()):
        assert b"word-X" not in text


def test_a_key_that_a_server_says_again_is_written_nowhere(detcheck, monkeypatch, tmp_path):
    monkeypatch.setenv("DETCHECK_API_KEY", KEY)
    for fault in (
        lambda h, b, n, t: completion(h.server, b, n, choice={"text": f"say {KEY}"}),
        lambda h, b, n, t: h.send(b"x" * 105 + KEY.encode()) if spoils(n) else completion(h.server, b, n),
        lambda h, b, n, t: completion(h.server, b, n, choice={"finish_reason": KEY}),
        lambda h, b, n, t: completion(h.server, b, n, model=KEY) if spoils(n) else completion(h.server, b, n),
    ):
        with serving(fault, metrics=True, version=KEY) as server:
            result = detcheck("completions", "--base-url", server.url, *SMALL)
        assert KEY[:10] not in result.out + result.err
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 8 and not any(KEY[:10].encode() in text for text in written)


def test_https_is_verified_in_whatever_case_it_is_written(detcheck):
    with serving(metrics=True, tls=True) as server:
        result = detcheck("completions", "--base-url", server.url.replace("https", "HTTPS"), *SMALL)
    assert result.code == 4 and "CERTIFICATE_VERIFY_FAILED" in result.err
