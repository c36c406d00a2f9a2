"""Real processes whose disk is full, whose server is killed, and that are asked to end."""

import contextlib
import json
import os
import signal
import subprocess
import time

import pytest
from faults import DETCHECK, SCRIPTED, NoMountError, environment, mapping, of, resize, run, small_disk
from server_process import started
from warm import hears_ctrl_c

from detcheck import signals

QUIET = ("--quiet", "--format", "json")


def begun(out, child):
    """Waits until a part is written."""
    until = time.monotonic() + 120
    while not list(out.glob("*/observations/*.parquet")):
        assert time.monotonic() < until and child.poll() is None
        time.sleep(0.02)


def test_a_disk_that_is_full_costs_nothing_that_was_observed(tmp_path):
    try:
        with small_disk(tmp_path / "disk", 96) as disk:
            command = [*SCRIPTED, "completions", "-n", "400", "--max-tokens", "4", *QUIET, "--output-dir", str(disk)]
            done = run(command, SCRIPTED_S=0.01)
            assert "No space left" in done.stdout + done.stderr and "Traceback" not in done.stderr
            assert done.returncode in (1, 3, 4), done
            before = mapping(of(disk))
            resize(disk, 4096)
            again = run([*SCRIPTED, "completions", "--resume", str(of(disk)), *QUIET])
            after = mapping(of(disk))
            assert again.returncode == 1 and json.loads(again.stdout)["verdict"] == "batch-variant"
            assert len(after) == 400 and all(after[key] == outcome for key, outcome in before.items())
    except NoMountError as why:
        pytest.skip(str(why))


def test_a_killed_server_s_samples_are_missing_by_name_and_another_model_is_refused(tmp_path):
    """What was asked and not answered is missing for good; the rest is asked once the server is back."""
    with started("--takes", 0.02) as (server, url):
        command = [
            *DETCHECK,
            "completions",
            "--base-url",
            url,
            "--allow-unseen-batch",
            "-n",
            "200",
            "--max-tokens",
            "8",
        ]
        child = subprocess.Popen(
            [*command, *QUIET, "--output-dir", str(tmp_path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        begun(tmp_path, child)
        server.kill()
        out, err = child.communicate()
    report, first = json.loads(out), mapping(of(tmp_path))
    named = sum(outcome is None for outcome in first.values())
    assert child.returncode == 3 and named and len(first) < 200 and "Traceback" not in err
    assert "does not answer any more" in report["summary"]["warnings"][0]
    port = url.rsplit(":")[-1]
    resume = [*DETCHECK, "completions", "--resume", str(of(tmp_path)), *QUIET]
    with started("--port", port, "--model", "another"):
        refused = run(resume)
    assert refused.returncode == 2 and "model: m then, another now" in refused.stderr, refused.stderr
    assert "flags server.model: m then, another now" in refused.stderr and "{" not in refused.stderr
    with started("--port", port):
        last = run(resume)
    found = mapping(of(tmp_path))
    assert len(found) == 200 and all(found[key] == outcome for key, outcome in first.items())
    assert last.returncode == 3 and json.loads(last.stdout)["summary"]["missing"] == named
    assert len({outcome for outcome in found.values() if outcome}) == 1


def test_asked_to_end_by_a_signal_the_reports_are_written(tmp_path):
    child = subprocess.Popen(
        [*SCRIPTED, "completions", "-n", "400", "--max-tokens", "4", *QUIET, "--output-dir", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(SCRIPTED_S=0.05), preexec_fn=hears_ctrl_c,
    )  # fmt: skip
    begun(tmp_path, child)
    child.terminate()
    out, err = child.communicate()
    report = json.loads(out)
    assert child.returncode == 130 and report["summary"]["interrupted"] and "Traceback" not in err
    assert report["summary"]["samples"] == len(mapping(of(tmp_path))) > 0
    assert (of(tmp_path) / "report.html").is_file()


@pytest.mark.parametrize("name", signals.ASK_TO_END)
def test_a_signal_is_ctrl_c_inside_and_what_it_was_outside(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals.as_ctrl_c():
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert signal.getsignal(number) is before


def test_a_signal_that_was_ignored_stays_so_and_ends_what_ignores_ctrl_c():
    """nohup ignores SIGHUP; a shell ignores SIGINT for what it puts into the background."""
    hup, interrupt = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), signals.as_ctrl_c():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    finally:
        signal.signal(signal.SIGHUP, hup)
        signal.signal(signal.SIGINT, interrupt)


@pytest.mark.parametrize("name", signals.ASK_TO_END)
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("hears", [signal.SIG_IGN, signal.default_int_handler])
def test_a_signal_while_something_is_written_comes_after_it(name, deep, hears):
    """Also where Ctrl-C is ignored, as in `detcheck ... &` of a script. Ctrl-C itself stays ignored there."""
    written, interrupt = [], signal.signal(signal.SIGINT, hears)
    try:
        with signals.as_ctrl_c():
            with signals.undisturbed() if hears is signal.SIG_IGN else contextlib.nullcontext():
                signal.raise_signal(signal.SIGINT) if hears is signal.SIG_IGN else None
            with pytest.raises(KeyboardInterrupt), signals.undisturbed():
                with signals.undisturbed() if deep else contextlib.nullcontext():
                    signal.raise_signal(signal.SIGINT)
                    signal.raise_signal(getattr(signal, name))
                    written.append("inside")
                written.append("behind it")
        assert written == ["inside", "behind it"] and signal.getsignal(signal.SIGINT) is hears
    finally:
        signal.signal(signal.SIGINT, interrupt)


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone():
    import threading

    found = []

    def asks():
        with signals.as_ctrl_c(), signals.undisturbed():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=asks)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
