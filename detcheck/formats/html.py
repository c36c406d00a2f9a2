"""One HTML file that opens offline: verdict, histogram, fork tree, conditions, and what ran. Light and dark.

Everything is escaped by the template engine; the page runs no script at all, and its policy forbids any.
"""

from __future__ import annotations

import io

from detcheck import __version__, words
from detcheck.records import Finding, Fork, Run
from detcheck.summation import svg as tree_svg
from detcheck.text import visible

MOST_FINDINGS = 200  # sections of a page that still opens at once; report.json has all
MOST_FORKS = 200  # of a finding
MOST_BRANCHES = 50  # of a fork
BINS = 40
INK, BAR = "#010203", "#030201"  # stand-ins in the plot, for colours that the page's own style decides

FILE = "report.html"  # in the run's folder


def render(run: Run) -> str:
    from jinja2 import Environment, PackageLoader

    env = Environment(
        loader=PackageLoader("detcheck", "formats"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    findings = words.worst_first(run)
    return env.get_template("report.html.j2").render(
        run=run,
        version=__version__,
        margin=words.MARGIN,
        findings=[section(f, n) for n, f in enumerate(findings[:MOST_FINDINGS])],
        left_out=max(0, len(findings) - MOST_FINDINGS),
        judged=words.what_is_judged(run),
        tally=words.tally_line(run),
        warnings=[visible(w) for w in run.warnings],
        reproduce=visible(run.spec.command()),
        facts=facts(run),
    )


def section(f: Finding, n: int) -> dict[str, object]:
    title, histogram = words.which_histogram(f)
    return {
        "finding": f,
        "note": visible(f.note),
        "subject": words.subject_line(f),
        "totals": words.totals(f) if f.samples else "",
        # An order's outline is drawn; its other lines stay.
        "figures": [line for line in words.figures(f) if not line.startswith("   ") or line.startswith("   with ")],
        "title": title,
        "bins": words.histogram_bins(histogram, BINS),
        "plot": plot(words.histogram_bins(histogram, BINS), title, n) if histogram else "",
        "orders": tree_svg.picture(f.evidence.get("orders", ())),
        "tree": nested(f.forks[:MOST_FORKS]),
        "forks_left_out": max(0, len(f.forks) - MOST_FORKS),
        "sizes": words.size_table(f),
        "conditions": words.condition_table(f),
        "not_tried": [visible(line) for line in words.not_tried(f)],
        "coverage": words.coverage_lines(f),
        "cause": words.likely_cause(f),
        "advice": words.advice(f),
        "mode_text": visible(f.mode_text),
    }


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
            branch = {"index": fork.index, "count": b.count, "share": b.count / total, "margin": b.margin, "below": []}
            branches[fork.id, n] = branch | {"text": words.branch_text(fork, n)}
            above.append(branches[fork.id, n])
        if len(fork.branches) > MOST_BRANCHES:
            rest = fork.branches[MOST_BRANCHES:]
            more = {"text": f"... and {len(rest)} more ways on", "margin": None, "below": []}
            above.append(branch | more | {"count": sum(b.count for b in rest), "share": 0.0})
    return roots


def plot(bins: list[tuple[str, int]], title: str, n: int) -> str:
    """The histogram as an SVG element whose colours follow the page."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": f"detcheck-{n}", "font.size": 10, "text.color": INK}
    style |= {"axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8, 2.8), layout="constrained")
        axes = figure.add_subplot()
        drawn = axes.bar([label for label, _ in bins], [count for _, count in bins], color=BAR, width=0.8)
        axes.bar_label(drawn, [str(count) if count else "" for _, count in bins])
        axes.set_xlabel(title)
        axes.set_ylabel("samples")
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.tick_params("x", labelrotation=0 if len(bins) <= words.BINS else 90)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(BAR, "var(--bar)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


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
