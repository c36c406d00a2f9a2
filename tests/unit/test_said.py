"""What detcheck says where no stored run is loaded: of others' completions, of two runs compared, and under --help.

Beside `tests/unit/test_stored.py`, which does the same for stored runs. `judge/<name>.jsonl` is given, and what is
compared are the stored runs; neither is ever made again: the runs are of version 0.1.0's schema, and show that old
runs stay readable. What stands in `judge/<name>/`, `compare/<name>/` and `help/` is what detcheck says now. After a
change that means to say something else, write it with `python tests/unit/test_said.py --write` and read the
difference line by line before you commit it.

Needs no torch. What would differ each time is held still: the folder is the current one, the width 100 columns, the
start of the run and detcheck's version are placeholders, and style and script are left out of the page.
"""

import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import pytest
import typer
from test_stored import without_style
from typer.testing import CliRunner

from detcheck import __version__, runner
from detcheck.cli import app
from detcheck.report import render

HERE = Path(__file__).parents[1] / "stored"
STARTED = "2026-11-27T00:00:00Z"
FORMATS = {"terminal": "terminal.txt", "json": "report.json", "md": "report.md", "junit": "junit.xml"}
PAGES = {"judge/tokens", "compare/later"}  # whose page is compared too
JUDGED = sorted(path.stem for path in (HERE / "judge").glob("*.jsonl"))
COMPARED = {
    "later": ("completions-stock", "completions-baseline"),  # the same question, asked again
    "baselines": ("completions-stock/run/baseline.json", "completions-baseline/run/baseline.json"),
    "kernels": ("completions-stock", "completions-both"),
    "ops": ("order", "order-ours"),
    "probes": ("completions-stock", "batch"),  # two questions: not to be compared
}
FRESH = {"FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "CLICOLOR_FORCE", "NO_COLOR"}  # typer and rich look at these


@contextmanager
def still(folder):
    """Inside, the folder is the current one, and a terminal is a plain one of 100 columns."""
    before, environment = Path.cwd(), dict(os.environ)
    for name in FRESH:
        os.environ.pop(name, None)
    os.environ.update(COLUMNS="100", TERM="dumb", NO_COLOR="1")
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


def texts(name, run):
    """File name -> what is said of this run."""
    run = replace(run, started=STARTED)
    formats = FORMATS | ({"html": "report.html"} if name in PAGES else {})
    found = {
        file: render(run, format).replace(f"detcheck {__version__}", "detcheck VERSION")
        for format, file in formats.items()
    }
    found["report.json"] = found["report.json"].replace(
        f'"detcheck_version": "{__version__}"', '"detcheck_version": "VERSION"'
    )
    if "report.html" in found:
        found["report.html"] = without_style(found["report.html"])
    return found | {"exit_code.txt": f"{run.verdict} {run.exit_code}\n"}


def judged(name, folder=HERE):
    with still(folder / "judge"):
        return texts(f"judge/{name}", runner.judge_file(f"{name}.jsonl", command=f"detcheck judge {name}.jsonl"))


def compared(name, folder=HERE):
    a, b = (path if path.endswith(".json") else f"{path}/run" for path in COMPARED[name])
    with still(folder):
        return texts(f"compare/{name}", runner.compare(a, b, command=f"detcheck compare {a} {b}"))


def commands():
    """detcheck itself, and every command of it; "fleet-matmul" is one of `detcheck fleet`."""
    found = typer.main.get_command(app).commands
    below = [f"{name}-{one}" for name, group in found.items() for one in getattr(group, "commands", ())]
    return ["detcheck", *found, *below]


def helped(names):
    """File name -> the help of each."""
    with still(HERE):
        return {f"{name}.txt": help_of(name.split("-") if name != "detcheck" else []) for name in names}


def help_of(words):
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="detcheck")
    assert result.exit_code == 0, result.output
    return "".join(f"{line.rstrip()}\n" for line in click.unstyle(result.output).splitlines())


def kept(folder):
    """File name -> what is stored in that folder; a file too many is a difference like one too few."""
    return {path.name: path.read_bytes().decode("utf-8") for path in folder.iterdir()}


@pytest.mark.parametrize("name", JUDGED)
def test_what_is_said_of_completions_of_others(name):
    assert judged(name) == kept(HERE / "judge" / name)


@pytest.mark.parametrize("name", COMPARED)
def test_what_is_said_of_two_runs(name):
    assert compared(name) == kept(HERE / "compare" / name)


@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "help").iterdir()))
def test_what_is_said_under_help(name):
    assert helped([name])[f"{name}.txt"] == (HERE / "help" / f"{name}.txt").read_text("utf-8")


def test_the_help_of_every_command_is_stored():
    assert kept(HERE / "help").keys() == {f"{name}.txt" for name in commands()}


def test_another_token_is_seen(tmp_path):
    """One token of one sample is damaged: every format must say something else."""
    (tmp_path / "judge").mkdir()
    text = (HERE / "judge" / "words.jsonl").read_text("utf-8")
    (tmp_path / "judge" / "words.jsonl").write_text(text.replace('"b"', '"c"', 1), "utf-8")
    found, before = judged("words", tmp_path), kept(HERE / "judge" / "words")
    assert found.keys() == before.keys() and all(found[file] != before[file] for file in found)


def test_a_damaged_snapshot_is_seen(tmp_path):
    """One letter of one snapshot is damaged, then one is missing: neither is equal to what is said."""
    damaged = shutil.copytree(HERE / "compare" / "later", tmp_path / "later")
    assert compared("later") == kept(damaged)
    page = damaged / "report.md"
    text = page.read_text("utf-8")
    page.write_text(text.replace("identical", "identica1", 1), "utf-8")
    assert compared("later") != kept(damaged)
    page.unlink()
    assert compared("later") != kept(damaged)


def write(folder, found):
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for file, text in found.items():
        (folder / file).write_bytes(text.encode("utf-8"))


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    for each in JUDGED:
        write(HERE / "judge" / each, judged(each))
    for each in COMPARED:
        write(HERE / "compare" / each, compared(each))
    write(HERE / "help", helped(commands()))
