"""For people at a terminal: the verdict first, then what differs, where, and what to do."""

from __future__ import annotations

import io
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from detcheck import blocks
from detcheck.blocks import (
    MARGIN,
    SHOWN_FINDINGS,
    SHOWN_FORKS,
    Curve,
    Facts,
    Forks,
    Histogram,
    Report,
    Section,
    Totals,
    Trees,
    branch_text,
    outlined,
)
from detcheck.finding import Fork
from detcheck.fitting import LEFT_OUT, breaks, continued, hung, table
from detcheck.suite import STOPPED, Member, Suite
from detcheck.text import visible
from detcheck.verdict import Verdict

FILE = SUITE_FILE = None  # it is for a screen; the run's folder holds the other formats
COLOURS = {
    Verdict.IDENTICAL: "green", Verdict.CERTIFIED: "green", Verdict.INCONCLUSIVE: "yellow", Verdict.UNDECIDED: "yellow",
}  # fmt: skip
SHOWN_LINES = 60  # of verdicts, where there is one for each op and implementation
BAR = 40  # characters of the longest bar


NARROWEST = 60  # columns: below, a terminal wraps lines itself
IN_A_PIPE = 100
INDENT = "  "


def render(report: Report, colour: bool = False) -> str:
    """As wide as the terminal, or as `COLUMNS` says; in a pipe always the same."""
    out = io.StringIO()
    width = max(shutil.get_terminal_size((IN_A_PIPE, 24)).columns, NARROWEST)
    console = Console(
        file=out,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
    )
    console.print(Shown(Group(*(line for part in whole(report, width) for line in fit(part, width)))), crop=False)
    return "".join(f"{line.rstrip(' ')}\n" for line in out.getvalue().splitlines())


@dataclass(frozen=True)
class Shown:
    """What is inside, with all that a terminal would obey written out, wherever it comes from; colours are added later."""

    inside: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.inside, options):
            yield Segment("\n".join(map(visible, segment.text.split("\n"))), segment.style)


def render_suite(suite: Suite, colour: bool = False) -> str:
    width = max(len(m.title) for m in suite.members)
    return "".join(render_member(m, width, colour) for m in suite.members) + render_end(suite, colour)


def render_member(member: Member, width: int = 0, colour: bool = False) -> str:
    """One of several, in a line however long: its words stay together for whoever searches them."""
    verdict = styled(f"{member.verdict:14}" if member.report else f"{'not asked':14}", member.verdict)
    return line(Text.assemble(verdict, f"  {member.title:{width}}  {member.note}"), colour)


def render_end(suite: Suite, colour: bool = False) -> str:
    """What several came to together, and where the reports are."""
    of = f"{len(suite.members)} probe{'s' * (len(suite.members) > 1)}: {suite.tally}"
    lines = [Text(f"warning: {visible(warning)}", style="yellow") for warning in suite.warnings]
    lines += [Text(STOPPED, style="yellow")] * suite.interrupted
    lines += [Text(), verdict_line(suite.verdict, f"over {of}; exit code {suite.exit_code}")]
    lines += [
        Text(
            f"reports: {visible(str(suite.path))}: index.html, summary.md, report.json, junit.xml, report.sarif",
            style="dim",
        )
    ]
    return "".join(line(text, colour) for text in lines)


class VerdictLine(Text):
    """Ours: no other line begins with the word of a verdict, whoever wrote it."""


def line(text: Text, colour: bool) -> str:
    out = io.StringIO()
    system = "standard" if colour else None
    Console(file=out, force_terminal=colour, color_system=system, highlight=False).print(Shown(text), soft_wrap=True)
    return out.getvalue()


def fit(part: RenderableType, width: int) -> Sequence[RenderableType]:
    """Text in lines that are broken at spaces alone: rich would break a word, or a module's name, that is wider than a line.

    A line that would read as a verdict is indented, so that no model's text can be taken for one.
    """
    if not isinstance(part, Text):
        return [part]
    ours = isinstance(part, VerdictLine)
    lines = divided(part, width)
    if any(map(like_a_verdict, lines[ours:])):
        lines = divided(part, width - len(INDENT))
        lines = [Text(INDENT) + line if n >= ours and like_a_verdict(line) else line for n, line in enumerate(lines)]
    for line in lines:
        line.no_wrap, line.overflow = True, "ignore"
    return lines


def divided(part: Text, width: int) -> list[Text]:
    return [part] if part.no_wrap else list(part.divide(breaks(part.plain, width)))


def like_a_verdict(line: Text) -> bool:
    return unicodedata.normalize("NFKC", line.plain).casefold().startswith(tuple(Verdict))


def whole(report: Report, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = []
    run, sections = report.run, report.gating
    if len(sections) > 1:
        parts += [verdict_line(run.verdict, f"over {len(sections)} {report.judged}: {report.tally}"), Text()]
    if len(sections) > 1 and run.subject and run.subject.cases:
        parts += [*(verdict_line(s.finding.verdict, s.subject) for s in sections[:SHOWN_LINES]), Text()]
    for section in sections[:SHOWN_FINDINGS]:
        parts += [*one(section, width), Text()]
    if len(sections) > SHOWN_FINDINGS:
        parts += [Text(f"... and {len(sections) - SHOWN_FINDINGS} more findings; report.json has all"), Text()]
    for control in report.controls:
        parts += [verdict_line(control.finding.verdict, control.subject), Text(control.note), Text()]
    for warning in run.warnings:
        parts.append(Text(f"warning: {visible(warning)}", style="yellow"))
    if run.subject:
        env = run.subject.environment
        parts += [
            Text(f"problem: {visible(f'{p.what}: {p.found}')} (`detcheck env` says what to do)", style="yellow")
            for p in env.problems
        ]
        packages = ", ".join(f"{name} {v}" for name, v in env.packages.items() if name in ("torch", "transformers"))
        packages += f", {env.flags['engine']}" if "engine" in env.flags else ""
        if env.threads:
            where = visible(f"on {env.device}, {env.processor}, {env.threads} threads; {packages}")
            digests = visible(", ".join(f"{name} {digest[:12]}" for name, digest in run.subject.digests.items()))
            parts += [Text(line, style="dim") for line in (where, digests) if line]
        parts += [Text(f"{server}: {what}", style="dim") for server, what in report.asked]
    again = continued(f"reproduce: {visible(run.spec.command())}", width)
    parts += [Text(line, style="dim", no_wrap=True) for line in again]
    if run.path:
        parts.append(Text(f"run: {visible(str(run.path))}", style="dim", no_wrap=True))
    return parts


def verdict_line(verdict: Verdict, rest: str) -> VerdictLine:
    return VerdictLine.assemble(styled(str(verdict), verdict), f"  {visible(rest)}")


def styled(text: str, verdict: Verdict) -> tuple[str, str]:
    return text, f"bold {COLOURS.get(verdict, 'red')}"


def one(section: Section, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = [verdict_line(section.finding.verdict, section.subject), Text(section.note), Text()]
    facts: list[Text] = []
    for block in section.blocks:
        match block:
            case Totals(line):
                facts.append(Text(line, style="bold"))
            case Facts(lines):
                facts += map(Text, lines)
            case Trees(trees, on_pages=False):
                found = (below for t in trees for line in (t.line, *outlined(t)) for below in hung(line, width))
                facts += (Text(line, no_wrap=True) for line in found)
            case _:
                parts += [*facts, *([Text()] if facts else []), *drawn(block, width)]
                facts = []
    return [*parts, *facts, *([Text()] if facts else [])]


def drawn(block: blocks.Block, width: int) -> list[RenderableType]:
    match block:
        case Histogram(title):
            return [Text(title, style="bold"), bars([(name, n, str(n)) for name, n in block.bins()], width), Text()]
        case Curve(title, across, unit, on_pages=False):
            shown = [(label, mean, f"{mean:.3g}  (largest {top:.3g})") for label, mean, top in block.bins()]
            return [Text.assemble((title, "bold"), (f"  ({unit}, by {across})", "dim")), bars(shown, width), Text()]
        case Forks(forks):
            return [Text.assemble(("Forks", "bold"), (f"  ({MARGIN})", "dim")), tree(forks), Text()]
        case blocks.Table(_, lines, _, notes, on_pages=False):
            return [*columns(lines, width), *(Text(n, style="dim") for n in notes), Text()]
        case blocks.Text(lines):
            return [Text(line) for line in lines]
    return []


def bars(bins: Sequence[tuple[str, float, str]], width: int) -> Table:
    """(label, length, what stands behind it)"""
    beside = max(cell_len(label) for label, _, _ in bins) + max(cell_len(behind) for _, _, behind in bins) + 2
    bar = max(1, min(BAR, width - beside))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right")
    grid.add_column()
    grid.add_column(justify="right")
    most = max(length for _, length, _ in bins) or 1
    for label, length, behind in bins:
        grid.add_row(Text(label), Text("█" * max(1 if length else 0, round(bar * length / most))), Text(behind))
    return grid


def tree(forks: tuple[Fork, ...]) -> Tree:
    """The fork tree, as far as it is readable."""
    left_out, total = max(0, len(forks) - SHOWN_FORKS), sum(b.count for b in forks[0].branches)
    root = Tree(Text(f"{total} samples"))
    nodes: dict[tuple[int, int], Tree] = {}
    for fork in forks[:SHOWN_FORKS]:
        above = root if fork.parent is None else nodes.get((fork.parent, fork.parent_branch))
        if above is None:  # below a branch that has no room
            left_out += 1
            continue
        for n, branch in enumerate(fork.branches[:SHOWN_FORKS]):
            margin = "" if branch.margin is None else f"  margin {branch.margin:.2g}"
            line = Text.assemble(
                f"at {fork.at}: ", (f"{branch.count}×", "bold"), f" {branch_text(fork, n)}", (margin, "dim")
            )
            nodes[fork.id, n] = above.add(line)
        if len(fork.branches) > SHOWN_FORKS:
            above.add(Text(f"... and {len(fork.branches) - SHOWN_FORKS} more ways on"))
    if left_out:
        root.add(Text(f"... and {left_out} more fork{'s' * (left_out > 1)}; report.json has all"))
    return root


def columns(lines: Sequence[Sequence[str]], width: int) -> list[Text]:
    found, headings = table(lines, width)
    short = sum(line.count(LEFT_OUT) for line in found) > sum(cell.count(LEFT_OUT) for line in lines for cell in line)
    notes = (
        [Text(f"{LEFT_OUT}: parts of a name are left out; report.json has it in full", style="dim")] if short else []
    )
    return [*(Text(line, style="bold" if n < headings else "", no_wrap=True) for n, line in enumerate(found)), *notes]
