"""Markdown, for pull requests and step summaries. Model text is written as entities, so no mark, link or mention in it works."""

from __future__ import annotations

import re

from detcheck.blocks import (
    MARGIN,
    SHOWN_FINDINGS,
    SHOWN_FORKS,
    Block,
    Curve,
    Facts,
    Forks,
    Histogram,
    Report,
    Section,
    Table,
    Text,
    Totals,
    Trees,
    branch_text,
    outlined,
)
from detcheck.finding import Fork
from detcheck.suite import STOPPED, Suite
from detcheck.text import visible

BAR = 30  # characters of the longest bar

APART = "<!-- -->"
EMOJI = re.compile(r":[\w+-]+:")
# Marks of Markdown in a sentence. A name's own _ is none, nor is a colon, unless it begins an address or an emoji's name.
MARK = re.compile(r"[\\`*\[\]<>&~|@#$]|(?<![^\W_])_|_(?![^\W_])|:(?=//|[\w+-]+:)|(?<=\bwww)\.")
BEGINS = re.compile(r"^( (?= {3}))|^( {0,3}\d*)([-+.)](?=\s|$)|-(?=[- ]*$))")  # a list, a rule, or a block of code

FILE = "report.md"  # in the run's folder
SUITE_FILE = "summary.md"  # in the folder of several


def render(report: Report) -> str:
    run, sections = report.run, report.gating
    parts = [f"# detcheck: {run.verdict}", ""]
    if len(sections) > 1:
        parts += [f"{len(sections)} {report.judged}: {report.tally}", ""]
    for section in sections[:SHOWN_FINDINGS]:
        parts += one(section)
    if len(sections) > SHOWN_FINDINGS:
        parts += [f"... and {len(sections) - SHOWN_FINDINGS} more findings; report.json has all", ""]
    for control in report.controls:
        parts += [f"- {control.finding.verdict}: {inert(control.subject)}: {inert(control.note)}", ""]
    parts += [f"> warning: {inert(warning)}\n" for warning in run.warnings]
    parts += ["Reproduce:", "", *fenced(run.spec.command()), ""]
    if run.subject:
        env = run.subject.environment
        packages = ", ".join(f"{name} {version}" for name, version in env.packages.items())
        rows = dict(report.asked)
        if env.threads:
            here = {"device": env.device, "processor": f"{env.processor}, {env.threads} threads", "packages": packages}
            rows = here | rows
        rows |= {f"{name} SHA-256": digest for name, digest in run.subject.digests.items()}
        parts += ["| | |", "|---|---|", *(f"| {prose(name)} | {inert(value)} |" for name, value in rows.items()), ""]
        parts += [line for one in env.problems for line in (f"> problem: {inert(str(one))}", "")]
        if env.settings:
            cells = (f"| {inert(s.name)} | {inert(s.requested)} | {inert(s.effective)} |" for s in env.settings)
            head = ["| setting | requested | in effect |", "|---|---|---|"]
            parts += ["<details><summary>Settings that bear on bits</summary>", "", *head, *cells, "", "</details>", ""]
    return "\n".join(parts)


def render_suite(suite: Suite) -> str:
    """A line for each, then what there is to know of those that did not pass."""
    parts = [f"# detcheck: {suite.verdict}", "", f"{len(suite.members)} probes: {suite.tally}", ""]
    parts += ["| verdict | probe | what it came to | seconds |", "|---|---|---|---:|"]
    for m in suite.members:
        verdict = str(m.verdict) if m.report else "not asked"
        parts.append(f"| {verdict} | {inert(m.title)} | {inert(m.note)} | {m.seconds:.1f} |")
    parts += ["", *(f"> warning: {inert(warning)}\n" for warning in suite.warnings)]
    parts += [f"> {STOPPED}\n"] * suite.interrupted
    for m in suite.members:
        if m.report and (m.exit_code or m.passes_all_the_same):
            parts += [f"## {inert(m.name)}", "", *one(m.worst, "###")]
            parts += [f"> warning: {inert(warning)}\n" for warning in m.report.run.warnings]
            parts += ["Reproduce:", "", *fenced(m.spec.command()), ""]
    return "\n".join(parts)


def one(section: Section, heading: str = "##") -> list[str]:
    parts = [f"{heading} {section.finding.verdict}: {inert(section.subject)}", "", inert(section.note), ""]
    for block in section.blocks:
        parts += drawn(block)
    return parts


def drawn(block: Block) -> list[str]:
    match block:
        case Totals(line):
            return [*fenced(line), ""]
        case Facts(lines):
            return [*(f"- {prose(line)}" for line in lines), ""]
        case Trees(trees, on_pages=False):
            return [*(f"- {prose(line)}" for t in trees for line in (t.line, *outlined(t))), ""]
        case Histogram(title):
            bins = block.bins()
            most = max(count for _, count in bins)
            lines = (f"{name:>11} {'█' * max(1 if n else 0, round(BAR * n / most))} {n}" for name, n in bins)
            return [f"### {prose(title)}", "", *fenced("\n".join(lines)), ""]
        case Curve(title, across, unit, on_pages=False):
            parts = block.bins()
            highest = max(mean for _, mean, _ in parts) or 1
            rows = (
                f"{name:>11} {'█' * max(1 if mean else 0, round(BAR * mean / highest))} {mean:.3g}  (largest {top:.3g})"
                for name, mean, top in parts
            )
            return [f"### {prose(f'{title} ({unit}, by {across})')}", "", *fenced("\n".join(rows)), ""]
        case Forks(forks):
            return [f"### Forks ({MARGIN})", "", *tree(forks), ""]
        case Table(title, (headings, *lines), names_first, notes, on_pages=False):
            numbers = "|---:" * (len(headings) - names_first)
            plain = inert if names_first else prose
            cells = [f"| {' | '.join(map(plain, line))} |" for line in lines]
            head = [f"| {' | '.join(map(prose, headings))} |", f"{'|---' if names_first else ''}{numbers}|"]
            return [f"### {prose(title)}", "", *head, *cells, "", *(f"- {prose(note)}" for note in notes), ""]
        case Text(lines):
            return [f"{prose(line)}\n" for line in lines]
    return []


def tree(forks: tuple[Fork, ...]) -> list[str]:
    depth: dict[int, int] = {}
    below: dict[tuple[int | None, int | None], list[Fork]] = {}
    for fork in forks[:SHOWN_FORKS]:
        below.setdefault((fork.parent, fork.parent_branch), []).append(fork)
    lines: list[str] = []
    todo: list[tuple[Fork, int | None]] = [(fork, None) for fork in below.get((None, None), [])]
    while todo:
        fork, n = todo.pop()
        if n is None:
            depth[fork.id] = 0 if fork.parent is None else depth[fork.parent] + 1
            todo += [(fork, b) for b in reversed(range(len(fork.branches)))]
            continue
        if n >= SHOWN_FORKS:
            if n == SHOWN_FORKS:
                lines.append(f"{'  ' * depth[fork.id]}- ... and {len(fork.branches) - n} more ways on")
            continue
        branch = fork.branches[n]
        margin = "" if branch.margin is None else f", margin {branch.margin:.2g}"
        lines.append(
            f"{'  ' * depth[fork.id]}- at {fork.at}: **{branch.count}×** <code>{inert(branch_text(fork, n))}</code>{margin}"
        )
        todo += [(child, None) for child in below.get((fork.id, n), [])]
    if left_out := len(forks) - len(depth):
        lines.append(f"- ... and {left_out} more fork{'s' * (left_out > 1)}; report.json has all")
    return lines


def inert(text: str) -> str:
    """The text as Markdown that says just that: everything but letters, digits, spaces and commas is an entity.

    GitHub looks for mentions, issues and emoji in what is shown already, where an entity is a character again: a comment parts these.
    """
    found = visible(text)
    return "".join(
        c if c.isalnum() or c in " ,();" else f"&#{ord(c)};{APART if found_by_github(found, n) else ''}"
        for n, c in enumerate(found)
    )


def found_by_github(text: str, n: int) -> bool:
    """Whether it is the beginning of a mention, an issue's number, or an emoji's name."""
    return text[n] in "@#" or (text[n] == ":" and EMOJI.match(text, n) is not None)


def prose(text: str) -> str:
    """A sentence of ours, with what it quotes, as Markdown, also in a table's cell: `code` stays code where every backtick has its other, and
    nothing else is a mark."""
    found = visible(text)
    if "``" in found or found.count("`") % 2 or "|" in found:
        return unmarked(found)
    return "".join(f"`{part}`" if n % 2 else unmarked(part, n == 0) for n, part in enumerate(found.split("`")))


def unmarked(text: str, begins: bool = True) -> str:
    """`begins`: it stands at a line's begin, where a list, a rule or a block of code may begin too."""
    marked = MARK.sub(lambda m: f"{m[0]}{APART}" if found_by_github(text, m.start()) else f"\\{m[0]}", text)
    if not begins:
        return marked
    return BEGINS.sub(lambda m: f"&#{ord(m[1])};" if m[1] else f"{m[2]}\\{m[3]}", marked)


def fenced(text: str) -> list[str]:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [fence + "text", *(visible(line) for line in text.split("\n")), fence]
