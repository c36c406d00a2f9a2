"""--quiet: nothing but errors on stderr. --verbose: each step. Every command has both, and stdout is the same with either."""

import logging
import shutil
import warnings
from pathlib import Path

import pytest
import typer

from detcheck import stderr
from detcheck.cli import app

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
    flags = {flag for option in COMMANDS[name].params for flag in option.opts}
    assert {"--quiet", "-q", "--verbose"} <= flags


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
