"""A server's own counts beside its answers: what was not computed there is no sample, and counts that come late are no evidence."""

import json
import threading
import time

import pytest
from misbehaving import completion, serving

from detcheck.engines.server import send

ASKED = ("--max-tokens", "8", "--allow-unseen-batch", "--format", "json", "-q")
LACKED = "the server's own counts in /metrics grew by less than the answers of its step"


@pytest.fixture
def ask(detcheck, monkeypatch):
    """Server, arguments -> (exit code, finding). Counters are not waited for as long as they are for people."""
    monkeypatch.setattr(send, "SETTLE_S", 0.3)
    monkeypatch.setattr(send, "LATE_S", 2.0)

    def call(server, *arguments):
        result = detcheck("completions", "--base-url", server.url, *ASKED, *arguments)
        return result.code, json.loads(result.out)["findings"][0]

    return call


def caching():
    """A cache in front of a server whose answers depend on their company: it gives a prompt's first answer again, under a new id."""
    lock, kept = threading.Lock(), {}

    def answer(handler, body, number, together):
        key = json.dumps(body.get("prompt")), body["max_tokens"]
        with lock:
            again = key in kept
            flip = kept.setdefault(key, together > 1)
        if again:
            with handler.server.lock:
                handler.server.finished -= 1
                handler.server.made -= body["max_tokens"]
        return completion(handler.server, body, number, flip=flip)

    return answer


@pytest.mark.parametrize("conditions", ["wave-8", "staggered-16", "wave-2,wave-8", "alone,wave-4"])
def test_a_cache_is_seen_also_where_other_requests_of_the_step_were_computed(ask, conditions):
    with serving(caching(), metrics=True) as server:
        code, finding = ask(server, "--conditions", conditions, "--trials", "1", "-n", "10")
    assert code in (3, 4) and finding["missing"] and any(LACKED in why for why in finding["evidence"]["missing"])


def test_tokens_alone_tell_where_a_server_does_not_count_requests(ask, monkeypatch):
    """As llama.cpp's."""
    monkeypatch.setattr(
        "detcheck.engines.server.metrics.COUNTERS",
        {"made": ("vllm:generation_tokens_total",)},
    )
    for answer, right in ((caching(), 3), (None, 0)):
        with serving(answer, metrics=True) as server:
            code, finding = ask(server, "-n", "8")
        assert code == right and bool(finding["missing"]) == bool(right), finding["note"]


def test_tokens_that_a_server_counts_in_its_own_way_are_no_cache_where_it_counts_requests(ask):
    def first_token_is_not_counted(handler, body, number, together):
        with handler.server.lock:
            handler.server.made -= 1
        return completion(handler.server, body, number)

    with serving(first_token_is_not_counted, metrics=True) as server:
        code, finding = ask(server, "-n", "8")
    assert (code, finding["missing"]) == (0, 0), finding["note"]


def test_counts_that_come_late_are_no_cache_and_no_evidence_of_batches(ask):
    """/metrics shows each second what was the case then."""
    shown = 0.0, b""

    def late(page):
        nonlocal shown
        if time.monotonic() - shown[0] > 1.0:
            shown = time.monotonic(), page
        return shown[1]

    with serving(metrics=True) as server:
        server.page = late
        code, finding = ask(server, "-n", "8")
    assert (code, finding["verdict"]) == (0, "identical"), finding["note"]
    assert "could not be seen" in finding["note"] and not finding["missing"]
