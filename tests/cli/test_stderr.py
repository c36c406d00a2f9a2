"""--quiet: nothing but errors on stderr. --verbose: each step. Every command has both, and stdout is the same with either."""

import errno
import io
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import typer
from conftest import Bytes

from detcheck import runner, stderr
from detcheck.cli import app, main
from detcheck.probe import Probe
from detcheck.spec import Spec

STORED = Path(__file__).parents[1] / "stored"
COMMANDS = typer.main.get_command(app).commands
RUN, LATER = (STORED / name / "run" for name in ("completions-stock", "completions-baseline"))
OFFLINE = {  # what needs only files, and what --verbose says of each that it reads
    "judge": ([STORED / "judge" / "tokens.jsonl"], ["tokens.jsonl: JSON in the format detcheck", "judged 20 samples"]),
    "compare": ([RUN, LATER], [f"read {RUN}", f"read {LATER}"]),
    "report": ([RUN], [f"read {RUN}", "judged 12 samples"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_both(name):
    for command in getattr(
        COMMANDS[name], "commands", {name: COMMANDS[name]}
    ).values():  # a group has commands below it
        assert {"--quiet", "-q", "--verbose"} <= {flag for option in command.params for flag in option.opts}


@pytest.mark.parametrize("name", OFFLINE)
def test_steps_are_told_where_they_are_asked_for(name, detcheck):
    arguments, steps = OFFLINE[name]
    plain, quiet, verbose = (detcheck(name, *arguments, *more) for more in ([], ["-q"], ["--verbose"]))
    assert plain.err == quiet.err == ""
    assert all(step in verbose.err for step in steps), verbose.err
    assert all(line.startswith("detcheck: ") for line in verbose.err.splitlines())
    assert {(r.out, r.code) for r in (quiet, verbose)} == {(plain.out, plain.code)}


def test_files_that_are_read_and_written_for_check_are_told(detcheck):
    assert "looking for torch" in detcheck("init", "--verbose").err
    assert detcheck("init", "--force", "-q").err == ""
    Path("detcheck.toml").write_text("[probes.matmul]\nshape = '2,2,2'\ntrials = 2\n")
    result = detcheck("check", "--verbose")
    assert result.code == 0 and "reading" in result.err and "step 2 of 2" in result.err
    assert detcheck("check", "-q").err == ""


def test_steps_of_a_run_are_told(detcheck):
    result = detcheck("matmul", "--shape", "2,2,2", "--trials", "2", "--verbose")
    for step in ("opening matmul", "step 1 of 2: ", "step 2 of 2: ", "judged 2 samples", "report.json"):
        assert step in result.err
    assert detcheck("matmul", "--shape", "2,2,2", "--trials", "2", "-q").err == ""


def test_warnings_of_libraries_are_silent_only_with_quiet(detcheck, monkeypatch):
    from detcheck import runner

    real = runner.load

    def load(path):
        warnings.warn("planted warning", stacklevel=1)
        return real(path)

    monkeypatch.setattr(runner, "load", load)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.warns(UserWarning, match="planted warning"):
            detcheck("report", RUN)
        with warnings.catch_warnings(record=True) as warned:
            detcheck("report", RUN, "-q")
    assert not warned


def test_errors_are_told_with_quiet(detcheck, tmp_path):
    assert "no such run" in detcheck("report", "nowhere", "-q").err
    shutil.copytree(RUN, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{")
    assert "cannot be read" in detcheck("report", "run", "-q").err


def test_both_together_are_refused(detcheck):
    result = detcheck("report", RUN, "-q", "--verbose")
    assert result.code == 2 and "--quiet and --verbose" in result.err


def test_what_is_said_is_as_before_afterwards(capsys):
    ours, other = logging.getLogger("detcheck"), logging.getLogger("another")
    before = ours.level, list(ours.handlers), logging.root.manager.disable, list(warnings.filters)
    with pytest.raises(RuntimeError), stderr.told(quiet=True, verbose=False):
        other.warning("unheard")
        other.error("heard")
        raise RuntimeError
    with pytest.raises(RuntimeError), stderr.told(quiet=False, verbose=True):
        logging.getLogger("detcheck.engines").info("a name with \x1b[31m in it")
        raise RuntimeError
    assert (ours.level, ours.handlers, logging.root.manager.disable, warnings.filters) == (*before[:2], *before[2:])
    said = capsys.readouterr().err
    assert "unheard" not in said and r"a name with \x1b[31m in it" in said and "\x1b" not in said


class Gone(io.TextIOWrapper):
    """As a pipe whose reader has gone, or a full disk."""

    def __init__(self, number):
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)
        self.error = OSError(number, os.strerror(number))

    def write(self, text):
        raise self.error

    def flush(self):
        if not self.closed:
            raise self.error


def called(monkeypatch, tmp_path, arguments, out, err):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["detcheck", *arguments])
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


SAME = ["matmul", "--shape", "2,2,2", "--trials", "2"]


@pytest.mark.parametrize("err", [lambda: Gone(errno.EPIPE), lambda: None], ids=["no reader", "closed"])
@pytest.mark.parametrize("more", [[], ["--verbose"]])
def test_a_stderr_that_nobody_reads_changes_nothing(err, more, monkeypatch, tmp_path):
    out = Bytes()
    assert called(monkeypatch, tmp_path, [*SAME, *more], out, err()) == 0
    assert out.text().startswith("identical") and "detcheck: " not in out.text()


def test_a_defect_is_4_also_where_nobody_reads_it(monkeypatch, tmp_path):
    def dies(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("detcheck.runner.run", dies)
    assert called(monkeypatch, tmp_path, SAME, Bytes(), Gone(errno.EPIPE)) == 4


def test_whoever_watches_ends_no_run(tmp_path):
    def watch(_):
        told.append(1)
        raise ZeroDivisionError("a defect of theirs")

    told = []
    asked = Spec("matmul", Probe("matmul").options(shape=(2, 2, 2)), trials=3)
    run = runner.run(asked, tmp_path, watch)
    assert run.exit_code == 0 and sum(f.samples for f in run.findings) == 3 and len(told) == 1
    assert "on_progress raised ZeroDivisionError: a defect of theirs. The run went on" in run.warnings[0]


def test_a_full_disk_behind_stdout_is_said_once_and_the_code_stays(monkeypatch, tmp_path):
    Path(tmp_path / "detcheck.toml").write_text(
        "".join(f"[probes.{name}]\nprobe = 'matmul'\nshape = '2,2,2'\ntrials = 2\n" for name in ("a", "b"))
    )
    with open("/dev/full", "w") as out:
        err = Bytes()
        assert called(monkeypatch, tmp_path, ["check"], out, err) == 0
    assert err.text().count("cannot write to stdout: No space left on device") == 1
    assert len(list(tmp_path.glob("runs/*/b/report.json"))) == 1
