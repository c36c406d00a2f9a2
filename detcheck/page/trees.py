"""Orders of addition beside each other: what one has and another has not is marked. Pure.

Lists, not a picture: their text wraps on a phone, and can be read aloud, searched and copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detcheck.blocks import DrawnTree
from detcheck.text import visible


@dataclass(frozen=True)
class TreeColumn:
    """An order as a page draws it."""

    title: str
    boxes: tuple[tuple[int, str, bool], ...]
    """(depth, text, whether another order has it not)"""


def columns(trees: Sequence[DrawnTree]) -> list[TreeColumn]:
    """Marked is what the first of them has not, and in the first what another has not."""
    read = [tree for tree in trees if tree.outline]
    boxes = [[(entry.depth, visible(entry.text)) for entry in tree.outline] for tree in read]
    found = []
    for n, (tree, own) in enumerate(zip(read, boxes, strict=True)):
        others = [set(other) for other in (boxes[1:] if n == 0 else boxes[:1])]
        marked = tuple((depth, text, any((depth, text) not in other for other in others)) for depth, text in own)
        found.append(TreeColumn(visible(tree.title), marked))
    return found
