"""A run as a picture: what kinds there are depends on what its findings hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from detcheck.blocks import Curve
from detcheck.errors import UsageError
from detcheck.finding import Finding, Run
from detcheck.report import section, worst_first
from detcheck.text import visible
from detcheck.verdict import SEVERITY, Role

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SHOWN = 8  # findings in a picture, the worst


def plot(run: Run, seen: Callable[[], pd.DataFrame], kind: str | None = None, ax: Axes | None = None) -> Axes:
    """Draws on `ax`, or on new axes; `seen` gives the observations, for what needs them.

    Raises UsageError with the kinds that this run has, where it has not that one.
    """
    there = kinds(run)
    if kind is None:
        kind = next(iter(there))
    if kind not in there:
        known = " and ".join(filter(None, (", ".join(list(there)[:-1]), list(there)[-1])))
        never = "" if kind in KINDS else f" All kinds are {', '.join(KINDS)}."
        raise UsageError(f"this run of {run.spec.probe} has no plot {kind!r}; it has {known}.{never}")
    if ax is None:
        from matplotlib import pyplot  # so that a notebook shows it

        ax = pyplot.subplots(figsize=(8, 3), layout="constrained")[1]
    if kind == "conditions":
        draw_conditions(ax, there[kind], seen())
    else:
        KINDS[kind][1](ax, there[kind])
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def kinds(run: Run) -> dict[str, list[Finding]]:
    """Kind of plot -> the findings that have something to draw in it, the worst first."""
    of_it = {kind: [f for f in worst_first(run) if has(f)] for kind, (has, _) in KINDS.items()}
    return {kind: found if kind == "verdicts" else found[:SHOWN] for kind, found in of_it.items() if found}


def label(f: Finding) -> str:
    control = "" if f.role is Role.GATES else " (control)"
    return plain(" · ".join(p for p in (f.case.subject, f.case.kernels, f.case.dtype, f.case.input) if p) + control)


def plain(text: str) -> str:
    """The text as matplotlib draws just that: a dollar begins a formula there, and a label that begins with _ is left out of legends."""
    found = visible(text).replace("$", r"\$")
    return f" {found}" if found.startswith("_") else found


def unit(found: Sequence[Finding]) -> str:
    return str(found[0].evidence.get("unit", "token"))


def counts(f: Finding) -> tuple[tuple[int, int], ...]:
    """(index, samples that leave the mode there), by tokens; by bits where the tokens are equal."""
    return f.histogram or f.histogram_bits


def draw_histogram(ax: Axes, found: list[Finding]) -> None:
    places = sorted({index for f in found for index, _ in counts(f)})
    at = {place: n for n, place in enumerate(places)}
    width = 0.8 / len(found)
    for n, f in enumerate(found):
        bars = [at[index] + (n - (len(found) - 1) / 2) * width for index, _ in counts(f)]
        ax.bar(bars, [count for _, count in counts(f)], width=width, label=label(f))
    few = range(0, len(places), -(-len(places) // 20))
    ax.set_xticks(list(few), [str(places[n]) for n in few])
    finish(ax, f"first {unit(found)} that leaves the most common one", "samples", legend=True)


def draw_survival(ax: Axes, found: list[Finding]) -> None:
    last = max((index for f in found for index, _ in counts(f)), default=0) + 1
    for f in found:
        places, shares, left = [0], [1.0], f.samples
        for index, count in sorted(counts(f)):
            left -= count
            places.append(index)
            shares.append(left / f.samples)
        ax.step([*places, last], [*shares, shares[-1]], where="post", label=label(f))
    ax.set_ylim(0, 1.05)
    finish(ax, unit(found), "share still equal to the mode", legend=True, whole=False)


def draw_conditions(ax: Axes, found: list[Finding], seen: pd.DataFrame) -> None:
    shares = [differing(f, seen) for f in found]
    names = list(dict.fromkeys(name for share in shares for name in share))
    at = {name: n for n, name in enumerate(names)}
    width = 0.8 / len(found)
    for n, (f, share) in enumerate(zip(found, shares, strict=True)):
        bars = [at[name] + (n - (len(found) - 1) / 2) * width for name in share]
        ax.bar(bars, list(share.values()), width=width, label=label(f))
    ax.set_xticks(range(len(names)), list(map(plain, names)), rotation=90 if len(names) > 6 else 0)
    ax.set_ylim(0, 1.05)
    finish(ax, "condition", "share with other bits than the mode", legend=True, whole=False)


def differing(f: Finding, seen: pd.DataFrame) -> dict[str, float]:
    """Condition -> the share of its samples whose outcome is not the most common one of the case."""
    of_it = seen["outcome"].notna()
    for name in ("subject", "kernels", "dtype", "input", "replica"):
        of_it &= seen[name] == getattr(f.case, name)
    came = seen[of_it]
    mode = Counter(came["outcome"]).most_common(1)
    return {} if not mode else dict((came["outcome"] != mode[0][0]).groupby(came["condition"], sort=False).mean())


def conditions(f: Finding) -> Mapping[str, Mapping[str, int]]:
    return f.evidence.get("conditions", {})


def timed(f: Finding) -> bool:
    return any("ours_ms" in line for line in f.evidence.get("sizes", {}).values())


def draw_time(ax: Axes, found: list[Finding]) -> None:
    for f in found:
        sizes = {int(size): line for size, line in f.evidence["sizes"].items() if "ours_ms" in line}
        for name, whose, style in (("stock_ms", "stock", ":"), ("ours_ms", "ours", "-")):
            if all(name in line for line in sizes.values()):
                took = [line[name] for line in sizes.values()]
                ax.plot(list(sizes), took, style, marker=".", label=f"{whose}: {label(f)}")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    finish(ax, "batch size, rows", "ms", legend=True, whole=False)


def curves(f: Finding) -> list[Curve]:
    return [block for block in section(f, {}).blocks if isinstance(block, Curve)]


def draw_curve(ax: Axes, found: list[Finding]) -> None:
    block, gap = curves(found[0])[0], float("nan")
    places, means, tops = zip(*block.points, strict=True)
    ax.plot(places, [top or gap for top in tops], marker=".", label="largest")
    ax.plot(places, [mean or gap for mean in means], marker=".", linestyle=":", label="mean")
    if any(tops):
        ax.set_yscale("log")
    ax.set_title(label(found[0]), fontsize="small", loc="right")
    finish(ax, block.across, block.unit, legend=True, whole=False)


def draw_verdicts(ax: Axes, found: list[Finding]) -> None:
    named = [v for v in SEVERITY if any(f.verdict is v for f in found)]
    ax.barh([str(v) for v in named], [sum(f.verdict is v for f in found) for v in named])
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("findings")


def finish(ax: Axes, across: str, up: str, legend: bool = False, whole: bool = True) -> None:
    ax.set_xlabel(across)
    ax.set_ylabel(up)
    if whole:
        ax.yaxis.get_major_locator().set_params(integer=True)
    if legend:
        ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1))  # above: it covers nothing


KINDS: dict[str, tuple[Callable[[Finding], object], Callable[..., None]]] = {
    "histogram": (counts, draw_histogram),
    "curve": (curves, draw_curve),
    "time": (timed, draw_time),
    "conditions": (conditions, draw_conditions),
    "survival": (lambda f: f.samples and conditions(f), draw_survival),
    "verdicts": (lambda f: True, draw_verdicts),
}
"""kind -> (whether a finding has something to draw, how). The first that a run has is its default."""
