"""A run's folder that something else touches: moved, read-only, full, half removed, under a name that is no text. No traceback, no wrong pass, nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from conftest import only_run
from faults import NoMountError, mapping, payloads, small_disk
from scripted import OTHER, SAME, Scripted

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.probes.completions.options import Options
from detcheck.probes.completions.session import Completions
from detcheck.spec import Spec
from detcheck.storage import baselines, folder, naming
from detcheck.verdict import Verdict

ASK = ("completions", "-n", "24", "--max-tokens", "4", "--quiet", "--output-dir")


@pytest.fixture
def engine(monkeypatch):
    """Its `answer` may be set. A part is written for each batch."""
    scripted = Scripted(lambda rows, slot, call: SAME)
    open_session = lambda s, planned=None: Completions(s, scripted, planned)  # noqa: E731
    monkeypatch.setattr("detcheck.probes.completions.session.open_session", open_session)
    monkeypatch.setattr(folder, "FLUSH_S", 0.0)
    return scripted


def at_batch(number, act, answer=SAME):
    """An engine that does something once while it makes the batch of that number."""
    acted = []

    def answers(rows, slot, call):
        if call >= number and not acted:
            acted.append(call)
            act()
        return answer

    return answers


def whole_and_identical(run):
    return (run.verdict, run.findings[0].samples, run.findings[0].missing) == (Verdict.IDENTICAL, 24, 0)


class Killed(BaseException):
    """In the place of SIGKILL, which leaves a file as it is at that moment."""


def test_killed_before_its_baseline_is_kept_there_is_no_run_to_resume(engine, detcheck, tmp_path, monkeypatch):
    """Resumed without it, a run that was to be compared would pass without a comparison."""
    assert detcheck(*ASK, tmp_path / "first").code == 0
    write = baselines.write

    def killed(path, baseline):
        if path.name == runner.COMPARED:
            raise Killed
        write(path, baseline)

    monkeypatch.setattr(baselines, "write", killed)
    with pytest.raises(Killed):
        detcheck(*ASK, tmp_path / "second", "--baseline", only_run(tmp_path / "first"))
    assert not list((tmp_path / "second").glob("*/run.json"))


@pytest.mark.parametrize("damage", ["removed", "", '{"baseline_version": 1, "pro'])
def test_a_run_whose_baseline_is_not_there_any_more_is_no_pass(engine, detcheck, tmp_path, damage):
    assert detcheck(*ASK, tmp_path / "first").code == 0
    assert detcheck(*ASK, tmp_path / "second", "--baseline", only_run(tmp_path / "first")).code == 0
    run = only_run(tmp_path / "second")
    kept = run / runner.COMPARED
    kept.unlink() if damage == "removed" else kept.write_text(damage)
    for arguments in (("report", run), ("completions", "--resume", run)):
        result = detcheck(*arguments, "--format", "json")
        notes = [finding["note"] for finding in json.loads(result.out)["findings"]]
        assert result.code == 3 and any("the baseline that the run was given" in note for note in notes), result


def test_no_room_for_the_baseline_is_said_in_words_and_leaves_no_folder(engine, detcheck, tmp_path, monkeypatch):
    assert detcheck(*ASK, tmp_path / "first").code == 0

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(baselines, "write_file", full)
    result = detcheck(*ASK, tmp_path / "second", "--baseline", only_run(tmp_path / "first"))
    assert result.code == 2 and "No space left" in result.err and "Traceback" not in result.err
    assert not list((tmp_path / "second").iterdir())


@pytest.mark.parametrize(
    "name", ["with space", "日本 ü", "a\nline", b"no text \xff\xfe".decode("utf-8", "surrogateescape"), "[red]`<b>&"]
)
def test_any_name_of_a_folder_will_do(engine, detcheck, tmp_path, name):
    """Linux takes any bytes for a name; pyarrow wants paths to be UTF-8."""
    result = detcheck(*ASK, tmp_path / name)
    run = only_run(tmp_path / name)
    assert result.code == 0 and len(list(run.glob("report.*"))) == 4, result.err
    (run / "observations" / "00003.parquet").unlink()
    assert detcheck("report", run).code == 3
    assert detcheck("completions", "--resume", run).code == 0
    assert detcheck("compare", shutil.copytree(run, tmp_path / "copy"), run).code == 0
    assert "\nline" not in result.out and len(mapping(run)) == 24


def test_a_folder_that_is_moved_in_the_middle_is_gone_on_with_where_it_is(engine, detcheck, tmp_path):
    moved = tmp_path / "moved"
    engine._answer = at_batch(5, lambda: only_run(tmp_path / "runs").rename(moved))
    result = detcheck(*ASK, tmp_path / "runs")
    assert (
        result.code == 4
        and "--resume where it is now" in " ".join(result.out.split())
        and "Traceback" not in result.err
    )
    stored = len(mapping(moved))
    assert 0 < stored < 24
    assert detcheck("completions", "--resume", moved).code == 0
    assert len(mapping(moved)) == 24


def test_a_part_or_a_folder_of_parts_that_is_removed_in_the_middle_is_observed_again(engine, detcheck, tmp_path):
    runs = tmp_path / "runs"

    def remove():
        shutil.rmtree(only_run(runs) / "observations")

    engine._answer = at_batch(5, remove)
    result = detcheck(*ASK, runs)
    assert result.code == 3 and "missing" in result.out
    assert whole_and_identical(runner.resume(only_run(runs)))


def test_a_read_only_disk_is_read_and_a_resume_is_refused_in_words(engine, detcheck, tmp_path):
    try:
        with small_disk(tmp_path / "disk", 4096) as disk:
            assert detcheck(*ASK, disk).code == 0
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            assert detcheck("report", only_run(disk)).code == 0
            result = detcheck("completions", "--resume", only_run(disk))
            assert result.code == 2 and "cannot lock it: Read-only file system" in result.err, result.err
    except NoMountError as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError("flock is not there")])
def test_a_file_system_without_locks_is_said_in_words(engine, tmp_path, monkeypatch, error):
    run = runner.run(Spec("completions", Options(samples=24, max_tokens=4)), tmp_path)

    def acquire(self):
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(UsageError, match="cannot lock it"):
        runner.resume(run.path)


def test_an_engine_that_may_not_read_a_file_is_not_taken_for_a_lock(engine, tmp_path, monkeypatch):
    def denied(s, planned=None):
        raise PermissionError(13, "Permission denied", "/weights")

    monkeypatch.setattr("detcheck.probes.completions.session.open_session", denied)
    with pytest.raises(PermissionError):
        runner.run(Spec("completions", Options(samples=24, max_tokens=4)), tmp_path)


def test_two_writers_at_once_are_one_writer(engine, detcheck, tmp_path):
    """While one process writes, another may read the run, and not write it."""
    seen = []

    def meanwhile():
        run = only_run(tmp_path / "runs")
        seen.append(runner.load(run).verdict)
        with pytest.raises(UsageError, match="being written by another process"):
            runner.resume(run)

    engine._answer = at_batch(5, meanwhile)
    spec = Spec("completions", Options(samples=24, max_tokens=4))
    assert whole_and_identical(runner.run(spec, tmp_path / "runs")) and seen == [Verdict.INCONCLUSIVE]


def test_killed_while_it_goes_on_a_run_does_not_say_that_it_ended_well(engine, tmp_path, monkeypatch):
    run = runner.run(Spec("completions", Options(samples=24, max_tokens=4)), tmp_path)
    (run.path / "observations" / "00003.parquet").unlink()

    def killed(self, *arguments):
        raise Killed

    monkeypatch.setattr(folder.RunFolder, "append", killed)
    with pytest.raises(Killed):
        runner.resume(run.path)
    assert any("killed" in warning for warning in runner.load(run.path).warnings)


def test_a_clock_that_is_set_back_changes_nothing(engine, tmp_path, monkeypatch):
    """The wall clock jumps a day back in the middle, and so does the folder's name of the next run."""
    now, real = [time.time()], time.time
    monkeypatch.setattr(time, "time", lambda: now[0])

    class Clock(naming.datetime):
        @classmethod
        def now(cls, zone=None):
            return cls.fromtimestamp(now[0], zone)

    monkeypatch.setattr(naming, "datetime", Clock)
    monkeypatch.setattr(runner, "datetime", Clock)
    engine._answer = at_batch(5, lambda: now.__setitem__(0, now[0] - 86400))
    spec = Spec("completions", Options(samples=24, max_tokens=4))
    first = runner.run(spec, tmp_path)
    second = runner.run(spec, tmp_path)
    now[0] += 86400  # the same second as the first: the folder's name is taken
    third = runner.run(spec, tmp_path)
    assert all(whole_and_identical(run) for run in (first, second, third))
    assert second.started < first.started and third.path.name == f"{first.path.name}-2"
    assert real() > 0 and whole_and_identical(runner.load(second.path))


def test_thousands_of_earlier_runs_cost_nothing(engine, tmp_path, monkeypatch):
    names = [f"20260101T{n:06}Z-completions" for n in range(5000)]
    for name in names:
        (tmp_path / name).mkdir()
    listed = []
    monkeypatch.setattr(os, "listdir", lambda *a: listed.append(a))
    monkeypatch.setattr(os, "scandir", lambda *a: listed.append(a) or pytest.fail("the other runs were looked at"))
    made = folder.RunFolder.create(tmp_path, "completions", names[0])
    assert made.path.name == f"{names[0]}-2" and not listed


@pytest.mark.parametrize("where", ["append", "flush"])
def test_ctrl_c_while_a_part_is_written_waits_until_it_is(engine, tmp_path, monkeypatch, where):
    """Nothing is stored twice, and nothing that was observed is lost."""
    real, struck = getattr(folder.RunFolder, where), []

    def strikes(self, *arguments):
        struck.append(where)
        strike = (lambda: signal.raise_signal(signal.SIGINT)) if len(struck) == 5 else lambda: None
        strike()
        real(self, *arguments)
        strike()

    monkeypatch.setattr(folder.RunFolder, where, strikes)
    before = signal.getsignal(signal.SIGINT)
    run = runner.run(Spec("completions", Options(samples=24, max_tokens=4)), tmp_path)
    assert run.interrupted and run.exit_code == 130 and 0 < run.findings[0].samples < 24
    assert signal.getsignal(signal.SIGINT) is before
    assert len(mapping(run.path)) == run.findings[0].samples == len(set(mapping(run.path)))
    monkeypatch.undo()
    assert len(payloads(run.path)) == 1


def test_a_second_ctrl_c_leaves_what_was_observed_and_how_it_ended(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "FLUSH_S", 1000.0)  # all of it is in memory until the end
    flush = folder.RunFolder.flush

    def impatient(self):
        signal.raise_signal(signal.SIGINT)
        flush(self)

    monkeypatch.setattr(folder.RunFolder, "flush", impatient)
    engine._answer = at_batch(6, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        runner.run(Spec("completions", Options(samples=24, max_tokens=4)), tmp_path)
    run = runner.load(only_run(tmp_path))
    assert run.exit_code == 130 and 0 < run.findings[0].samples == len(mapping(run.path)) < 24


@pytest.mark.parametrize("where", ["judged", "summary", "flush"])
@pytest.mark.parametrize("times", [1, 2])
def test_the_first_ctrl_c_while_it_is_judged_leaves_the_reports_too(
    engine, detcheck, tmp_path, monkeypatch, where, times
):
    """The second leaves them out, those of before as well."""
    assert detcheck(*ASK, tmp_path / "runs").code == 0
    path, struck = only_run(tmp_path / "runs"), []
    (path / "observations" / "00003.parquet").unlink()
    monkeypatch.setattr(folder, "FLUSH_S", 1000.0)
    owner = folder.RunFolder if where == "flush" else runner
    real = getattr(owner, where)

    def strikes(*arguments):
        struck.append(where)
        if len(struck) <= times:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(owner, where, strikes)
    result = detcheck("completions", "--resume", path, "--quiet", "--format", "json")
    assert result.code == 130 and json.loads((path / "end.json").read_text())["interrupted"], result.err
    assert (path / "report.json").is_file() == (path / "report.html").is_file() == (times == 1)
    assert len(mapping(path)) == 24
    if times == 1:
        said = json.loads((path / "report.json").read_text())["summary"]
        assert said["interrupted"] and said["samples"] == 24 and json.loads(result.out)["summary"] == said


def test_the_first_ctrl_c_while_reports_are_written_leaves_all_of_them(engine, detcheck, tmp_path, monkeypatch):
    from detcheck import report

    real, struck = report.write_file, []

    def strikes(path, content):
        struck.append(path.name)
        if len(struck) == 2:
            signal.raise_signal(signal.SIGINT)
        real(path, content)

    monkeypatch.setattr(report, "write_file", strikes)
    assert detcheck(*ASK, tmp_path / "runs").code == 130
    assert {path.name for path in only_run(tmp_path / "runs").iterdir()} >= set(struck) and len(set(struck)) > 3


def test_a_resumed_run_holds_no_observation(engine, tmp_path):
    """A hundred thousand of them would be 150 MB."""
    from detcheck.records import Observation
    from detcheck.resumed import Resumed

    run = runner.run(Spec("completions", Options(samples=24, max_tokens=4)), tmp_path)
    kept, before = folder.RunFolder(run.path), Resumed()
    names = [o.outcome for o in before.noting(kept.observations())]
    before.count(kept.outcomes())
    assert len(before.stored) == len(names) == before.done.total() == 24 and before.process == 1
    assert len({id(outcome) for outcome in before.stored.values()}) == 1
    assert not any(isinstance(value, Observation) for value in vars(before).values())


def test_a_resumed_run_stops_at_a_divergence_of_before(engine, tmp_path):
    engine._answer = lambda rows, slot, call: OTHER if rows == 2 else SAME
    run = runner.run(Spec("completions", Options(samples=24, max_tokens=4), fail_fast=True), tmp_path)
    assert run.exit_code == 1 and run.findings[0].samples < 24
    again = runner.resume(run.path)
    assert again.exit_code == 1 and again.findings[0].samples < 24
