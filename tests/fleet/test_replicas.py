"""Replicas by their URLs, as members of a fleet: real servers on loopback, whose answers we wrote. No Ray is needed."""

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import only_run
from jsonschema import validate
from misbehaving import completion, ids_of, serving

import detcheck as package

SCHEMA = json.loads((Path(package.__file__).parent / "formats/report.schema.json").read_text("utf-8"))
QUICK = {"metrics": True, "takes_s": 0.02}


@pytest.fixture
def fleet(detcheck, monkeypatch):
    """(servers, more arguments) -> result, report; Ray cannot be imported."""
    monkeypatch.setitem(sys.modules, "ray", None)

    def call(*servers, more=()):
        urls = [word for one in servers for word in ("--base-url", one if isinstance(one, str) else one.url)]
        result = detcheck("fleet", "completions", *urls, "-n", "8", "--max-tokens", "8", "--prompt", "ask me", *more)
        report = json.loads((only_run(Path("runs")) / "report.json").read_text("utf-8"))
        validate(report, SCHEMA)
        return result, report["findings"], report

    return call


def once(number):
    """A server that gives its answer of that number to the prompt another fourth token."""
    seen = []

    def answer(handler, body, request, together):
        asked = body["prompt"] in ("ask me", ids_of("ask me"))  # and is no filler
        seen.extend([request] * asked)
        return completion(handler.server, body, request, flip=asked and len(seen) == number)

    return answer


def other(handler, body, number, together):
    return completion(handler.server, body, number, flip=True)


def test_sound_replicas_are_identical(fleet):
    with serving(**QUICK) as a, serving(**QUICK) as b:
        result, (finding,), report = fleet(a, b)
    assert result.code == 0, result.out + result.err
    assert finding["verdict"] == "identical" and "all 2 have the same" in finding["note"]
    assert report["spec"]["probe"] == "fleet completions" and report["reproduce"].startswith(
        "detcheck fleet completions "
    )


def test_the_replica_that_differs_is_named_with_the_token(fleet):
    with serving(**QUICK) as a, serving(other, **QUICK) as b, serving(**QUICK) as c:
        result, (finding,), _ = fleet(a, b, c)
        assert result.code == 1 and finding["verdict"] == "divergent"
        most, differs = finding["evidence"]["groups"]
        assert differs["first"] == [f"replica 2 at {b.url} (a server)"] and most["members"] == 2
        assert "token 3" in differs["where"] and finding["note"].startswith(
            f"replica 2 at {b.url} (a server) differs from"
        )
    assert "first divergence: replica" in result.err


def test_the_replica_that_differs_once_is_named(fleet):
    with serving(**QUICK) as a, serving(once(7), **QUICK) as b, serving(**QUICK) as c:
        result, (finding,), _ = fleet(a, b, c)
        assert result.code == 1, finding["note"]
        _, differs = finding["evidence"]["groups"]
        assert differs["stands"] in ("differs", "varies") and differs["members"] == 1 and b.url in differs["first"][0]
        assert b.url in finding["note"]
        assert differs["verdict"] in ("run-variant", "batch-variant", "divergent")


def test_a_replica_that_is_down_is_missing_and_two_do_not_make_up_for_it(fleet):
    with serving(**QUICK) as a, serving(**QUICK) as b:
        result, (finding,), _ = fleet(a, "http://127.0.0.1:9", b)
    assert result.code == 3 and finding["missing"] == 1
    assert "1 of 3 missing: replica 2 at http://127.0.0.1:9: " in finding["note"]


def test_nobody_there_is_failed(fleet):
    result, (finding,), _ = fleet("http://127.0.0.1:9", "http://127.0.0.1:19")
    assert result.code == 4 and finding["verdict"] == "failed" and "none of 2 answered" in finding["note"]


def test_replicas_whose_batches_are_unseen_are_no_pass(fleet):
    with serving(takes_s=0.02) as a, serving(takes_s=0.02) as b:
        result, (finding,), _ = fleet(a, b)
    assert result.code == 3 and "by themselves replica 1" in finding["note"] and "could not be seen" in finding["note"]


def test_every_format_names_the_replica_and_no_user_of_a_url_is_stored(fleet, detcheck):
    with serving(**QUICK) as a, serving(other, **QUICK) as b:
        named = b.url.replace("//", "//somebody:hunter2@")
        result, _, _ = fleet(a, named)
        place = b.url.removeprefix("http://")
    run = only_run(Path("runs"))
    for file in run.rglob("*"):
        assert not file.is_file() or b"hunter2" not in file.read_bytes(), file
    assert "hunter2" not in result.out + result.err
    assert "neither side is the larger" in result.out.replace("\n", " ")
    for format in ("terminal", "md", "html", "json", "junit", "sarif"):
        shown = detcheck("report", run, "--format", format)
        assert shown.code == 1 and not shown.err
        assert place.rpartition(":")[2] in shown.out
    (case,) = ElementTree.fromstring(detcheck("report", run, "--format", "junit").out).iter("testcase")
    assert case.find("failure").get("type") == "divergent"


def test_ctrl_c_ends_a_run_whose_server_hangs(fleet, detcheck):
    """It takes the connection, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        heard = threading.Event()

        def press():
            kept = hole.accept()
            heard.set()
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)
            return kept

        threading.Thread(target=press, daemon=True).start()
        began = time.monotonic()
        result, (finding,), _ = fleet(f"http://127.0.0.1:{hole.getsockname()[1]}")
    assert heard.is_set() and time.monotonic() - began < 20
    assert result.code == 130 and "it had not answered" in finding["note"]


def test_ctrl_c_while_the_others_are_ended_costs_nothing_that_came(fleet, monkeypatch):
    """--fail-fast has seen enough, and ends those that are still asked: Ctrl-C there is the run's, as it is before and after."""
    from detcheck.fleet import replicas

    asked = replicas.answers

    def interrupted(members, spec):
        try:
            yield from asked(members, spec)
        finally:
            raise KeyboardInterrupt

    monkeypatch.setattr(replicas, "answers", interrupted)
    with serving(**QUICK) as a, serving(other, **QUICK) as b, serving(**QUICK) as c:
        result, (finding,), report = fleet(a, b, c, more=("--fail-fast",))
    assert result.code == 130 and report["summary"]["interrupted"], result.out + result.err
    assert finding["verdict"] == "divergent" and "Traceback" not in result.err


def test_without_ray_it_is_said_what_to_install(fleet, detcheck):
    result = detcheck("fleet", "kernels", "--op", "rmsnorm")
    assert result.code == 2 and "pip install 'detcheck[fleet]'" in result.err and not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("kernels", "--op", "nothing"), "there is no 'nothing' among the kernels"),
        (("kernels", "--workers", "0"), "--workers must be at least 1"),
        (("kernels", "--worker-timeout", "0"), "--worker-timeout must be a number above 0"),
        (("kernels", "--per", "rack"), "rack"),
        (("kernels", "--address", "127.0.0.1:9"), "nobody answers there"),
        (("kernels", "--address", "somewhere"), "give auto, or HOST:PORT"),
        (("completions", "--baseline", "x"), "--baseline is for one run"),
        (("completions", "--base-url", "http://a", "--workers", "2"), "--workers is for a Ray cluster"),
        (("completions", "--base-url", "http://a", "--address", "auto"), "are not compared with each other"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_started(detcheck, arguments, said):
    result = detcheck("fleet", *arguments)
    assert result.code == 2 and said in result.err + result.out


def test_what_answers_at_an_address_and_is_no_ray_is_said(detcheck, monkeypatch):
    from detcheck.fleet import cluster

    monkeypatch.setattr(cluster, "RAY_S", 6.0)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        result = detcheck("fleet", "kernels", "--address", f"127.0.0.1:{hole.getsockname()[1]}")
    assert result.code == 2 and "it is no Ray cluster" in result.err
