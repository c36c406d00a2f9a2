"""In GitHub Actions: the Markdown goes to the step's summary, and what fails the job makes one annotation, on a line of source where one is known."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from detcheck.blocks import Section
from detcheck.files import in_repository
from detcheck.finding import Run
from detcheck.formats.md import prose
from detcheck.output import command, escaped
from detcheck.report import described, render, render_suite
from detcheck.suite import Suite
from detcheck.text import visible

ASK = "what --format md prints"  # of a run that leaves no folder
MOST_BYTES = 1024 * 1024  # of a step's summary, whatever its commands wrote together; GitHub drops all of a longer one


def publish(run: Run) -> None:
    """Does nothing outside of GitHub Actions."""
    summarise(render(run, "md"), f"report.md and report.html of {prose(str(run.path))}" if run.path else ASK)
    annotate(run, run.spec.probe)


def publish_suite(suite: Suite) -> None:
    """One summary of all, and an annotation for each that fails the job."""
    summarise(render_suite(suite, "md"), f"summary.md and index.html of {prose(str(suite.path))}")
    for member in suite.members:
        if member.report:
            annotate(member.report.run, member.name)
        elif os.environ.get("GITHUB_ACTIONS") == "true":
            title = escaped(visible(f"detcheck {member.name}"), ":,")
            print(f"::warning title={title}::{escaped(member.note)}", file=sys.stderr)


def summarise(markdown: str, where: str) -> None:
    """`where`: which files have all of it."""
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(summary, "a", encoding="utf-8") as file:
                file.write(fitting(markdown + "\n", MOST_BYTES - 1 - Path(summary).stat().st_size, where))
        except OSError as error:
            print(f"detcheck: cannot append to GITHUB_STEP_SUMMARY: {error.strerror}", file=sys.stderr)


def annotate(run: Run, name: str) -> None:
    if run.exit_code:
        command(annotation(run, name))


def fitting(markdown: str, most: int, where: str) -> str:
    """As many whole blocks from the beginning as `most` bytes hold, and what was left out. "" where not even that fits."""
    if len(markdown.encode()) <= most:
        return markdown
    parts = blocks(markdown)

    def left_out(n: int) -> str:
        return f"\n> {n} of the {len(parts)} blocks of this report are left out here, since a step's summary holds 1 MiB: all are in {where}\n"

    room, kept = most - len(left_out(len(parts)).encode()), 0
    while kept < len(parts) and (room := room - len(parts[kept].encode())) >= 0:
        kept += 1
    note = left_out(len(parts) - kept)
    return "".join(parts[:kept]) + note if len(note.encode()) <= most else ""


def blocks(markdown: str) -> list[str]:
    """Paragraphs, tables, lists and fenced code, each whole, with the blank lines behind it."""
    found, fence = [""], ""
    for line in markdown.splitlines(keepends=True):
        if not line.strip() and not fence:
            found[-1] += line
            continue
        if not fence and found[-1].endswith("\n\n"):
            found.append("")
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if len(ticks) >= 3 and (not fence or line.strip() == fence):
            fence = "" if fence else ticks
        found[-1] += line
    return found


def annotation(run: Run, name: str) -> str:
    """The workflow command for the worst of what makes the exit code what it is."""
    worst = min(described(run).sections, key=lambda s: s.finding.exit_code(run.spec.fail_on) != run.exit_code)
    properties = place(worst) | {"title": f"detcheck {name}"}
    said = ",".join(f"{name}={escaped(value, ':,')}" for name, value in properties.items())
    return f"::error {said}::{escaped(visible(f'{worst.finding.verdict}: {worst.note}'))}"


def place(section: Section) -> dict[str, str]:
    """The line to show it on; {}: none in this repository is known."""
    for note in section.lines:
        if in_repository(note.place.file):
            return {"file": note.place.file, "line": str(note.place.line)}
    return {}
