"""The order in which a sum of n numbers is added: a tree whose leaves are the summands. Pure numpy, no torch.

`reveal` finds it from answers to one question: of the subtree in which summands i and j meet, how many leaves has it? That is
what a huge number at i and its negative at j tell: they swallow whatever is added to either before they meet, and cancel.
(FPRev: Xie, Gao, Wang, Xue, "FPRev: Revealing the Order of Floating-Point Summation", USENIX ATC 2025. The recursion over
pivots is theirs; asking about all groups of a depth at once is ours, and so is which pivots: first the first summand, since most
orders begin there and a sequential sum is then seen at one glance; then random ones, so that no order takes quadratically many.)
Everything is iterative: a sequential sum of 4096 numbers is a tree 4095 deep.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detcheck.reason import Reason

FROM_FIRST = 2  # rounds whose pivots are the first summands of their groups: a sum, and the blocks that it is made of

Ask = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class UnreadError(ValueError):
    """An order that could not be read. `reason` says why, as data; the sentences are in `probes/order/reasons.py`."""

    def __init__(self, code: str, **values: str | float) -> None:
        super().__init__(code, values)
        self.reason = Reason(code, {name: plain(value) for name, value in values.items()})


class NotATreeError(UnreadError):
    """Answers that no order of additions gives."""


def plain(value: str | float | np.number) -> str | int | float:
    """As it is stored: a number with the six digits that are said, since with more of them equal reasons would be different outcomes."""
    if isinstance(value, str):
        return value
    return int(value) if isinstance(value, int | np.integer) else float(f"{value:.6g}")


@dataclass(frozen=True)
class Tree:
    """Leaves are 0 to length - 1; inner node `length + k` has the children `nodes[k]`, which have smaller numbers.

    Canonical: children stand by their first leaf, nodes in post-order, so equal orders are equal records. Addition commutes
    to the bit, so which child stands left means nothing. More than two children: added at once, as matrix units do.
    """

    length: int
    nodes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, length: int, children: Mapping[int, Sequence[int]], root: int) -> Tree:
        """From any numbering of the inner nodes."""
        order, todo = [], [root]
        while todo:
            order.append(v := todo.pop())
            todo += children.get(v, ())
        low: dict[int, int] = {}
        for v in reversed(order):
            low[v] = v if v < length else min(low[c] for c in children[v])
        number: dict[int, int] = {v: v for v in range(length)}
        nodes: list[tuple[int, ...]] = []
        stack = [(root, False)]
        while stack:
            v, done = stack.pop()
            if v < length:
                continue
            ordered = sorted(children[v], key=low.__getitem__)
            if done:
                number[v] = length + len(nodes)
                nodes.append(tuple(number[c] for c in ordered))
            else:
                stack.append((v, True))
                stack += [(c, False) for c in reversed(ordered)]
        return cls(length, tuple(nodes))

    @property
    def root(self) -> int:
        return self.length + len(self.nodes) - 1

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Leaves below each node."""
        found = [1] * self.length
        for children in self.nodes:
            found.append(sum(found[c] for c in children))
        return found

    @functools.cached_property
    def lows(self) -> list[int]:
        """First leaf below each node."""
        found = list(range(self.length))
        for children in self.nodes:
            found.append(found[children[0]])
        return found

    @functools.cached_property
    def heights(self) -> list[int]:
        """Additions on the longest way up from a leaf to each node."""
        found = [0] * self.length
        for children in self.nodes:
            found.append(1 + max(found[c] for c in children))
        return found

    @functools.cached_property
    def parents(self) -> list[int]:
        """Of each node; the root's is -1."""
        found = [-1] * (self.length + len(self.nodes))
        for k, children in enumerate(self.nodes):
            for c in children:
                found[c] = self.length + k
        return found

    @property
    def depth(self) -> int:
        return self.heights[self.root]

    @property
    def arity(self) -> int:
        """The most children of a node."""
        return max((len(children) for children in self.nodes), default=0)

    @functools.cached_property
    def levels(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]]:
        """Of each height from 1 up: the nodes of two children, the first of these, the second, and the nodes of more."""
        pairs: list[list[tuple[int, ...]]] = [[] for _ in range(self.depth)]
        wide: list[list[int]] = [[] for _ in range(self.depth)]
        for v, children in enumerate(self.nodes, self.length):
            at = self.heights[v] - 1
            if len(children) == 2:
                pairs[at].append((v, *children))
            else:
                wide[at].append(v)
        columns = (np.array(level, int).reshape(-1, 3).T for level in pairs)
        return [(*column, more) for column, more in zip(columns, wide, strict=True)]

    @functools.cached_property
    def hash(self) -> str:
        """12 hexadecimal digits that name the order."""
        digests = [str(leaf).encode() for leaf in range(self.length)]
        for children in self.nodes:
            digests.append(hashlib.sha256(b"(" + b" ".join(digests[c] for c in children) + b")").digest())
        return hashlib.sha256(digests[self.root]).hexdigest()[:12]

    def table(self) -> np.ndarray:
        """int32[length, length]: `meets` of every pair; 1 on the diagonal."""
        found = np.ones((self.length, self.length), np.int32)
        leaves = [np.array([leaf]) for leaf in range(self.length)]
        for k, children in enumerate(self.nodes):
            size = self.sizes[self.length + k]
            for n, b in enumerate(children):
                for a in children[:n]:
                    found[np.ix_(leaves[a], leaves[b])] = size
                    found[np.ix_(leaves[b], leaves[a])] = size
            leaves.append(np.concatenate([leaves[c] for c in children]))
            for c in children:
                leaves[c] = leaves[c][:0]  # nobody asks again, and a sequential sum would keep n**2 / 2 of them
        return found

    def meets(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Leaves of the subtree in which i[n] and j[n] meet: what `reveal` asks."""
        parents = np.asarray(self.parents)
        # Children have smaller numbers than parents: the one with the smaller number goes up until both are one.
        a, b = np.array(i), np.array(j)
        while (apart := a != b).any():
            up = apart & (a < b)
            a, b = np.where(up, parents[a], a), np.where(apart & ~up, parents[b], b)
        return np.asarray(self.sizes)[a]


def reveal(length: int, ask: Ask, seed: int = 0, room: int = 0) -> Tree:
    """The tree behind the answers. Raises NotATreeError where they contradict each other.

    `ask(i, j, most)` tells for each pair how many leaves the subtree has in which they meet; mostly at most `most`. Seen from a pivot, the others fall into
    groups that join its sum one after the other; each group is a tree by itself. `room`: questions that cost no more than one; as soon
    as all that can still come up are so few, all are asked. The first round always has one pivot.
    """
    random, rounds = np.random.default_rng(seed), 0
    groups: list[np.ndarray] = [np.arange(length)]
    pivots: list[int] = [0]
    below: list[list[int]] = [[]]
    whole: list[bool] = [True]
    """of each group: whether it is added up before it joins the sum; else its summands join at once, in one node"""
    known: dict[tuple[int, int], int] = {}
    current = [0]
    while current:
        asked = []
        for g in current:
            group = groups[g]
            p = 0 if rounds < FROM_FIRST else int(random.integers(len(group)))
            pivots[g] = int(group[p])
            if len(group) > 1:
                asked.append((g, np.delete(group, p)))
        if not asked:
            break
        rounds += 1
        i = np.concatenate([np.full(len(others), pivots[g]) for g, others in asked])
        j = np.concatenate([others for _, others in asked])
        if rounds > 1 and not known and sum(len(groups[g]) * (len(groups[g]) - 1) // 2 for g, _ in asked) <= room:
            known = all_within([groups[g] for g, _ in asked], ask)
        if known:
            sizes = np.array([known[min(a, b), max(a, b)] for a, b in zip(i.tolist(), j.tolist(), strict=True)])
        else:
            most = np.concatenate([np.full(len(others), 1 + len(others)) for _, others in asked])
            sizes = ask(i, j, most)
        current, start = [], 0
        for g, others in asked:
            found = sizes[start : start + len(others)]
            start += len(others)
            order = np.argsort(found, kind="stable")
            found, others = found[order], others[order]
            cuts = np.flatnonzero(np.diff(found)) + 1
            ends = np.append(cuts, len(found))
            values = found[ends - 1]
            last_is_whole = values[-1] == 1 + len(found)
            expected = 1 + ends
            if (values[:-1] != expected[:-1]).any() or values[-1] < expected[-1] or (g == 0 and not last_is_whole):
                at = int(np.flatnonzero(values != expected)[0])
                raise NotATreeError(
                    "contradiction", pivot=pivots[g], count=values[at], last=others[ends[at] - 1], expected=expected[at]
                )
            whole[g] = bool(last_is_whole)
            for part in np.split(others, cuts):
                groups.append(np.sort(part) if len(part) > 1 else part)
                pivots.append(0)
                below.append([])
                whole.append(True)
                below[g].append(len(groups) - 1)
                current.append(len(groups) - 1)
    children: dict[int, list[int]] = {}
    roots: list[int] = [0] * len(groups)
    for g in range(len(groups) - 1, -1, -1):
        root = pivots[g]
        for part in below[g]:
            if whole[part]:
                children[length + len(children)] = [root, roots[part]]
                root = length + len(children) - 1
            else:  # the group's own last node is the one in which the pivot joins too
                children[roots[part]].append(root)
                root = roots[part]
        roots[g] = root
    return Tree.of(length, children, roots[0])


def all_within(groups: Sequence[np.ndarray], ask: Ask) -> dict[tuple[int, int], int]:
    """The answers for all pairs within each group, the smaller summand first."""
    pairs = [np.triu_indices(len(group), 1) for group in groups]
    i = np.concatenate([group[a] for group, (a, _) in zip(groups, pairs, strict=True)])
    j = np.concatenate([group[b] for group, (_, b) in zip(groups, pairs, strict=True)])
    most = np.concatenate([np.full(len(a), len(group)) for group, (a, _) in zip(groups, pairs, strict=True)])
    return dict(zip(zip(i.tolist(), j.tolist(), strict=True), ask(i, j, most).tolist(), strict=True))
