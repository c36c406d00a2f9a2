"""Draws what `on_policy_rl.py` has seen, as SVG: reward and KL by step, a line for each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10

WIDE, TALL, LEFT, TOP, GAP = 560, 170, 64, 34, 62  # of a panel, and around it
INK, PALE = "#444", "#ddd"
COLOURS, WIDTHS = ("#b45309", "#2563eb", "#15803d"), (1.4, 1.4, 2.2)
MEAN = 8  # steps that a reward is the mean of: a step's own goes up and down by chance


def picture(reward: Mapping[str, Sequence[float]], kl: Mapping[str, Sequence[float]]) -> str:
    """setting -> a number for each step, twice."""
    height = TOP + 2 * TALL + GAP + 46
    width = LEFT + WIDE + 120
    steps = max(map(len, reward.values()))
    smooth = {
        name: [mean(line[max(0, i - MEAN + 1) : i + 1]) for i in range(len(line))] for name, line in reward.items()
    }
    least = min((x for line in kl.values() for x in line if x > 0), default=1e-9)
    most = max((x for line in kl.values() for x in line), default=1.0)
    low, high = floor(log10(least)) - 1, floor(log10(max(most, least))) + 1
    parts = [
        panel(
            smooth,
            steps,
            TOP,
            f"reward: share of right digits (mean of {MEAN} steps)",
            (0.0, 1.0),
            {0: "0", 0.5: "0.5", 1: "1"},
        )
    ]
    logs = {name: [max(log10(x), low) if x > 0 else low for x in line] for name, line in kl.items()}
    ticks = {low: "0.0"} | {n: f"1e{n}" for n in range(low + 1, high + 1)}
    parts.append(panel(logs, steps, TOP + TALL + GAP, "KL from sampler to trainer, nats per token", (low, high), ticks))
    for n, name in enumerate(reward):
        y = TOP + 14 + 18 * n
        parts.append(line([(LEFT + WIDE + 12, y - 4), (LEFT + WIDE + 32, y - 4)], n) + text(LEFT + WIDE + 38, y, name))
    parts.append(text(LEFT + WIDE / 2, height - 12, "step", "middle"))
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'


def panel(
    lines: Mapping[str, Sequence[float]],
    steps: int,
    top: float,
    title: str,
    span: tuple[float, float],
    ticks: Mapping[float, str],
) -> str:
    def y(value: float) -> float:
        return top + TALL * (1 - (value - span[0]) / (span[1] - span[0]))

    def x(step: int) -> float:
        return LEFT + WIDE * step / max(1, steps - 1)

    parts = [text(LEFT, top - 10, title)]
    for value, name in ticks.items():
        parts.append(
            f'<path d="M{LEFT} {y(value):.1f}h{WIDE}" stroke="{PALE}"/>' + text(LEFT - 8, y(value) + 4, name, "end")
        )
    for step in sorted({0, steps // 2, steps - 1}):
        parts.append(text(x(step), top + TALL + 18, str(step + 1), "middle"))
    for n, values in enumerate(lines.values()):
        parts.append(line([(x(step), y(value)) for step, value in enumerate(values)], n))
    return "".join(parts)


def line(points: Sequence[tuple[float, float]], n: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{COLOURS[n]}" stroke-width="{WIDTHS[n]}"/>'


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}" text-anchor="{anchor}">{words}</text>'


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
