"""Revealed orders of addition as one SVG: a box for each line of a folded tree, orders side by side, what differs marked.

It draws an outline (`describe.outline`), in which equal subtrees are one entry with a count: 4096 summands stay a few boxes.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from detcheck.summation.describe import Entry
from detcheck.text import visible

ROW, INDENT, BOX = 30, 22, 22  # heights and steps, in px
LETTER = 6.7  # px, at most, that a letter of the picture's 11 px takes
SHOWN = 110  # letters of a box; all of them are in its tooltip
ACROSS = 2  # orders beside each other


def picture(orders: Sequence[tuple[str, Sequence[Entry]]]) -> str:
    """Orders, each with a title, as an SVG element; "" where there is none. Marked is what the first of them has not, and in the first what another has not."""
    if not orders:
        return ""
    trees = [[(entry.depth, entry.text) for entry in entries] for _, entries in orders]
    parts, x, y, widest, tallest = [], 0.0, 0.0, 0.0, 0.0
    for k, ((title, _), boxes) in enumerate(zip(orders, trees, strict=True)):
        if k and k % ACROSS == 0:
            x, y, tallest = 0.0, y + tallest, 0.0
        others = trees[1:] if k == 0 else trees[:1]
        common = [set(other) for other in others]
        marked = [any(box not in other for other in common) for box in boxes]
        width = max(INDENT * depth + LETTER * len(short(text)) + 12 for depth, text in boxes)
        width = max(width, LETTER * len(title) + 12)
        parts.append(f'<g transform="translate({x:.0f} {y:.0f})">{drawn(title, boxes, marked)}</g>')
        tallest = max(tallest, ROW * (len(boxes) + 1) + 12)
        x += width + 24
        widest = max(widest, x)
    label = f"{len(orders)} order{'s' if len(orders) > 1 else ''} of addition"
    size = f'viewBox="0 0 {widest:.0f} {y + tallest:.0f}" style="max-width: {widest:.0f}px"'
    return f'<svg role="img" aria-label="{label}" {size} font-size="11" fill="currentColor">{"".join(parts)}</svg>'


def short(text: str) -> str:
    text = visible(text)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def drawn(title: str, boxes: Sequence[tuple[int, str]], marked: Sequence[bool]) -> str:
    """One tree under its title; a dashed box with a heavy edge is what differs, so that colour alone does not say it."""
    parts = [f'<text x="2" y="15" font-weight="bold">{html.escape(visible(title))}</text>']
    above: dict[int, float] = {}  # depth -> lower edge of the box that was drawn there last
    for row, ((depth, text), other) in enumerate(zip(boxes, marked, strict=True), start=1):
        x, y = INDENT * depth + 1, ROW * row
        if depth and depth - 1 in above:
            line = x - INDENT + 8
            parts.append(
                f'<path d="M{line} {above[depth - 1]}V{y + BOX / 2}H{x}" fill="none" stroke="currentColor" opacity="0.5"/>'
            )
        above[depth] = y + BOX
        edge = 'stroke="var(--bar)" stroke-width="2" stroke-dasharray="5 2"' if other else 'stroke="currentColor"'
        width = LETTER * len(short(text)) + 8
        parts.append(
            f'<g><title>{html.escape(visible(text))}</title><rect x="{x}" y="{y}" width="{width:.0f}" height="{BOX}" rx="4" fill="none" {edge}/>'
            f'<text x="{x + 5}" y="{y + 15}">{html.escape(short(text))}</text></g>'
        )
    return "".join(parts)
