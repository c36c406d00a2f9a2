"""For people at a terminal: the verdict first, then what differs, where, and what to do."""

from __future__ import annotations

import io
import shutil
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from detcheck.records import Finding, Fork, Run, Verdict
from detcheck.text import visible
from detcheck.words import (
    MARGIN,
    MEANING,
    SHOWN_FINDINGS,
    SHOWN_FORKS,
    advice,
    branch_text,
    condition_table,
    controls,
    coverage_lines,
    figures,
    gating,
    histogram_bins,
    likely_cause,
    not_tried,
    server_lines,
    size_table,
    subject_line,
    tally_line,
    totals,
    what_is_judged,
    which_histogram,
)

FILE = None  # it is for a screen; the run's folder holds the other formats
COLOURS = {
    Verdict.IDENTICAL: "green", Verdict.CERTIFIED: "green", Verdict.INCONCLUSIVE: "yellow", Verdict.UNDECIDED: "yellow",
}  # fmt: skip
SHOWN_LINES = 60  # of verdicts, where there is one for each op and implementation
BAR = 40  # characters of the longest bar


def render(run: Run, colour: bool = False) -> str:
    out = io.StringIO()
    width = shutil.get_terminal_size((100, 24)).columns
    console = Console(
        file=out,
        width=max(width, 60),
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
    )
    console.print(whole(run))
    return out.getvalue()


def whole(run: Run) -> RenderableType:
    parts: list[RenderableType] = []
    findings = gating(run)
    if len(findings) > 1:
        parts += [verdict_line(run.verdict, f"over {len(findings)} {what_is_judged(run)}: {tally_line(run)}"), Text()]
    if len(findings) > 1 and run.subject and run.subject.cases:
        parts += [*(verdict_line(f.verdict, subject_line(f)) for f in findings[:SHOWN_LINES]), Text()]
    for finding in findings[:SHOWN_FINDINGS]:
        parts += [one(finding), Text()]
    if len(findings) > SHOWN_FINDINGS:
        parts += [Text(f"... and {len(findings) - SHOWN_FINDINGS} more findings; report.json has all"), Text()]
    for control in controls(run):
        parts += [verdict_line(control.verdict, subject_line(control)), Text(visible(control.note)), Text()]
    for warning in run.warnings:
        parts.append(Text(f"warning: {visible(warning)}", style="yellow"))
    if run.subject:
        env = run.subject.environment
        packages = ", ".join(f"{name} {v}" for name, v in env.packages.items() if name in ("torch", "transformers"))
        packages += f", {env.flags['engine']}" if "engine" in env.flags else ""
        if env.threads:
            where = f"on {visible(env.device)}, {env.processor}, {env.threads} threads; {packages}"
            digests = ", ".join(f"{name} {digest[:12]}" for name, digest in run.subject.digests.items())
            parts += [Text(where, style="dim"), Text(digests, style="dim")]
        else:  # a server
            parts += [Text(visible(line), style="dim") for line in server_lines(env)]
    parts.append(Text(f"reproduce: {visible(run.spec.command())}", style="dim"))
    if run.path:
        parts.append(Text(f"run: {visible(str(run.path))}", style="dim"))
    return Group(*parts)


def verdict_line(verdict: Verdict, rest: str) -> Text:
    return Text.assemble((str(verdict), f"bold {COLOURS.get(verdict, 'red')}"), f"  {rest}")


def one(f: Finding) -> RenderableType:
    parts: list[RenderableType] = [
        verdict_line(f.verdict, subject_line(f)),
        Text(visible(f.note) or MEANING[f.verdict]),
        Text(),
    ]
    if f.samples:
        parts += [Text(totals(f), style="bold"), *(Text(line) for line in figures(f)), Text()]
    title, histogram = which_histogram(f)
    if histogram:
        parts += [Text(title, style="bold"), bars(histogram_bins(histogram)), Text()]
    if f.forks:
        parts += [
            Text.assemble(("Forks", "bold"), (f"  ({MARGIN})", "dim")),
            tree(f.forks),
            Text(),
        ]
    if sizes := size_table(f):
        parts += [columns(sizes), *(Text(f"not tried: {visible(line)}", style="dim") for line in not_tried(f)), Text()]
    elif table := condition_table(f):
        parts += [
            columns(table, first="left"),
            *(Text(f"not tried: {visible(line)}", style="dim") for line in not_tried(f)),
            Text(),
        ]
    parts += [Text(line) for line in (*coverage_lines(f), likely_cause(f), advice(f)) if line]
    return Group(*parts)


def bars(bins: list[tuple[str, int]]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    most = max(count for _, count in bins)
    for label, count in bins:
        table.add_row(Text(label), Text("█" * max(1 if count else 0, round(BAR * count / most))), Text(str(count)))
    return table


def tree(forks: tuple[Fork, ...]) -> Tree:
    """The fork tree, as far as it is readable."""
    shown, total = forks[:SHOWN_FORKS], sum(b.count for b in forks[0].branches)
    root = Tree(Text(f"{total} samples"))
    nodes: dict[tuple[int, int], Tree] = {}
    for fork in shown:
        above = root if fork.parent is None else nodes[fork.parent, fork.parent_branch]
        for n, branch in enumerate(fork.branches[:SHOWN_FORKS]):
            margin = "" if branch.margin is None else f"  margin {branch.margin:.2g}"
            line = Text.assemble(
                f"at {fork.index}: ", (f"{branch.count}×", "bold"), f" {branch_text(fork, n)}", (margin, "dim")
            )
            nodes[fork.id, n] = above.add(line)
        if len(fork.branches) > SHOWN_FORKS:
            above.add(Text(f"... and {len(fork.branches) - SHOWN_FORKS} more ways on"))
            nodes |= {(fork.id, n): above for n in range(SHOWN_FORKS, len(fork.branches))}
    if len(forks) > SHOWN_FORKS:
        root.add(Text(f"... and {len(forks) - SHOWN_FORKS} more forks; report.json has all"))
    return root


def columns(lines: list[list[str]], first: Literal["left", "right"] = "right") -> Table:
    table = Table(box=None, pad_edge=False)
    for n, heading in enumerate(lines[0]):
        table.add_column(heading, justify="right" if n else first, overflow="fold")
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    return table
