"""A server that is updated through its endpoints, against one that has the new weights: what each of them says is written here."""

import json

from updated import MIXED, NEW, OLD, updatable

ASK = ("reload", "--model", "/models/new", "--max-tokens", "8", "--format", "json", "-q")


def asked(detcheck, *options, **how):
    """(exit code, the finding, codes of its causes, what the server was asked beside completions)."""
    with updatable(NEW) as fresh, updatable(OLD, **how) as server:
        result = detcheck(*ASK, "--base-url", server.url, "--fresh-url", fresh.url, *options)
    found = json.loads(result.out)["findings"][0]
    return result.code, found, [c["code"] for c in found["evidence"]["causes"]], [path for path, _ in server.calls]


def test_a_server_is_updated_by_the_calls_that_vllm_has(detcheck):
    code, found, causes, calls = asked(detcheck)
    assert (code, causes) == (0, ["same"]), found["note"]
    assert calls == [
        "/weight_checker",
        "/collective_rpc",
        "/reset_prefix_cache",
        "/weight_checker",
        "/reset_prefix_cache",
    ]
    code, _, causes, calls = asked(detcheck, "--update", "sleep")
    assert (code, causes) == (0, ["same", "sleep_unseen"])
    assert calls[1:5] == ["/sleep?level=2", "/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"]


def test_a_server_that_leaves_something_of_the_old_weights_is_caught(detcheck):
    code, found, causes, _ = asked(detcheck, "--keep-cache")
    assert (code, causes) == (1, ["cache"]), found["note"]
    code, found, causes, _ = asked(detcheck, loads=OLD)
    assert (code, causes) == (1, ["nothing"]), found["note"]
    code, found, causes, _ = asked(detcheck, loads=MIXED)
    assert (code, causes) == (1, ["left"]) and "b (the old bits)" in found["note"]


def test_a_server_that_does_not_show_its_weights_is_judged_by_its_answers(detcheck):
    code, _, causes, _ = asked(detcheck, refuses="/weight_checker")
    assert (code, causes) == (0, ["same_unread", "not_read"])


def test_a_server_that_shows_its_weights_only_before_the_update_is_no_pass(detcheck):
    code, found, causes, _ = asked(detcheck, breaks="/weight_checker")
    assert (code, causes) == (3, ["silent", "gone"]), found["note"]
    assert "out of memory" in found["note"] and "(a, b)" in found["note"]


def test_a_server_that_refuses_still_has_the_old_weights(detcheck):
    code, found, causes, _ = asked(detcheck, refuses="/collective_rpc")
    assert (code, causes) == (4, ["failed_old_read"])
    assert "VLLM_SERVER_DEV_MODE=1" in found["note"]


def test_a_server_that_dies_in_the_middle_fails_with_what_was_observed_kept(detcheck, tmp_path):
    code, found, causes, _ = asked(detcheck, dies="/collective_rpc")
    assert (code, causes) == (4, ["no_more"]), found["note"]
    assert found["missing"] == 4 and found["evidence"]["missing"]
    (run,) = (tmp_path / "runs").iterdir()
    assert detcheck("report", run, "--format", "json").code == 4
    refused = detcheck("reload", "--resume", run)
    assert refused.code == 2 and "may have the new weights already" in refused.err


def test_sglang_is_asked_by_its_documented_request(detcheck):
    """No real SGLang has run this."""
    code, found, causes, calls = asked(detcheck, sglang=True)
    assert (code, causes) == (0, ["same_unread", "not_read"]), found["note"]
    assert "/update_weights_from_disk" in calls and "/collective_rpc" not in calls


def test_a_folder_that_holds_nothing_is_not_named_to_a_server(detcheck, tmp_path):
    """vLLM would take its old weights apart before it finds out."""
    (tmp_path / "empty").mkdir()
    with updatable(NEW) as fresh, updatable(OLD) as server:
        result = detcheck("reload", "--model", tmp_path / "empty", "--base-url", server.url, "--fresh-url", fresh.url)
    assert result.code == 2 and "there are no safetensors" in result.err
    assert not server.calls and not server.requests
