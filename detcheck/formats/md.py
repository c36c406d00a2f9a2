"""Markdown, for pull requests and step summaries. Model text is written as entities, so no mark, link or mention in it works."""

from __future__ import annotations

import re

from detcheck.records import Finding, Fork, Run
from detcheck.text import visible
from detcheck.words import (
    MARGIN,
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

BAR = 30  # characters of the longest bar

FILE = "report.md"  # in the run's folder


def render(run: Run) -> str:
    findings = gating(run)
    parts = [f"# detcheck: {run.verdict}", ""]
    if len(findings) > 1:
        parts += [f"{len(findings)} {what_is_judged(run)}: {tally_line(run)}", ""]
    for finding in findings[:SHOWN_FINDINGS]:
        parts += one(finding)
    if len(findings) > SHOWN_FINDINGS:
        parts += [f"... and {len(findings) - SHOWN_FINDINGS} more findings; report.json has all", ""]
    for f in controls(run):
        parts += [f"- {f.verdict}: {inert(subject_line(f))}: {inert(f.note)}", ""]
    parts += [f"> warning: {inert(warning)}\n" for warning in run.warnings]
    parts += ["Reproduce:", "", *fenced(run.spec.command()), ""]
    if run.subject:
        env = run.subject.environment
        packages = ", ".join(f"{name} {version}" for name, version in env.packages.items())
        parts += ["| | |", "|---|---|"]
        if env.threads:
            rows = {"device": env.device, "processor": f"{env.processor}, {env.threads} threads", "packages": packages}
        else:
            rows = dict(line.split(": ", 1) for line in server_lines(env))
        rows |= {f"{name} SHA-256": digest for name, digest in run.subject.digests.items()}
        parts += [f"| {name} | {inert(value)} |" for name, value in rows.items()] + [""]
    return "\n".join(parts)


def one(f: Finding) -> list[str]:
    parts = [f"## {f.verdict}: {inert(subject_line(f))}", "", inert(f.note), ""]
    if f.samples:
        parts += [*fenced(totals(f)), "", *(f"- {line}" for line in figures(f)), ""]
    title, histogram = which_histogram(f)
    if histogram:
        bins = histogram_bins(histogram)
        most = max(count for _, count in bins)
        lines = [
            f"{label:>11} {'█' * max(1 if count else 0, round(BAR * count / most))} {count}" for label, count in bins
        ]
        parts += [f"### {title}", "", *fenced("\n".join(lines)), ""]
    if f.forks:
        parts += [f"### Forks ({MARGIN})", "", *tree(f.forks), ""]
    if sizes := size_table(f):
        parts += [f"| {' | '.join(sizes[0])} |", "|---:" * len(sizes[0]) + "|"]
        parts += [f"| {' | '.join(line)} |" for line in sizes[1:]]
        parts += ["", *(f"- not tried: {inert(line)}" for line in not_tried(f)), ""]
    elif table := condition_table(f):
        parts += [
            "### Conditions" if "calls" not in f.evidence else "### Ops",
            "",
            f"| {' | '.join(table[0])} |",
            "|---" + "|---:" * (len(table[0]) - 1) + "|",
        ]
        parts += [f"| {inert(name)} | {' | '.join(map(inert, counts))} |" for name, *counts in table[1:]]
        parts += ["", *(f"- not tried: {line}" for line in not_tried(f)), ""]
    return parts + [line + "\n" for line in (*coverage_lines(f), likely_cause(f), advice(f)) if line]


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
            f"{'  ' * depth[fork.id]}- at {fork.index}: **{branch.count}×** <code>{inert(branch_text(fork, n))}</code>{margin}"
        )
        todo += [(child, None) for child in below.get((fork.id, n), [])]
    if len(forks) > SHOWN_FORKS:
        lines.append(f"- ... and {len(forks) - SHOWN_FORKS} more forks; report.json has all")
    return lines


def inert(text: str) -> str:
    """The text as Markdown that says just that: everything but letters, digits, spaces and commas is an entity."""
    return "".join(c if c.isalnum() or c in " ,();" else f"&#{ord(c)};" for c in visible(text))


def fenced(text: str) -> list[str]:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [fence + "text", *(visible(line) for line in text.split("\n")), fence]
