"""One HTML file that opens offline: verdict, histogram, fork tree, conditions, and what ran. Light and dark.

Everything is escaped by the template engine; the page runs no script at all, and its policy forbids any.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from detcheck import __version__
from detcheck.blocks import BINS, MARGIN, Curve, Forks, Histogram, Report, Section, Trees, branch_text
from detcheck.finding import Fork, Run
from detcheck.summation import svg
from detcheck.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_FINDINGS = 200  # sections of a page that still opens at once; report.json has all
MOST_FORKS = 200  # of a finding
MOST_BRANCHES = 50  # of a fork
BARS = 40
INK, BAR = "#010203", "#030201"  # stand-ins in the plot, for colours that the page's own style decides

FILE = "report.html"  # in the run's folder


def render(report: Report) -> str:
    from jinja2 import Environment, PackageLoader

    env = Environment(
        loader=PackageLoader("detcheck", "formats"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    run, sections = report.run, report.sections
    return env.get_template("report.html.j2").render(
        run=run,
        version=__version__,
        margin=MARGIN,
        sections=[drawn(s, n) for n, s in enumerate(sections[:MOST_FINDINGS])],
        of=len(sections),
        left_out=max(0, len(sections) - MOST_FINDINGS),
        judged=report.judged,
        tally=report.tally,
        warnings=[visible(w) for w in run.warnings],
        reproduce=visible(run.spec.command()),
        facts=facts(run),
    )


def drawn(section: Section, n: int) -> dict[str, object]:
    """A section with what the template cannot draw: its blocks are (kind, block, picture or nested forks)."""
    parts: list[tuple[str, object, object]] = []
    for block in section.blocks:
        made: object = None
        match block:
            case Histogram(title):
                made = plot(block.bins(BARS), title, n)
            case Curve():
                made = curve(block, n)
            case Trees(trees):
                made = svg.picture([(tree.title, tree.outline) for tree in trees if tree.outline])
            case Forks(forks):
                made = nested(forks[:MOST_FORKS]), max(0, len(forks) - MOST_FORKS)
        parts.append((type(block).__name__, block, made))
    return {"finding": section.finding, "subject": section.subject, "note": section.note, "blocks": parts}


def nested(forks: tuple[Fork, ...]) -> list[dict[str, object]]:
    """The tree as branches that hold their own branches."""
    roots: list[dict[str, object]] = []
    branches: dict[tuple[int, int], dict[str, object]] = {}
    for fork in forks:
        above = roots if fork.parent is None else branches.get((fork.parent, fork.parent_branch), {}).get("below")
        total = sum(b.count for b in fork.branches)
        if above is None:
            continue
        for n, b in enumerate(fork.branches[:MOST_BRANCHES]):
            branch = {"index": fork.at, "count": b.count, "share": b.count / total, "margin": b.margin, "below": []}
            branches[fork.id, n] = branch | {"text": branch_text(fork, n)}
            above.append(branches[fork.id, n])
        if len(fork.branches) > MOST_BRANCHES:
            rest = fork.branches[MOST_BRANCHES:]
            more = {"text": f"... and {len(rest)} more ways on", "margin": None, "below": []}
            above.append(branch | more | {"count": sum(b.count for b in rest), "share": 0.0})
    return roots


def plot(bins: list[tuple[str, int]], title: str, n: int) -> str:
    """The histogram as an SVG element whose colours follow the page."""

    def draw(axes: Axes) -> None:
        drawn = axes.bar([label for label, _ in bins], [count for _, count in bins], color=BAR, width=0.8)
        axes.bar_label(drawn, [str(count) if count else "" for _, count in bins])
        axes.set_ylabel("samples")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.tick_params("x", labelrotation=0 if len(bins) <= BINS else 90)

    return picture(draw, title, title, n)


def curve(block: Curve, n: int) -> str:
    """Mean and largest difference along the sequence, as an SVG element; on a logarithmic scale, where zero has no place."""

    def draw(axes: Axes) -> None:
        places, means, tops = zip(*block.points, strict=True)
        gap = float("nan")
        axes.plot(places, [top or gap for top in tops], color=BAR, marker=".", label="largest")
        axes.plot(places, [mean or gap for mean in means], color=INK, marker=".", linestyle=":", label="mean")
        if any(tops):
            axes.set_yscale("log")
        axes.set_ylabel(block.unit)
        axes.legend(frameon=False, ncols=2)

    return picture(draw, block.across, block.title, n)


def picture(draw: Callable[[Axes], None], across: str, title: str, n: int) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": f"detcheck-{n}", "font.size": 10, "text.color": INK}
    style |= {"axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8, 2.8), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(across)
        axes.spines[["top", "right"]].set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor").replace(BAR, "var(--bar)")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


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
    return {name: visible(value) for name, value in rows.items() if value}
