"""A tree of thousands of leaves, folded: equal subtrees that follow each other at equal distances become one, with a count.

Kinds of fold:

    leaf     one summand
    chain    a sum that takes the same thing again and again: ((s + b) + b) + b; each `stride` further along
    pairs    equal parts added two by two, the results two by two, and so on
    halves   a run of summands cut in two, each half again: where the length is no power of two
    lanes    lane j of n takes summands j, j + n, j + 2n ... in order, as vector units do; its one part says how lanes are added.
             Or pairs of summands so (`terms` is 2), the second of a pair before the first, as those for bfloat16 do
    at once  equal parts added in one node, as matrix units do
    mix      parts that are not alike, added one after the other
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

from detcheck.summation.tree import Tree

LANE = 3  # summands that one lane of several has, at least: else a first round of pairs would be lanes of two


@dataclass(frozen=True, eq=False)
class Fold:
    """A subtree, or many equal ones."""

    kind: str
    size: int
    """leaves"""
    low: int
    """first leaf of the first of those that are folded here, in the whole tree"""
    parts: tuple[tuple[int, Fold], ...] = ()
    """(first leaf counted from this fold's own first leaf, what is there). Of a chain: the body, or the start and the body"""
    count: int = 1
    """bodies of a chain (behind its start), of pairs, or of what is added at once"""
    stride: int = 0
    """leaves from one body to the next; negative: from the last to the first. Of pairs: between neighbours of the first round"""
    terms: int = 1
    """of a chain: bodies that join in one step; of lanes: neighbours that a lane takes together"""
    apart: int = 0
    """leaves from one of these terms to the next; of pairs: between the two halves of the last round; of halves: 1 where the longer comes first"""
    name: str = ""
    """equal for equal orders, wherever they stand"""

    @property
    def body(self) -> Fold:
        return self.parts[-1][1]

    @property
    def start(self) -> Fold | None:
        """What a chain begins with, where that is not its body."""
        return self.parts[0][1] if self.kind == "chain" and len(self.parts) == 2 else None


def fold(tree: Tree) -> Fold:
    """The whole tree, folded."""
    return Folder(tree).fold()


class Folder:
    """Subtrees by shape: equal shapes are the same order at another place, and are folded once."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        numbers: dict[object, int] = {}
        self._shape: list[int] = []
        self._paired: list[int | None] = []
        """of each node: how far apart the pairs are that it takes in order, each from its second to its first; 0 and None as above"""
        self._strides: list[int | None] = []
        """of each node: how far apart the summands are that it takes in order, from first to last; 0: it is one; None: it does not"""
        for v in range(tree.root + 1):
            children = self._children(v)
            low = tree.lows[v]
            key = tuple((tree.lows[c] - low, self._shape[c]) for c in children)
            self._shape.append(numbers.setdefault(key, len(numbers)))
            self._strides.append(self._stride(v, children))
            self._paired.append(self._pair(v, children))
        self._folds: dict[int, Fold] = {}

    def _children(self, v: int) -> tuple[int, ...]:
        return () if v < self._tree.length else self._tree.nodes[v - self._tree.length]

    def _stride(self, v: int, children: tuple[int, ...]) -> int | None:
        if not children:
            return 0
        if len(children) != 2 or children[1] >= self._tree.length or (under := self._strides[children[0]]) is None:
            return None
        low = self._tree.lows[v]
        here = (children[1] - low) // (self._tree.sizes[v] - 1)
        fits = children[1] - low == here * (self._tree.sizes[v] - 1) and under in (0, here)
        return here if fits else None

    def _pair(self, v: int, children: tuple[int, ...]) -> int | None:
        if len(children) != 2 or children[1] >= self._tree.length:
            return None
        size, place = self._tree.sizes[v], children[1] - self._tree.lows[v]
        if size == 2:
            return 0 if place == 1 else None
        before, second = divmod(size - 1, 2)  # pairs so far; one more summand of this pair
        before, place = (before, place) if second else (before, place - 1)
        here = place // before
        return here if place == here * before and self._paired[children[0]] in (0, here) else None

    def fold(self) -> Fold:
        todo = [self._tree.root]
        while todo:
            v = todo[-1]
            draft, needed = self._step(v)
            waiting = [c for c in needed if self._shape[c] not in self._folds]
            if waiting:
                todo += waiting
                continue
            todo.pop()
            if self._shape[v] not in self._folds:
                self._folds[self._shape[v]] = self._made(v, draft, needed)
        return self._folds[self._shape[self._tree.root]]

    def _step(self, v: int) -> tuple[dict[str, object], list[int]]:
        """How node v folds, and the nodes whose folds that needs."""
        children = self._children(v)
        if not children:
            return {"kind": "leaf"}, []
        if (longer := self._halves(v)) is not None:
            return {"kind": "halves", "count": self._tree.sizes[v], "stride": 1, "apart": longer}, [self._tree.lows[v]]
        if lanes := self._lanes(v, self._strides, 1):
            return {"kind": "lanes", "count": lanes.length, "stride": lanes.length, "of": lanes}, []
        if lanes := self._lanes(v, self._paired, 2):
            return {"kind": "lanes", "count": lanes.length, "stride": 2 * lanes.length, "terms": 2, "of": lanes}, []
        return self._pairs(v) or self._chain(v) or self._at_once(v) or self._mix(v)

    def _low(self, v: int) -> int:
        return self._tree.lows[v]

    def _halves(self, v: int) -> int | None:
        """1 or 0, where a run of neighbours is cut at half of its length again and again: whether the longer half comes first.

        None where it is not, or where its length is a power of two.
        """
        sizes, lows = self._tree.sizes, self._tree.lows
        if sizes[v] < 5 or not sizes[v] & (sizes[v] - 1):
            return None
        for longer in (0, 1):
            todo, fits = [v], True
            while todo and fits:
                children = self._children(u := todo.pop())
                if children:
                    a, *rest = children
                    fits = (
                        len(rest) == 1 and sizes[a] == (sizes[u] + longer) // 2 and lows[rest[0]] == lows[u] + sizes[a]
                    )
                    todo += children
            if fits:
                return longer
        return None

    def _lanes(self, v: int, strides: list[int | None], terms: int) -> Tree | None:
        """The tree over the lanes, where v takes a run of neighbours in lanes, `terms` of them at a time."""
        size, low, sizes = self._tree.sizes[v], self._low(v), self._tree.sizes
        if size < 2 * LANE * terms or size % terms:
            return None
        found: dict[int, int] = {}  # node -> lane
        inner, todo, count = [], [v], None
        while todo:
            u = todo.pop()
            stride = strides[u]
            if stride is None:
                inner.append(u)
                todo += self._children(u)
                continue
            if stride % terms or (stride and (count or stride // terms) != stride // terms):
                return None
            count = stride // terms or count
            found[u] = (self._low(u) - low) // terms
        if not count or count < 2 or -(-size // (count * terms)) < LANE or len(found) != count or not inner:
            return None
        if any(sizes[u] != terms * -(-(size // terms - lane) // count) for u, lane in found.items()):
            return None
        children = {
            count + n: [found[c] if c in found else count + inner.index(c) for c in self._children(u)]
            for n, u in enumerate(inner)
        }
        return Tree.of(count, children, count)

    def _pairs(self, v: int) -> tuple[dict[str, object], list[int]] | None:
        """Equal halves of equal halves, whose distances double or halve from round to round."""
        strides, u = [], v
        while len(children := self._children(u)) == 2 and self._shape[children[0]] == self._shape[children[1]]:
            stride = self._low(children[1]) - self._low(children[0])
            if len(strides) > 1 and stride * strides[-2] != strides[-1] ** 2:
                break
            if len(strides) == 1 and stride * 2 != strides[0] and strides[0] * 2 != stride:
                break
            strides.append(stride)
            u = children[0]
        if not strides:
            return None
        return {"kind": "pairs", "count": 2 ** len(strides), "stride": strides[-1], "apart": strides[0]}, [u]

    def _chain(self, v: int) -> tuple[dict[str, object], list[int]] | None:
        """A sum that takes equal bodies at equal distances."""
        first = self._joining(v)
        if first is None:
            return None
        total, bodies, apart = first
        shape, terms = self._shape[bodies[0]], len(bodies)
        last, count, stride = bodies[0], 1, None
        while (more := self._joining(total, shape, terms, last, stride)) is not None:
            under, joined, gap = more
            step = self._low(last) - self._low(joined[0])
            if gap != apart or (stride is not None and step != stride):
                break
            stride, last, total, count = step, joined[0], under, count + 1
        if terms == 1 and self._shape[total] == shape and stride in (None, self._low(last) - self._low(total)):
            stride = self._low(last) - self._low(total)
            return ({"kind": "chain", "count": count + 1, "stride": stride}, [total]) if count > 1 else None
        if count < 2:
            return None
        return {"kind": "chain", "count": count, "stride": stride, "terms": terms, "apart": apart, "from": last}, [
            total,
            last,
        ]

    def _joining(
        self, v: int, shape: int | None = None, terms: int | None = None, above: int = 0, stride: int | None = None
    ) -> tuple[int, list[int], int] | None:
        """(the sum so far, the equal parts that join it in this node, how far apart these are)."""
        children = self._children(v)
        if len(children) < 2 or (terms is not None and len(children) != terms + 1):
            return None
        heavy = max(children, key=lambda c: (self._tree.sizes[c], -self._low(c)))
        rest = [c for c in children if c != heavy]
        if len(children) == 2 and stride is not None and self._shape[heavy] == shape:
            # two equal parts begin the sum: either may be the one that joins
            fits = [self._low(above) - self._low(c) == stride for c in (heavy, rest[0])]
            heavy, rest = (rest[0], [heavy]) if fits == [True, False] else (heavy, rest)
        shapes = {self._shape[c] for c in rest}
        gaps = {self._low(b) - self._low(a) for a, b in itertools.pairwise(rest)}
        if len(shapes) != 1 or len(gaps) > 1 or (shape is not None and shapes != {shape}):
            return None
        return heavy, rest, gaps.pop() if gaps else 0

    def _at_once(self, v: int) -> tuple[dict[str, object], list[int]] | None:
        children = self._children(v)
        gaps = {self._low(b) - self._low(a) for a, b in itertools.pairwise(children)}
        if len(children) < 3 or len(gaps) != 1 or len({self._shape[c] for c in children}) != 1:
            return None
        return {"kind": "at once", "count": len(children), "stride": gaps.pop()}, [children[0]]

    def _mix(self, v: int) -> tuple[dict[str, object], list[int]]:
        children = sorted(self._children(v), key=lambda c: (-self._tree.sizes[c], self._low(c)))
        return {"kind": "mix", "terms": len(children) - 1}, children

    def _made(self, v: int, draft: dict[str, object], needed: list[int]) -> Fold:
        low = self._low(v)
        parts = [(self._low(c) - low, self._folds[self._shape[c]]) for c in needed]
        if draft["kind"] == "chain" and "from" not in draft:
            parts = parts[:1]
        draft.pop("from", None)
        if lanes := draft.pop("of", None):
            parts = [(0, fold(lanes))]
        if draft["kind"] == "mix" and draft["terms"] == 1 and parts[0][1].kind == "mix" and parts[0][1].terms == 1:
            at, inner = parts[0]
            parts = [(at + offset, part) for offset, part in inner.parts] + parts[1:]
        words = [str(draft)] + [f"{offset} {part.name}" for offset, part in parts]
        name = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
        return Fold(size=self._tree.sizes[v], low=low, parts=tuple(parts), name=name, **draft)
