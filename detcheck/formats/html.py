"""One HTML file that opens offline: what was found and what it means, which batch gave which completion, forks, and what ran. Light and dark.

Everything is escaped by the template engine. One script runs, `page/page.js`, and the page's policy names it by its hash, so that nothing
else can: it copies the command and compares two texts. Without it all is there but the choice of the two texts.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detcheck import __version__
from detcheck.blocks import (
    MARGIN,
    Curve,
    Forks,
    Histogram,
    Matrix,
    Report,
    Section,
    Survival,
    Table,
    Text,
    Texts,
    Trees,
    branch_text,
)
from detcheck.finding import Finding, Fork, Run
from detcheck.page import charts, diff, matrix, trees
from detcheck.suite import Suite
from detcheck.text import percent, visible
from detcheck.verdict import Role

if TYPE_CHECKING:
    from jinja2 import Template

MOST_FINDINGS = 200  # of a page that still opens at once; report.json has all
OPEN_FINDINGS = 8  # that are not folded
MOST_FORKS = 200  # of a finding
MOST_BRANCHES = 50  # of a fork
OPEN_FORKS = 3  # levels of the tree that are open at first
BARS = 16
MOST_TEXT, LEAST_TEXT = 20_000, 400  # characters of an outcome
PAGE_TEXT = 2_000_000  # characters of all outcomes of a page, about
PART_LATER, SAME_TEXT = "They part after what is shown here", "Their texts are equal"  # `page/page.js` says so too

FILE = "report.html"  # in the run's folder
SUITE_FILE = "index.html"  # in the folder of several


@functools.cache
def template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("detcheck", "formats")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


def render_suite(suite: Suite) -> str:
    """A line for each, with a link to its own page."""
    return template("index.html.j2").render(suite=suite, version=__version__, page=FILE, visible=visible)


def render(report: Report) -> str:
    script = importlib.resources.files("detcheck").joinpath("page", "page.js").read_text("utf-8")
    run, groups = report.run, side_by_side(report)
    shown = groups[:MOST_FINDINGS]
    texts = sum(len(b.variants) for group in shown for s in group for b in s.blocks if isinstance(b, Texts))
    most = max(LEAST_TEXT, min(MOST_TEXT, PAGE_TEXT // max(texts, 1)))
    return template("report.html.j2").render(
        run=run,
        version=__version__,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode(),
        margin=MARGIN,
        meaning=report.sections[0].meaning if report.sections else "",
        groups=[[drawn(section, most) for section in group] for group in shown],
        open_findings=OPEN_FINDINGS,
        of=len(report.gating),
        left_out=sum(map(len, groups[MOST_FINDINGS:])),
        judged=report.judged,
        tally=report.tally,
        warnings=[visible(w) for w in run.warnings],
        reproduce=visible(run.spec.command()),
        facts=facts(run),
    )


def side_by_side(report: Report) -> list[list[Section]]:
    """Each finding that gates, with what it is compared with: the same case with other kernels. Controls of nothing shown come last."""
    controls = list(report.controls)
    groups = []
    for section in report.gating:
        beside = [c for c in controls if same_but_kernels(c.finding, section.finding)]
        controls = [c for c in controls if c not in beside]
        groups.append([section, *beside])
    return groups + [[c] for c in controls]


def same_but_kernels(control: Finding, other: Finding) -> bool:
    a, b = control.case, other.case
    same = (a.probe, a.subject, a.dtype, a.input, a.replica) == (b.probe, b.subject, b.dtype, b.input, b.replica)
    return same and a.kernels != b.kernels and control.role is not Role.PLANTED


def drawn(section: Section, most: int) -> dict[str, object]:
    """A section with what the template cannot draw: its blocks are (kind, block, what is made of it). What to do comes early."""
    has_texts = any(isinstance(block, Texts) for block in section.blocks)
    has_matrix = any(isinstance(block, Matrix) for block in section.blocks)
    first, rest, todo = [], [], []
    for block in section.blocks:
        made: object = None
        kind = type(block).__name__
        match block:
            case Histogram():
                made = block.bins(BARS)
            case Survival():
                made = charts.survival(block)
            case Curve():
                made = charts.curve(block)
            case Matrix():
                made = matrix.drawn(block)
            case Texts():
                made = told_apart(block, most)
            case Trees():
                made = trees.columns(block.trees)
            case Forks(forks):
                made = nested(forks)
            case Table():
                folded = has_matrix and block.title == "Conditions"  # the matrix has most of it
                made = folded, [of_numbers(column) for column in zip(*block.lines[1:], strict=True)]
        if kind == "Mode" and has_texts:
            continue
        where = todo if isinstance(block, Text) else first if kind in ("Totals", "Facts") else rest
        where.append((kind, block, made))
    return {
        "finding": section.finding,
        "subject": section.subject,
        "note": section.note,
        "meaning": section.meaning,
        "tiles": tiles(section.finding),
        "drawn": bool(rest),
        "blocks": [*first, *todo, *together(sorted(rest, key=lambda part: part[0] != "Matrix"))],
    }


NUMBER = re.compile(r"[-+<>]?[\d.,]+(e[-+]?\d+)?%?( .*)?")
CHARTS = ("Histogram", "Survival", "Curve")
NARROW = 10  # outcomes of a matrix that stands beside a chart


def together(parts: Sequence[tuple[str, object, object]]) -> list[tuple[str, object, object]]:
    """Charts that follow each other stand beside each other where there is room."""
    found: list[tuple[str, object, object]] = []
    for part in parts:
        kind, block, _ = part
        if not (kind in CHARTS or (kind == "Matrix" and len(block.columns) <= NARROW)):
            found.append(part)
        elif found and found[-1][0] == "Charts":
            found[-1][2].append(part)
        else:
            found.append(("Charts", None, [part]))
    return found


def tiles(finding: Finding) -> list[tuple[str, str]]:
    """(what, figure) of samples that were compared: the ones to be seen from afar."""
    if "outcomes" not in finding.evidence or not finding.samples:
        return []
    found = [("samples", f"{finding.samples:,}"), ("distinct", f"{finding.distinct:,}")]
    if finding.distinct_bits > finding.distinct:
        found.append(("distinct by bits", f"{finding.distinct_bits:,}"))
    share, what = finding.mode_count / finding.samples, "are the most common one"
    if finding.latent:
        share, what = max(v.samples for v in finding.variants) / finding.samples, "have the most common bits"
    found.append((what, percent(share)))
    if finding.evidence.get("unit") in ("token", "character") and finding.distinct > 1:
        found.append((f"first {finding.evidence['unit']} that differs", f"{finding.common_prefix:,}"))
    if "max_abs" in finding.metrics and finding.evidence.get("unit") == "token":
        found.append(("nats apart, at most", f"{finding.metrics['max_abs']:.3g}"))
    if finding.missing:
        found.append(("missing", f"{finding.missing:,}"))
    return found


def of_numbers(column: Sequence[str]) -> bool:
    """Whether its cells stand on the right: each is empty, or a number with what belongs to it, as in "12 (57.1%)"."""
    return all(not cell or NUMBER.fullmatch(cell) for cell in column)


def told_apart(block: Texts, most: int) -> dict[str, object]:
    """The texts of outcomes, and the first two of them compared."""
    left_out, texts = diff.shown(block.variants, most)
    (a, b), says = block.variants[:2], diff.says(block.variants)
    return {
        "texts": list(zip(block.variants, texts, says, strict=True)),
        "alike": (PART_LATER if says[0] != says[1] else SAME_TEXT) if texts[0] == texts[1] else "",
        "left_out": left_out,
        "diff": diff.diff(texts[0], texts[1]),
        "pair": (a, b),
        "at": diff.part_at(a, b),
    }


def nested(forks: tuple[Fork, ...]) -> tuple[list[dict[str, object]], int]:
    """The tree as branches that hold their own branches, and how many forks have no room: too many, or below a branch without room."""
    roots: list[dict[str, object]] = []
    branches: dict[tuple[int, int], dict[str, object]] = {}
    left_out = max(0, len(forks) - MOST_FORKS)
    for fork in forks[:MOST_FORKS]:
        above = branches.get((fork.parent, fork.parent_branch)) if fork.parent is not None else None
        if fork.parent is not None and above is None:
            left_out += 1
            continue
        level = 0 if above is None else above["level"] + 1
        beside = roots if above is None else above["below"]
        total = sum(b.count for b in fork.branches)
        for n, b in enumerate(fork.branches[:MOST_BRANCHES]):
            branch = {"index": fork.at, "count": b.count, "share": b.count / total, "margin": b.margin, "below": []}
            branches[fork.id, n] = branch | {
                "text": branch_text(fork, n),
                "level": level,
                "open": level + 1 < OPEN_FORKS,
            }
            beside.append(branches[fork.id, n])
        if len(fork.branches) > MOST_BRANCHES:
            rest = fork.branches[MOST_BRANCHES:]
            more = {"text": f"... and {len(rest)} more ways on", "margin": None, "below": []}
            beside.append(branch | more | {"count": sum(b.count for b in rest), "share": 0.0})
    return roots, left_out


def facts(run: Run) -> dict[str, str]:
    """What ran, for the table at the end."""
    rows = {"command": run.command, "started": run.started, "run": str(run.path or "")}
    if run.subject:
        env = run.subject.environment
        rows |= {"subject": run.subject.name, "dtype": run.subject.dtype, "device": env.device}
        rows |= {
            "processor": f"{env.processor}, {env.cores} cores, {env.threads} threads" if env.threads else "",
            "platform": f"{env.platform}, Python {env.python}",
        }
        rows |= {f"SHA-256 of {name}": digest for name, digest in run.subject.digests.items()}
        for kind, values in (
            ("packages", env.packages),
            ("flags", env.flags),
            ("environment variables", env.variables),
        ):
            rows[kind] = ", ".join(f"{name} {value}" for name, value in values.items())
        rows["settings"] = ", ".join(str(one) for one in env.settings)
        rows |= {f"problem {n}": str(one) for n, one in enumerate(env.problems, 1)}
    return {visible(name): visible(value) for name, value in rows.items() if value}
