"""Every page of --help ends with two examples, and each is a command that is taken; those that need nothing but files are run."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from detcheck.cli import app
from detcheck.commands import epilogue

STORED = Path(__file__).parents[1] / "stored"
COMMANDS = typer.main.get_command(app).commands
PAGES = ["", *COMMANDS, *(f"fleet {name}" for name in COMMANDS["fleet"].commands)]
NARROW = 80  # columns


def page(command, monkeypatch):
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", str(NARROW))
    monkeypatch.setenv("TERM", "dumb")
    return CliRunner().invoke(app, [*command.split(), "--help"], prog_name="detcheck").output


def examples(text):
    """The command lines at the end of a page, and what is said of each. Raises ValueError where a page ends otherwise."""
    body, _, end = text.rpartition("\n Examples")
    found = re.fullmatch(r"\s*(?: # (\S.*?) *\n (detcheck .*?) *\n\s*)(?: # (\S.*?) *\n (detcheck .*?) *\n\s*)", end)
    if not body or not found:
        raise ValueError(end)
    return {found[2]: found[1], found[4]: found[3]}


def test_a_page_that_ends_otherwise_is_seen():
    body, end = "Usage\n Examples\n", " # one\n detcheck a\n\n # other\n detcheck b\n\n"
    assert examples(body + end) == {"detcheck a": "one", "detcheck b": "other"}
    for wrong in (" # one\n detcheck a\n", end + " # third\n detcheck c\n", end + "more\n", end.replace("# one", "")):
        with pytest.raises(ValueError):
            examples(body + wrong)
    with pytest.raises(ValueError):
        examples(end)


def test_an_example_with_brackets_is_shown_as_it_is_written():
    from rich.text import Text

    assert Text.from_markup(epilogue(["detcheck a [b]  # with [c]"])).plain == "Examples\n\n# with [c]\ndetcheck a [b]"


@pytest.mark.parametrize("name", PAGES)
def test_every_page_ends_with_two_examples_that_are_taken(name, detcheck, monkeypatch):
    found = examples(page(name, monkeypatch))
    assert len(found) == 2
    asked = []

    def stop(*given, **_):
        asked.append(given)
        raise KeyboardInterrupt

    for act in ("run", "load", "resume", "judge_file", "compare"):
        monkeypatch.setattr(f"detcheck.runner.{act}", stop)
    monkeypatch.setattr("detcheck.env.listing.look", stop)
    monkeypatch.setattr("detcheck.fleet.run.ask", stop)
    monkeypatch.setattr("detcheck.runner.read", lambda path: (None, None, None))
    for config in ("detcheck.toml", "gpu.toml") if name == "check" else ("pyproject.toml",):
        Path(config).write_text("[probes.kernels]\n")
    for line in found:
        assert len(line) < NARROW, "it would be wrapped, and could not be copied"
        program, *arguments = shlex.split(line.split(" > ")[0])
        assert program == "detcheck" and arguments[: len(name.split())] == name.split()
        result = detcheck(*arguments)
        assert (result.code, bool(asked)) == ((0, False) if name == "init" else (130, True)), result.err
        asked.clear()
        if name == "init":  # which refuses to write what would never be read
            Path("detcheck.toml").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["judge", "compare", "report", "env"])
def test_examples_that_need_only_files_run(name, detcheck, monkeypatch, tmp_path):
    for run in ("20261124T041500Z-completions", "20261124T041500Z-batch", "20261124T051500Z-batch"):
        shutil.copytree(STORED / "completions-stock" / "run", tmp_path / "runs" / run)
    shutil.copytree(STORED / "completions-baseline" / "run", tmp_path / "runs/20261124T051500Z-completions")
    shutil.copy(STORED / "completions-stock" / "run" / "baseline.json", tmp_path)
    for file in ("completions", "before", "after"):
        shutil.copy(STORED / "judge" / "tokens.jsonl", tmp_path / f"{file}.jsonl")
    for line in examples(page(name, monkeypatch)):
        result = detcheck(*shlex.split(line.split(" > ")[0])[1:])
        assert result.code in (0, 1, 3) and result.out and not result.err, result.err
