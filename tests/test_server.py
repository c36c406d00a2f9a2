"""detcheck against servers, through the command. What each must be found to be was written beforehand."""

import json

import pytest
from misbehaving import completion, serving

SMALL = ("-n", "16", "--max-tokens", "8", "--format", "json", "-q")


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


@pytest.mark.parametrize("metrics", [True, False])
def test_lone_requests_that_differ_are_run_variant(ask, metrics):
    with serving(lambda h, body, n, t: completion(h.server, body, n, flip=n % 2), metrics=metrics) as server:
        result, report = ask(server)
    assert (result.code, report["verdict"]) == (1, "run-variant"), report["findings"][0]["note"]
