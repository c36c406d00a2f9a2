"""How a run looks at the end of a notebook's cell: its verdict, a row for each finding, and where its report is."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from detcheck.finding import Finding, Run
from detcheck.report import subject_line, worst_first
from detcheck.text import visible
from detcheck.verdict import ROLES, Role

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 8  # findings; `Run.findings` has all
HEADINGS = ("verdict", "what", "samples", "distinct", "distinct bits", "note")
COLOURS = {0: "green", 1: "red"}  # by exit code


def plain(run: Run) -> str:
    """In a line or two, for a console."""
    lines = [f"<detcheck.Run {run.spec.probe}: {run.verdict}, exit code {run.exit_code}{where(run)}>"]
    lines += [f"  {f.verdict}: {subject_line(f)}: {visible(f.note)}" for f in worst_first(run)[:SHOWN]]
    return "\n".join([*lines, *([f"  {more}"] if (more := left_out(run)) else ())])


def where(run: Run) -> str:
    return f", in {visible(str(run.path))}" if run.path else ""


def left_out(run: Run) -> str:
    rest = len(run.findings) - SHOWN
    return f"and {rest} more: see .findings" if rest > 0 else ""


def cells(f: Finding) -> tuple[str, ...]:
    case = f.case
    parts = (case.subject, f"replica {case.replica}" if case.replica else "", case.kernels, case.dtype, case.input)
    what = " · ".join(visible(part) for part in parts if part) + ROLES[f.role]
    return str(f.verdict), what, str(f.samples), str(f.distinct), str(f.distinct_bits), visible(f.note)


def console(run: Run) -> RenderableType:
    """For rich."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(
        (str(run.verdict), f"bold {COLOURS.get(run.verdict.exit_code, 'yellow')}"),
        f"  {run.spec.probe}, exit code {run.exit_code}{where(run)}",
    )
    table = Table(*HEADINGS, box=box.SIMPLE_HEAD, pad_edge=False)
    for f in worst_first(run)[:SHOWN]:
        table.add_row(*map(Text, cells(f)))
    return Group(head, table, *map(Text, notes(run)))


def notes(run: Run) -> Sequence[str]:
    return [line for line in (left_out(run), *map(visible, run.warnings)) if line]


def page(run: Run) -> str:
    """For Jupyter: HTML without a script, in the notebook's own colours, everything escaped."""
    rows = [(f, cells(f)) for f in worst_first(run)[:SHOWN]]
    head = "".join(f'<th style="text-align:left">{escape(name)}</th>' for name in HEADINGS)
    body = "".join(
        f'<tr style="opacity:{1 if f.role is Role.GATES else 0.7}">'
        + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row)
        + "</tr>"
        for f, row in rows
    )
    said = "".join(f"<div>{escape(line)}</div>" for line in notes(run))
    return (
        f"<div><b>{escape(str(run.verdict))}</b> {escape(run.spec.probe)}, exit code {run.exit_code}{link(run)}"
        f"<div><code>{escape(visible(run.spec.command()))}</code></div>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{said}</div>"
    )


def link(run: Run) -> str:
    """To report.html, by its path from here, as a notebook's own files are linked; elsewhere the path alone."""
    if run.path is None:
        return ""
    page = run.path / "report.html"
    here = page if not page.is_absolute() else relative(page)
    if here is None or not page.is_file():
        return f" · {escape(visible(str(run.path)))}"
    from urllib.parse import quote

    return f' · <a href="{escape(quote(here.as_posix()))}" target="_blank" rel="noopener">report.html</a>'


def relative(path: Path) -> Path | None:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else None
