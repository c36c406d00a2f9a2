"""GitHub Actions: a summary that it takes, and an annotation that says what was meant, wherever the text came from."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from detcheck import github, runner
from detcheck.finding import Finding
from detcheck.records import Case, SourceLine
from detcheck.report import render
from detcheck.verdict import Verdict

STORED = Path(__file__).parents[1] / "stored"


@pytest.fixture
def step(tmp_path, monkeypatch):
    """A step's own summary file."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return tmp_path / "summary.md"


@pytest.fixture
def run():
    return runner.load(STORED / "completions-stock" / "run")


def with_notes(run, *notes):
    """Findings whose notes are these."""
    found = tuple(
        Finding(Case("judge", "file", "", "", str(n)), Verdict.DIVERGENT, note, samples=2)
        for n, note in enumerate(notes)
    )
    return replace(run, findings=found)


def test_a_summary_that_fits_is_whole(step, run):
    github.publish(run)
    assert step.read_text("utf-8") == render(run, "md") + "\n"


@pytest.mark.parametrize("note", ["long " * 50_000, "é" * 200_000, "``` " * 60_000])
def test_a_longer_one_is_cut_between_blocks_and_says_what_is_missing_and_where_it_is(step, run, note):
    """GitHub drops the whole summary of a step that has more than 1 MiB, counted in bytes and over all of its commands."""
    large, already = with_notes(run, *["short", *[note] * 7]), "# another command's\n"
    step.write_text(already)
    assert len(render(large, "md").encode()) > 1 << 20
    github.publish(large)
    said = step.read_text("utf-8")
    assert (1 << 19) < len(said.encode()) < 1 << 20
    whole = already + render(large, "md") + "\n"
    kept, _, rest = said.rpartition("\n> ")
    assert whole.startswith(kept) and kept.endswith("\n\n")
    assert github.blocks(kept) == github.blocks(whole)[: len(github.blocks(kept))]
    n, of = map(int, re.match(r"(\d+) of the (\d+) blocks", rest).groups())
    assert 0 < n < of and "report.md" in rest and str(run.path) in rest
    github.publish(large)  # nothing more fits but perhaps the note
    assert len(step.read_bytes()) < 1 << 20


def test_a_full_summary_stays_as_it_is(step, run):
    step.write_bytes(b"x" * ((1 << 20) - 10))
    github.publish(run)
    assert step.stat().st_size == (1 << 20) - 10


def test_fenced_code_is_one_block():
    text = "# a\n\n````text\n\n```\n\nx\n````\n\n| a |\n|---|\n| b |\n\nend\n"
    assert github.blocks(text) == ["# a\n\n", "````text\n\n```\n\nx\n````\n\n", "| a |\n|---|\n| b |\n\n", "end\n"]
    assert "".join(github.blocks(text)) == text


def read(command):
    """A workflow command, as the runner reads it: name, properties, message."""
    name, properties, message = re.fullmatch(r"::(\w+) ([^\n]*?)::([^\n]*)", command).groups()

    def back(text):
        return re.sub("%([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), text)

    return name, {k: back(v) for k, v in (one.split("=", 1) for one in properties.split(","))}, back(message)


def test_one_annotation_says_just_what_the_finding_says(step, run, capsys):
    note = "100%0A of a,b::error file=x::y\n::set-env name=A::b"
    github.publish(with_notes(run, "fine", note))
    (command,) = capsys.readouterr().err.splitlines()
    name, properties, message = read(command)
    assert (name, properties) == ("error", {"title": "detcheck completions"})
    assert message in ("divergent: fine", "divergent: " + note.replace("\n", "\\n"))
    github.publish(with_notes(run, note))
    assert read(capsys.readouterr().err.rstrip("\n"))[2] == "divergent: " + note.replace("\n", "\\n")


def test_it_stands_on_the_line_of_the_op(step, run, capsys):
    odd = "my ops/a,b:c%.py"
    found = Finding(Case("kernels", "ops:norm", "user", "float32", "256"), Verdict.BATCH_VARIANT, "it depends")
    subject = replace(run.subject, sources={"ops:norm": SourceLine(odd, 31)})
    github.publish(replace(run, findings=(found,), subject=subject))
    _, properties, message = read(capsys.readouterr().err.rstrip("\n"))
    assert properties == {"file": odd, "line": "31", "title": "detcheck completions"} and message.endswith("it depends")
    elsewhere = replace(run.subject, sources={"ops:norm": SourceLine("/usr/lib/ops.py", 31)})
    github.publish(replace(run, findings=(found,), subject=elsewhere))
    assert "file" not in read(capsys.readouterr().err.rstrip("\n"))[1]


def test_what_passes_makes_no_annotation(step, capsys):
    github.publish(runner.load(STORED / "completions-both" / "run"))
    assert "::error" not in capsys.readouterr().err and step.exists()


def test_outside_of_actions_nothing_is_written(run, capsys, monkeypatch):
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    before = set(os.listdir())
    github.publish(run)
    assert capsys.readouterr() == ("", "") and set(os.listdir()) == before
