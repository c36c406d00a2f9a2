"""A run on disk: killed, torn, filled up, interrupted, resumed. What was observed is never lost, and never a pass."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import warm
from conftest import only_run
from scripted import LATENT, OTHER, SAME, Scripted

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.probes.completions.options import Options
from detcheck.probes.completions.session import Completions
from detcheck.spec import Spec
from detcheck.storage import folder, tables
from detcheck.verdict import FailOn, Verdict

MODULE = [sys.executable, "-m", "detcheck"]


@pytest.fixture
def scripted_run(tmp_path, monkeypatch):
    """run(answer, **spec) through the runner with a scripted engine in the place of the real one."""

    def make(answer, samples=24, on_progress=None, resume=None, flush_s=0.0, **spec):
        monkeypatch.setattr(
            "detcheck.probes.completions.session.open_session",
            lambda s, planned=None: Completions(s, Scripted(answer), planned),
        )
        monkeypatch.setattr(folder, "FLUSH_S", flush_s)  # by default a part a batch
        if resume:
            return runner.resume(resume, on_progress)
        return runner.run(
            Spec("completions", Options(samples=samples, prompt="ask me", max_tokens=4), **spec),
            tmp_path / "runs",
            on_progress,
        )

    return make


def same(rows, slot, call):
    return SAME


def by_size(rows, slot, call):
    return OTHER if rows > 2 else SAME


def stop_after(batches, error=KeyboardInterrupt, answer=same):
    """An engine that breaks in the middle."""

    def breaks(rows, slot, call):
        if call >= batches:
            raise error
        return answer(rows, slot, call)

    return breaks


def facts(run):
    return [
        (f.verdict, f.samples, f.distinct, f.distinct_bits, f.histogram, f.forks, f.evidence["conditions"])
        for f in run.findings
    ]


def test_what_is_read_again_is_what_was_run(diverging):
    run = runner.load(diverging.path)
    assert diverging.verdict is Verdict.BATCH_VARIANT and diverging.findings[0].samples == 16
    assert run == diverging
    assert set(run.subject.digests) == {"model", "tokenizer"}
    assert sum(s.samples for s in run.subject.schedule.steps) == 16


def test_a_deterministic_run_stores_one_outcome(scripted_run):
    import pyarrow.parquet

    path = scripted_run(same, samples=200).path
    assert pyarrow.parquet.read_table(path / "outcomes").num_rows == 1
    assert pyarrow.parquet.read_table(path / "observations").num_rows == 200


def test_interrupted_and_resumed_is_the_same_as_in_one_go(scripted_run):
    whole = scripted_run(by_size)
    part = scripted_run(stop_after(5, answer=by_size))
    assert part.interrupted and part.verdict is Verdict.DIVERGENT  # batch-3 was not repeated yet
    assert runner.load(part.path).exit_code == part.exit_code == 130
    assert 0 < part.findings[0].samples < 24
    rerun = []
    resumed = scripted_run(by_size, resume=part.path, on_progress=lambda p: rerun.append(p.done))
    stored = part.findings[0].samples
    assert rerun[0] == stored < rerun[1]  # it goes on from there: nothing stored is observed again
    assert (resumed.findings[0].samples, resumed.findings[0].missing) == (24, 0)
    assert facts(resumed) == facts(whole)
    assert len({o.process for o in folder.RunFolder(part.path).observations()}) == 2


@pytest.mark.parametrize(
    ("answer", "verdict", "code"), [(same, Verdict.INCONCLUSIVE, 3), (by_size, Verdict.BATCH_VARIANT, 1)]
)
def test_an_engine_that_dies_is_judged_on_what_was_observed(scripted_run, answer, verdict, code, capsys, monkeypatch):
    def dies(rows, slot, call):
        if rows == 8:
            raise RuntimeError("device lost")
        return answer(rows, slot, call)

    run = scripted_run(dies, flush_s=1000.0)
    assert (run.verdict, run.exit_code) == (verdict, code)
    assert any("device lost" in w for w in run.warnings)
    monkeypatch.undo()
    assert runner.load(run.path) == run  # nothing was only in memory, and how it ended is known
    assert "Traceback" in capsys.readouterr().err  # for whoever has to mend it


def test_an_engine_that_dies_at_once_has_failed(scripted_run):
    run = scripted_run(stop_after(0, RuntimeError("no kernel image")))
    assert (run.verdict, run.exit_code) == (Verdict.FAILED, 4)
    assert "no kernel image" in run.findings[0].note
    assert runner.load(run.path) == run


def test_fail_fast_stops_once_it_is_known_what_diverged(scripted_run):
    run = scripted_run(by_size, fail_fast=True)
    assert run.verdict is Verdict.BATCH_VARIANT  # the first condition that differs was repeated before the stop
    assert run.findings[0].samples < 24
    assert list(run.findings[0].evidence["conditions"]) and run.exit_code == 1


def test_fail_fast_waits_for_tokens_where_only_tokens_count(scripted_run):
    def answer(rows, slot, call):
        return OTHER if rows == 4 else LATENT if rows > 1 else SAME

    run = scripted_run(answer, fail_fast=True, fail_on=FailOn.TOKENS)
    assert run.findings[0].distinct == 2 and run.exit_code == 1
    assert run.findings[0].missing > 0


def test_fail_fast_remembers_what_was_stored(scripted_run):
    path = scripted_run(stop_after(2), fail_fast=True).path
    resumed = scripted_run(lambda rows, slot, call: OTHER, resume=path)
    assert resumed.findings[0].samples < 24


def test_full_disk_costs_no_verdict(scripted_run, monkeypatch):
    real, parts = tables.write_file, []

    def fills_up(path, content):
        if path.suffix == ".parquet":
            parts.append(path)
            if len(parts) > 6:
                raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(tables, "write_file", fills_up)
    run = scripted_run(by_size)
    assert any("No space left" in w for w in run.warnings)
    assert (run.verdict, run.exit_code) == (Verdict.DIVERGENT, 1)  # the last size was not repeated yet
    written = runner.load(run.path).findings[0].samples
    assert run.findings[0].samples == written + 1 > 4  # the batch that could not be written is judged all the same


@pytest.mark.skipif(
    os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_a_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this system does not let root mount a tmpfs")
    try:
        arguments = ["completions", "-n", "24", "--max-tokens", "48", "--output-dir", disk, "--format", "json"]
        done = warm.run([*MODULE, *arguments], capture_output=True, text=True)
        report = json.loads(done.stdout)
        assert done.returncode == report["exit_code"] and report["exit_code"] in (1, 3)
        assert report["summary"]["samples"] > 0
        assert any("No space left" in w for w in report["summary"]["warnings"]), report["summary"]
        assert "Traceback" not in done.stderr
        assert warm.run([*MODULE, "report", only_run(disk)], capture_output=True).returncode in (1, 3)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_torn_part_is_named_missing_and_observed_again(scripted_run):
    path = scripted_run(same).path
    part = sorted((path / "observations").iterdir())[2]
    part.write_bytes(part.read_bytes()[:100])
    torn = runner.load(path)
    assert (torn.verdict, torn.findings[0].missing > 0) == (Verdict.INCONCLUSIVE, True)
    assert any(part.name in w and "torn" in w and "--resume" in w for w in torn.warnings)
    resumed = scripted_run(same, resume=path)
    assert (resumed.verdict, resumed.findings[0].samples) == (Verdict.IDENTICAL, 24)


def test_what_comes_back_other_than_it_was_is_no_pass(scripted_run):
    """Run 1 gave one thing throughout, and its payload is lost; the resumed run gives another throughout."""
    path = scripted_run(same).path
    (part,) = (path / "outcomes").iterdir()
    part.write_bytes(b"")
    resumed = scripted_run(lambda rows, slot, call: OTHER, resume=path)
    assert (resumed.verdict, resumed.exit_code) == (Verdict.DIVERGENT, 1)


def test_a_sample_that_is_there_twice_does_not_stand_in_for_another(scripted_run):
    path = scripted_run(stop_after(6)).path
    for part in (path / "observations").iterdir():
        (part.parent / f"9{part.name}").write_bytes(part.read_bytes())
    twice = runner.load(path)
    assert twice.findings[0].missing > 0 and twice.verdict is Verdict.INCONCLUSIVE


def test_a_difference_between_processes_is_not_blamed_on_the_batch(scripted_run):
    path = scripted_run(stop_after(2)).path
    resumed = scripted_run(lambda rows, slot, call: OTHER, resume=path)
    assert resumed.verdict is Verdict.DIVERGENT


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"PAR1" + bytes(200) + b"PAR1", None])
def test_no_damage_to_a_part_makes_a_traceback(scripted_run, detcheck, damage):
    """Also bytes flipped in the middle, and a stray file."""
    path = scripted_run(by_size).path
    (path / "observations" / "notes.parquet").write_bytes(b"stray")
    rng = random.Random(0)
    for kind in ("observations", "outcomes"):
        for part in (path / kind).glob("0*.parquet"):
            content = bytearray(part.read_bytes())
            for _ in range(5):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            part.write_bytes(content if damage is None else damage)
    result = detcheck("report", path)
    assert result.code in (1, 3) and "Traceback" not in result.err, result.err


def test_a_torn_outcome_makes_its_samples_missing(scripted_run):
    path = scripted_run(by_size).path
    part = sorted((path / "outcomes").iterdir())[-1]
    part.write_bytes(b"")
    torn = runner.load(path)
    assert (torn.verdict, torn.findings[0].missing > 0) == (Verdict.DIVERGENT, True)  # that it differed is known
    assert facts(scripted_run(by_size, resume=path))[0][:3] == (Verdict.BATCH_VARIANT, 24, 2)


def test_an_outcome_whose_bits_rotted_is_not_believed(scripted_run):
    import pyarrow.parquet

    path = scripted_run(same).path
    (part,) = (path / "outcomes").iterdir()
    rows = pyarrow.parquet.read_table(part).to_pylist()
    rows[0]["logprob_bits"][0] ^= 1
    tables.write_table(part, rows)
    rotten = runner.load(path)
    assert rotten.verdict is Verdict.INCONCLUSIVE and any("damaged" in w for w in rotten.warnings)


def test_leftover_of_a_part_being_written_is_passed_over(scripted_run):
    path = scripted_run(same).path
    (path / "observations" / "00099.parquet.tmp").write_bytes(b"PAR1half")
    assert runner.load(path).verdict is Verdict.IDENTICAL


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda head: head.update(schema_version="2.0"), "schema version 2.0"),
        (lambda head: head["spec"].update(new_knob=1), "does not know"),
        (lambda head: head.pop("schedule"), "damaged"),
        (lambda head: head.update(spec=None), "does not know"),
        (lambda head: head.pop("command"), "damaged"),
        (lambda head: head["schedule"].update(steps=[1]), "damaged"),
        (lambda head: head.update(schema_version="\x1b[31m9.0"), "schema version \\x1b[31m9.0"),
        (lambda head: head.update(probe="tarot"), "there is no 'tarot'"),
    ],
)
def test_a_head_that_cannot_be_read_is_said_in_words(scripted_run, detcheck, damage, says):
    path = scripted_run(same).path
    head = json.loads((path / "run.json").read_text())
    damage(head)
    (path / "run.json").write_text(json.dumps(head))
    result = detcheck("report", path)
    assert result.code == 2 and says in result.err and "Traceback" not in result.err
    assert list((path / "observations").iterdir())


def test_a_later_minor_version_is_read(scripted_run):
    path = scripted_run(same).path
    head = json.loads((path / "run.json").read_text())
    head |= {"schema_version": "1.7", "novelty": 1}
    head["environment"]["moon_phase"] = "full"
    (path / "run.json").write_text(json.dumps(head))
    assert runner.load(path).verdict is Verdict.IDENTICAL


def test_resume_refuses_another_environment_and_says_what_changed(scripted_run):
    path = scripted_run(stop_after(3)).path
    head = json.loads((path / "run.json").read_text())
    head["environment"]["threads"] = 77
    head["digests"]["model"] = "f" * 64
    (path / "run.json").write_text(json.dumps(head))
    with pytest.raises(UsageError, match=r"threads: 77 then.*digest of model: ffffffffffff then, 000000000000 now"):
        scripted_run(same, resume=path)


def test_one_writer_at_a_time(scripted_run):
    path = scripted_run(stop_after(3)).path
    with folder.RunFolder(path).locked(), pytest.raises(UsageError, match="another process"):
        scripted_run(same, resume=path)


def test_resume_refuses_other_options(scripted_run, detcheck):
    path = scripted_run(stop_after(3)).path
    result = detcheck("completions", "--resume", path, "--max-tokens", "5")
    assert result.code == 2 and "--max-tokens 4, not 5" in result.err


def test_killed_at_any_moment_it_is_readable_and_goes_on(tmp_path, reacting):
    """The real thing: SIGKILL in the middle, report, resume; the end is as if nothing had happened."""
    arguments = [*MODULE, "completions", "-n", "18", "--max-tokens", "32", "--output-dir", tmp_path / "runs", "--quiet"]
    process = warm.Popen(arguments, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*/observations/*.parquet")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    path = only_run(tmp_path / "runs")
    killed = runner.load(path)
    assert 0 < killed.findings[0].samples < 18
    assert killed.exit_code in (1, 3)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    # By a process of another hash seed than the first.
    resumed = subprocess.run(
        [*MODULE, "completions", "--resume", copy, "--format", "json"], capture_output=True, text=True
    )
    assert resumed.returncode == 1, resumed.stderr
    (finding,) = json.loads(resumed.stdout)["findings"]
    assert (finding["samples"], finding["missing"], finding["verdict"]) == (18, 0, "batch-variant")


def test_ctrl_c_exits_130_with_the_partial_report(tmp_path):
    arguments = [
        *MODULE,
        "completions",
        "-n",
        "24",
        "--max-tokens",
        "48",
        "--output-dir",
        tmp_path / "runs",
        "--format",
        "json",
    ]
    process = warm.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*/observations/*.parquet")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["summary"]["interrupted"] is True
    assert "Traceback" not in err
    assert (only_run(tmp_path / "runs") / "report.html").is_file()
