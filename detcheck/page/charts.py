"""Lines along a sequence, as SVG paths in a frame of 1000 by 1000 that the page stretches: text beside it keeps its size on every screen. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from detcheck.blocks import Curve, Survival

SIZE = 1000
TICKS = 5  # at most, below
DECADES = 5  # at most, beside
Tick = tuple[float, str]
"""(percent of the way, what stands there)"""


@dataclass(frozen=True)
class Chart:
    """What a page draws. Lines are solid, dashed ... in their order, so that colour alone tells nothing."""

    paths: tuple[tuple[str, str], ...]
    """(name, path)"""
    below: tuple[Tick, ...]
    beside: tuple[Tick, ...]
    label: str
    """for those who cannot see it"""
    heading: tuple[str, ...]
    numbers: tuple[tuple[str, ...], ...]
    """the same as a table, without its heading"""


def survival(block: Survival) -> Chart:
    """Steps: a sample leaves at a place and does not come back."""
    last = max(block.length, *(place for _, steps in block.lines for place, _ in steps), 1)
    paths, table, said = [], {}, []
    for column, (name, steps) in enumerate(block.lines):
        path = f"M0 {up(1.0)}"
        for place, left in steps:
            path += f"H{across(place, last)}V{up(left / block.of)}"
            table.setdefault(place, [""] * len(block.lines))[column] = f"{left} of {block.of}"
        paths.append((name, path + f"H{SIZE}"))
        end = steps[-1][1] if steps else block.of
        said.append(f"{name}: {end} of {block.of} in the end")
    return Chart(
        tuple(paths),
        ticks(last),
        ((0, "0%"), (50, "50%"), (100, "100%")),
        f"{block.title}, along the {block.across}s. {'; '.join(said)}",
        (f"from {block.across}", *(name for name, _ in block.lines)),
        tuple((str(place), *table[place]) for place in sorted(table)),
    )


def curve(block: Curve) -> Chart | None:
    """Largest and mean on a logarithmic scale, where zero has no place: a gap. None where all is zero."""
    positive = [value for _, *values in block.points for value in values if value > 0]
    if not positive:
        return None
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    last = max(block.points[-1][0], 1)
    lines = {"largest": [(p, top) for p, _, top in block.points], "mean": [(p, mean) for p, mean, _ in block.points]}
    paths = tuple((name, dotted(points, last, low, high)) for name, points in lines.items())
    step = max(1, math.ceil((high - low) / DECADES))
    beside = tuple((100 * (n - low) / (high - low), power(n)) for n in range(low, high + 1, step))
    top = max(block.points, key=lambda point: point[2])
    label = f"{block.title} ({block.unit}, by {block.across}), on a logarithmic scale. Largest: {top[2]:.3g} at {block.across} {top[0]}"
    numbers = tuple((str(place), f"{mean:.3g}", f"{most:.3g}") for place, mean, most in block.points)
    return Chart(paths, ticks(last), beside, label, (block.across, "mean", "largest"), numbers)


def dotted(points: Sequence[tuple[int, float]], last: int, low: int, high: int) -> str:
    """Lines through neighbours; one without any is a dot, which round line ends make of a line of no length."""
    path, drawing = "", False
    for place, value in points:
        if value > 0:
            at = f"{across(place, last)} {up((math.log10(value) - low) / (high - low))}"
            path += f"L{at}" if drawing else f"M{at}h0"
        drawing = value > 0
    return path


def across(place: int, last: int) -> str:
    return f"{SIZE * place / last:.5g}"


def up(share: float) -> str:
    return f"{SIZE * (1 - share):.5g}"


def ticks(last: int) -> tuple[Tick, ...]:
    """At round numbers, and never more than fit on a phone."""
    step = next(s for e in range(12) for m in (1, 2, 5) if last / (s := m * 10**e) <= TICKS)
    return tuple((100 * n / last, f"{n:,}") for n in range(0, last + 1, step))


def power(n: int) -> str:
    return {0: "1", -1: "0.1", 1: "10"}.get(n, f"1e{n}")
