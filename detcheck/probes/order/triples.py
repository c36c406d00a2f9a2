"""The order of a sum of squares. None of them is negative, so no two cancel and nothing can be counted (`counting.py`).

What can be asked is which two of three summands meet first. One of them is so large that either of the others is lost in it, and
the two of them together are not: where these two meet first, the sum comes out larger. Such answers about random pairs and all others
sort the others into what joins the one, what joins the other and what joins both, as quicksort does: n log n questions in all.
(That triples define a tree: Aho, Sagiv, Szymanski and Ullman, SIAM J. Comput. 10(3), 1981.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detcheck.probes.order.counting import NotASumError, through
from detcheck.probes.order.facts import Place
from detcheck.probes.order.sums import Sums
from detcheck.summation.arithmetic import MANTISSA
from detcheck.summation.tree import NotATreeError, Tree

First = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def masks(bits: int) -> tuple[float, float]:
    """(large, small), of which sums are kept with so many bits: the small one's square is 0.38 units in the last place of the large one's."""
    power = (bits + 1) // 2
    return 2.0**power, 0.875 if bits % 2 == 0 else 1.25


def read(sums: Sums, place: Place, seed: int, likely: Tree | None = None) -> tuple[Tree, str]:
    """The tree of the place's sums of squares, and how it was read. A `likely` one saves calls. Raises NotASumError, NotATreeError."""
    large, small = masks(MANTISSA[sums.out])
    sums.scale = calibrate(sums, place, large, small)
    alone = large**2 * sums.scale
    slots = sums.slots_of(place)

    def first(i: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        found = np.empty(len(i), bool)
        sums.fill(0.0)
        for begin in range(0, len(i), len(slots)):
            part = slice(begin, begin + len(slots))
            used = slots[: len(i[part])]
            for leaves, value in ((i, large), (j, small), (k, small)):
                sums.put(used, leaves[part], value)
            found[part] = sums.of(place, sums.result(), used)[0] != alone
            for leaves in (i, j, k):
                sums.put(used, leaves[part], 0.0)
        return found

    if likely and first(*tight(likely)).all():
        return likely, "triples"
    return grown(sums.length, first, seed), "triples"


def calibrate(sums: Sums, place: Place, large: float, small: float) -> float:
    """What a summand of 1 adds to the result. Raises NotASumError where results are not those of a sum of squares."""
    n = sums.length
    values = np.zeros((7, n))
    values[1:, 0] = 1.0, -1.0, 2.0, large, large, small
    if n > 1:
        values[5:, -1] = small
    nothing, one, minus, two, huge, lost, both = through(sums, place, values)[0]
    if nothing != 0 or one == 0 or not np.isfinite(huge):
        raise NotASumError("no_squares", zeros=nothing, one=one, large=large, huge=huge)
    if (one, 4 * one) != (minus, two):
        raise NotASumError("does_not_square", one=one, minus=minus, two=two)
    expected = (1 + (n > 1)) * small**2 * one
    if huge != large**2 * one or lost != huge or abs(both - expected) > 2.0 ** (2 - MANTISSA[sums.out]) * abs(expected):
        raise NotASumError(
            "squares_not_added_up", small=small, both=both, large=large, lost=lost, huge=huge, out=sums.out
        )
    return float(one)


def tight(tree: Tree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every node below the root a triple that is so in this tree: (beside it, from one child, from another)."""
    parents, lows, n = tree.parents, tree.lows, tree.length
    asked = [
        (lows[next(s for s in tree.nodes[parents[v] - n] if s != v)], lows[children[0]], lows[children[1]])
        for v, children in enumerate(tree.nodes, n)
        if v != tree.root
    ]
    i, j, k = np.array(asked, int).reshape(-1, 3).T
    return i, j, k


def grown(length: int, first: First, seed: int = 0) -> Tree:
    """The tree behind the answers; `first(i, j, k)` tells whether j[n] and k[n] meet before either meets i[n]. Raises NotATreeError.

    A group of leaves is split by two of them at random: into those that join the one first, the other first, or both where these have met.
    What has met is one leaf from there on, that any of its own stands for.
    """
    if length == 1:
        return Tree(1, ())
    random = np.random.default_rng(seed)
    stands = dict(enumerate(range(length)))  # leaf, or what is one by now -> a leaf of it
    groups: list[list[int]] = [list(range(length))]
    splits: dict[int, tuple[int, int, int, int]] = {}
    """group -> (the node of the two, the groups of its children, the group in which it is a leaf)"""
    current = [0]
    while current:
        pairs, others = [], []
        for g in current:
            a, b = (groups[g][int(at)] for at in random.choice(len(groups[g]), 2, replace=False))
            pairs.append((g, a, b))
            others.append([x for x in groups[g] if x not in (a, b)])
        a, b, x = (
            np.array([stands[v] for v in found], int)
            for found in (
                [a for (_, a, _), rest in zip(pairs, others, strict=True) for _ in rest],
                [b for (_, _, b), rest in zip(pairs, others, strict=True) for _ in rest],
                [v for rest in others for v in rest],
            )
        )
        joins = np.stack([first(b, a, x), first(a, b, x), first(x, a, b)]) if len(x) else np.empty((3, 0), bool)
        if (odd := np.flatnonzero(joins.sum(0) != 1)).size:
            n = int(odd[0])
            raise NotATreeError("odd_three", i=a[n], j=b[n], k=x[n], pairs=joins[:, n].sum())
        which, current, start = joins.argmax(0), [], 0
        for (g, a_, b_), rest in zip(pairs, others, strict=True):
            told = which[start : start + len(rest)]
            start += len(rest)
            node = length + len(splits)
            stands[node] = stands[a_]
            parts = [
                [item, *(v for v, t in zip(rest, told, strict=True) if t == n)] for n, item in enumerate((a_, b_, node))
            ]
            splits[g] = (node, *range(len(groups), len(groups) + 3))
            current += [len(groups) + n for n, part in enumerate(parts) if len(part) > 1]
            groups += parts
    children, roots = {}, {}
    for g in reversed(range(len(groups))):
        if g in splits:
            node, one, other, outer = splits[g]
            children[node] = [roots[one], roots[other]]
            roots[g] = roots[outer]
        else:
            roots[g] = groups[g][0]
    return Tree.of(length, children, roots[0])
