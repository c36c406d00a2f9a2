"""A revealed order, re-added in software in every way in which such an op may add, against the op's own bits.

Sure is an order whose sums are the op's on all `COLUMNS` columns of data that cancels, where a wrong order would have shown on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from detcheck.probes.order.counting import through
from detcheck.probes.order.facts import Checked, Place, Revealed
from detcheck.probes.order.sums import Sums
from detcheck.reason import Reason
from detcheck.summation.arithmetic import MANTISSA, Adds, readd, rounded, ways
from detcheck.summation.tree import Tree

SCREEN = 64  # columns that tell which way of adding is worth trying on all
FEW = 64  # summands that may stand at random as they do in order, or be soon added
TOLD = 0.05  # of them, at least, on which a wrong order must show


Key = tuple[str, Adds, str, bool]  # tree, how it adds, dtype of the result, whether factors multiply the values


class Confirmation:
    """Re-adding on one set of data. It remembers what software gave, since another condition often has the same order."""

    def __init__(self, values: np.ndarray, factors: np.ndarray, dtype: str) -> None:
        """values[columns, length], factors[length]"""
        values = np.asfortranarray(values)  # as it is added: a summand of all columns side by side
        self._values, self._factors, self._dtype = values, factors, dtype
        self._expected: dict[Key, np.ndarray] = {}
        self._expected_of_ordinary: dict[tuple[Key, int], np.ndarray] = {}
        self._told: dict[Key, float] = {}

    def _ways(self, tree: Tree, sums: Sums, place: Place, factors: np.ndarray | None) -> Iterator[Adds]:
        """Ways of adding, the plain ones first; then with what is fused looked at summand by summand."""
        known = tree.hash, sums.out, factors is not None
        yield from [way for name, way, *rest in self._expected if (name, *rest) == known]  # how it added before
        found = ways(self._dtype, factors is not None, sums.scale, tree, sums.squared)
        yield from found
        if not any(way.fused for way in found) or tree.length < 2 or sums.squared:
            return
        # a * a is inexact. Beside it only its neighbour in the tree is not zero, and takes a off: what is left shows a rounding.
        a = 1 + 2.0 ** -(MANTISSA[self._dtype] // 2)
        values = np.zeros((tree.length, tree.length))
        for leaf in range(tree.length):
            siblings = tree.nodes[tree.parents[leaf] - tree.length]
            values[leaf, leaf] = a
            values[leaf, tree.lows[next(c for c in siblings if c != leaf)]] = -1.0
        sums.multiply_by(a)
        left = through(sums, place, values)[0]
        product = float(rounded(np.array([a * a]), self._dtype)[0])
        unfused = tuple(np.flatnonzero(left == product - a).tolist())
        yield from (replace(way, unfused=unfused) for way in found if way.fused)

    def _chained(self, tree: Tree, factors: np.ndarray | None, way: Adds, out: str, came: np.ndarray) -> bool:
        """Whether nodes of more than two may as well be chains, in this order or the other: what shows only where they are told apart."""
        plain = [replace(way, fused=fused) for fused in (("", "low", "high") if factors is not None else ("",))]
        chains = [in_chains(tree, backwards) for backwards in (False, True)]
        made = (readd(chain, self._values, factors, each, out) for chain in chains for each in plain)
        return any(same(one, came[:, : len(one)]).all() for one in made)

    def checked(self, tree: Tree, sums: Sums, place: Place, came: np.ndarray) -> tuple[Revealed, Adds | None]:
        """The order, and whether it is sure; and the way of adding that gave the op's bits. `came`: the op's sums, [rows, columns of data]."""
        values, best = self._values, 0
        order = Revealed(tree.length, tree.hash, tree.nodes)
        which = np.arange(came.shape[1]) % len(values)  # the data may have come again, so that no output went without
        sorting = np.argsort(which, kind="stable")
        starts = np.searchsorted(which[sorting], np.arange(len(values)))
        factors = self._factors if sums.factors is not None else None
        for way in self._ways(tree, sums, place, factors):
            key = tree.hash, way, sums.out, factors is not None
            known = self._expected.get(key)
            few = readd(tree, values[:SCREEN], factors, way, sums.out) if known is None else known[:SCREEN]
            if not same(few, came[:, :SCREEN]).all():
                continue
            if key not in self._expected:
                self._expected[key] = readd(tree, values, factors, way, sums.out)
            fits = same(np.resize(self._expected[key], came.shape[1]), came).all(0)
            equal = int(np.logical_and.reduceat(fits[sorting], starts).sum())
            best = max(best, equal)
            if equal < len(values):
                continue
            order = replace(order, adds_in=way.said(tree.arity))
            if tree.arity > 2 and self._chained(tree, factors, way, sums.out, came):
                return replace(order, why=Reason("maybe_one_by_one")), None
            if key not in self._told:  # what came is what was expected, so what a wrong order gives tells from either
                wrong = [readd(tree, values[:SCREEN, at], factors, way, sums.out) for at in elsewhere(tree.length)]
                self._told[key] = max(1 - same(w, came[:1, :SCREEN]).mean() for w in wrong)
            if tree.length > 2 and self._told[key] < TOLD:
                return replace(order, why=Reason("loses_little", {"accumulator": way.accumulator})), None
            return replace(order, sure=True, checked=Checked(len(values), equal)), way
        return replace(order, checked=Checked(len(values), best), why=Reason("not_readded", {"tree": tree.hash})), None

    def holds(self, tree: Tree, way: Adds, sums: Sums, ordinary: np.ndarray, came: np.ndarray) -> bool:
        """Whether the way that gave the op's sums on the data gives them on ordinary[n, length] too, the same numbers each time.

        `came`: the op's sums, [rows, n or more]; what is beyond n is of the same numbers again.
        """
        factors = self._factors if sums.factors is not None else None
        key = (tree.hash, way, sums.out, factors is not None), len(ordinary)
        if key not in self._expected_of_ordinary:
            self._expected_of_ordinary[key] = readd(tree, ordinary, factors, way, sums.out)
        return bool(same(np.resize(self._expected_of_ordinary[key], came.shape[1]), came).all())


def in_chains(tree: Tree, backwards: bool) -> Tree:
    """The same with a chain of additions in the place of every node of more than two."""
    children: dict[int, list[int]] = {}
    stands, number = list(range(tree.length)), tree.length
    for members in tree.nodes:
        total, *rest = [stands[c] for c in (reversed(members) if backwards else members)]
        for c in rest:
            children[number] = [total, c]
            total, number = number, number + 1
        stands.append(total)
    return Tree.of(tree.length, children, stands[tree.root])


def same(expected: np.ndarray, came: np.ndarray) -> np.ndarray:
    """Whether numbers have equal bits; both are exact in float64."""
    return expected.astype(np.float64).view(np.int64) == came.astype(np.float64).view(np.int64)


def elsewhere(length: int) -> list[np.ndarray]:
    """Summands at others' places, so that the same tree is another order: from the last to the first where that is cheap, and at random."""
    random = np.random.default_rng(length).permutation(length)
    return [random] if length > FEW else [np.arange(length)[::-1], np.roll(np.arange(length), 1), random]
