"""Additions in software, in a given order, to the bit: what an op must give if it adds as its tree says. Pure numpy, no torch.

A sum that is right to the last bit in the wrong order is rare on data that cancels, so equal bits on a thousand of them are the
proof of an order, and of what is fused. Fused multiply-add is made of exact parts: the product of two float32 is exact in
float64; two float64 split into sum and error (Knuth, Dekker); rounding to odd before the last rounding makes it one rounding
(Boldo and Melquiond, 2008).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from detcheck.summation.tree import Tree

MANTISSA = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
PAIRED, FEW, NEAR = 9, 24, 8  # summands
ROOM = 1 << 27  # bytes of intermediate sums at a time


@dataclass(frozen=True)
class Adds:
    """How a node adds. With the tree this fixes every bit."""

    accumulator: str
    """dtype in which sums are kept, torch's name"""
    fused: str = ""
    """"" : products are rounded first; "low", "high": product and addition are rounded once, and of the two products that begin a sum
    the first or the last is rounded by itself"""
    unfused: tuple[int, ...] = ()
    """where products are fused: summands whose product is rounded first all the same, as where a tail is filled up with zeros"""
    scale: str = ""
    """"" : as it is; "over": the sum is divided by n; "times": multiplied by 1 / n; "first": each summand is multiplied by `factor`;
    "last": the sum is; "parted": the sum is divided by it"""
    factor: float = 1.0
    guard: int = 0
    """of nodes with more than two children: bits kept below the largest one's last, when the others are aligned to it"""
    squared: bool = False
    """whether each summand is multiplied by itself"""
    nearest: bool = True
    """of such nodes: whether their exact sum is rounded to nearest; else it is cut"""

    def said(self, arity: int) -> str:
        """In words, behind "added in"."""
        text = self.accumulator
        text += " with fused multiply-add" if self.fused else ""
        text += f" (but for {len(self.unfused)} products that are rounded first)" if self.unfused else ""
        if arity > 2:
            text += f", nodes of more than two aligned to the largest with {self.guard} guard bits and {'rounded' if self.nearest else 'cut'}"
        ends = {"over": ", then divided by n", "times": ", then multiplied by 1 / n"}
        ends |= {"last": f", then multiplied by {self.factor:.6g}", "parted": f", then divided by {self.factor:.6g}"}
        ends["first"] = f", each summand multiplied by {self.factor:.6g} first"
        return text + ends.get(self.scale, "")


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """x (float32 or float64) to the nearest number of that dtype, ties to even; bfloat16 comes as the float32 of equal value."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != "bfloat16":
            return x.astype(dtype)
        narrow = x.astype(np.float32)
        bits = narrow.view(np.uint32)
        up = ((bits >> 16) & 1) + np.uint32(0x7FFF)
        return (
            np.where(np.isfinite(narrow), (bits + up) & np.uint32(0xFFFF0000), bits).astype(np.uint32).view(np.float32)
        )


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b rounded to float64, and the rest, exactly."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def to_odd(s: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """s + rest, where it is inexact as the neighbour whose last bit is 1: no later rounding of it is a second one."""
    bits = s.view(np.int64)
    away = (rest > 0) == (s > 0)
    odd = np.where(away, bits + 1, bits - 1)
    return np.where((rest != 0) & ((bits & 1) == 0), odd, bits).view(np.float64)


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of float32, rounded once."""
    s, rest = two_sum(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))
    return to_odd(s, rest).astype(np.float32)


def two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = a * b
    split = 134217729.0  # 2**27 + 1
    a1 = split * a - (split * a - a)
    b1 = split * b - (split * b - b)
    a2, b2 = a - a1, b - b1
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of float64, rounded once."""
    high, low = two_product(a, b)
    t, t_low = two_sum(c, low)
    v, v_low = two_sum(high, t)
    s, rest = two_sum(t_low, v_low)
    return v + to_odd(s, rest)


def together(parts: list[np.ndarray], adds: Adds) -> np.ndarray:
    """More than two numbers in one node: aligned to the largest, cut there, summed exactly, rounded once."""
    bits = MANTISSA[adds.accumulator]
    wide = [part.astype(np.float64) for part in parts]
    largest = np.max(np.abs(wide), axis=0)
    _, exponent = np.frexp(largest)
    unit = np.ldexp(1.0, exponent - bits - adds.guard)
    total = np.sum([np.trunc(part / unit) for part in wide], axis=0) * unit
    if not adds.nearest:
        _, exponent = np.frexp(np.abs(total))
        step = np.ldexp(1.0, exponent - bits)
        total = np.trunc(total / step) * step
    return rounded(total, adds.accumulator)


def readd(tree: Tree, values: np.ndarray, factors: np.ndarray | None, adds: Adds, out: str) -> np.ndarray:
    """The sums over values[columns, length] times factors[length], added in the tree's order: [columns], as numbers of dtype `out`.

    Nodes of equal height are added side by side, since a node waits only for those below it. Fastest where values.T is contiguous.
    """
    kept = np.float64 if adds.accumulator == "float64" else np.float16 if adds.accumulator == "float16" else np.float32
    columns = max(1, ROOM // (8 * (2 * tree.length + 1)))
    found = []
    with np.errstate(all="ignore"):
        for begin in range(0, len(values), columns):
            part = values[begin : begin + columns].T
            if adds.scale == "first":
                part = rounded(part.astype(np.float64) * adds.factor, adds.accumulator)
            total = whole(tree, np.ascontiguousarray(part), factors, adds, kept)
            if adds.scale in ("over", "times"):
                n = total.dtype.type(tree.length)
                total = rounded(
                    total / n if adds.scale == "over" else total * (total.dtype.type(1) / n), adds.accumulator
                )
            elif adds.scale in ("last", "parted"):
                factor = total.dtype.type(adds.factor)
                total = rounded(total * factor if adds.scale == "last" else total / factor, adds.accumulator)
            found.append(rounded(total, out))
    return np.concatenate(found)


def whole(tree: Tree, part: np.ndarray, factors: np.ndarray | None, adds: Adds, kept: type) -> np.ndarray:
    n = tree.length
    sums = np.empty((n + len(tree.nodes), part.shape[1]), kept)
    times = part if adds.squared else None if factors is None else factors[:, None]
    products = part if times is None else part.astype(np.float64) * times.astype(np.float64)
    exact = products if tree.arity > 2 else None  # what a matrix unit adds is not rounded before
    sums[:n] = rounded(products, adds.accumulator)
    fusible = np.arange(n + len(tree.nodes)) < n
    fusible[list(adds.unfused)] = False
    fma = fma32 if adds.accumulator == "float32" else fma64
    for at, a, b, wide in tree.levels:
        if adds.fused and times is not None and len(at):
            # the fused one is a leaf; where both are, the rule says which
            leaf = np.where(fusible[b], b, a) if adds.fused == "low" else np.where(fusible[a], a, b)
            other = np.where(leaf == a, b, a)
            is_leaf = fusible[leaf]
            f, o, t = leaf[is_leaf], other[is_leaf], at[is_leaf]
            if len(f):
                sums[t] = fma(times[f], part[f], sums[o])
            a, b, at = a[~is_leaf], b[~is_leaf], at[~is_leaf]
        if len(at):
            sums[at] = rounded(sums[a] + sums[b], adds.accumulator)
        for v in wide:
            sums[v] = together([exact[c] if c < n else sums[c] for c in tree.nodes[v - n]], adds)
    return sums[tree.root]


def ways(dtype: str, factors: bool, scale: float, tree: Tree, squared: bool = False) -> list[Adds]:
    """The ways in which an op of that dtype may add, the likely ones first. `factors`: whether something multiplies its summands;
    `squared`: whether they do so themselves; `scale`: what a summand of 1 adds to the result."""
    own = {"float32": ["float32", "float64"], "float64": ["float64"]}.get(dtype, ["float32", "float64", dtype])
    found = [Adds(accumulator, squared=squared) for accumulator in own]
    if factors or squared:
        found[1:1] = [replace(found[0], fused=fused) for fused in ("low", "high")] if dtype == own[0] else []
    if tree.arity > 2:
        found = [replace(found[0], guard=g, nearest=near) for near in (False, True) for g in range(4)]
    if scale == 1.0 or tree.length == 1:
        return found
    if abs(scale * tree.length - 1) < 2.0 ** (1 - MANTISSA[dtype]):
        first = [replace(a, scale="first", factor=1 / tree.length) for a in found]
        return [replace(a, scale=how) for a in found for how in ("over", "times")] + ([] if squared else first)
    scaled = [replace(a, scale=how, factor=scale) for a in found for how in ("first", "last")[squared:]]
    part = round(1 / scale)
    whole = part and abs(scale * part - 1) < 2.0 ** (1 - MANTISSA[dtype])
    return scaled + [replace(a, scale="parted", factor=float(part)) for a in found if whole]


def cancelling(columns: int, length: int, dtype: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(values[columns, length], factors[length]) on which a wrong order shows: triples a, b, -(a + b), at random places.

    What is left of such a sum is rounding error, and that tells orders apart even where the result keeps 8 bits. Triples, not
    pairs: an op that sorts by size would put the numbers of a pair together, and lose nothing. Half of the columns span so many
    binades that sums kept in float64 are inexact too. No value is zero.
    """
    random = np.random.default_rng([seed, length])
    third, bits = length // 3, MANTISSA[dtype] - 2
    few = length < FEW  # too few to overflow float16, which has no room else for sums that float32 cannot hold
    reach = {"float16": (5, 14 if few else 12)}.get(dtype, (8, 45))
    spread = np.where(np.arange(columns) % 2, *reach[::-1])[:, None]
    if length < PAIRED:
        return of_few(random, columns, length, spread, dtype), np.full(length, 1.25)
    a, b = random.integers(1, 2**bits, (2, columns, third)).astype(np.float64)
    exponents = np.floor(random.uniform(-spread, spread + 1, (columns, third)))
    step = np.where(random.random((columns, third)) < 0.5, -1.0, 1.0) * np.exp2(exponents - bits)
    whole = np.concatenate([a * step, b * step, -(a + b) * step, np.full((columns, length - 3 * third), 0.625)], axis=1)
    whole = random.permuted(whole, axis=1)
    near(random, whole, dtype)
    return whole, np.full(length, 1.25)


def near(random: np.random.Generator, values: np.ndarray, dtype: str) -> None:
    """In every fourth column a few neighbours outweigh all others, which are next to nothing there: what is added otherwise among
    so few of a long sum shows in no other column. In a third of these they are the first ones, where most orders begin."""
    columns, length = values.shape
    rows, count = np.arange(3, columns, 4), min(NEAR, length)
    small, reach = {"float16": (2.0**-24, 14)}.get(dtype, (2.0**-100, 45))
    begin = random.integers(0, length - count + 1, len(rows))
    begin[::3] = 0
    values[rows] = np.where(random.random((len(rows), length)) < 0.5, -small, small)
    few = of_few(random, 2 * len(rows), count, np.full((2 * len(rows), 1), reach), dtype)[1::2]  # those with a pair
    values[rows[:, None], begin[:, None] + np.arange(count)] = few


def positive(columns: int, length: int, dtype: str, seed: int) -> np.ndarray:
    """values[columns, length] whose squares are added: nothing cancels among them, so all that tells orders apart is how they round."""
    random = np.random.default_rng([seed, length])
    sizes = random.uniform(1, 2, (columns, length)) * np.exp2(np.floor(random.uniform(-2, 3, (columns, length))))
    return rounded(np.where(random.random((columns, length)) < 0.5, -sizes, sizes), dtype).astype(np.float64)


def ordinary(columns: int, length: int, dtype: str, seed: int) -> np.ndarray:
    """values[columns, length] as a model has them, normally distributed: an op may add such otherwise than what shows an order best."""
    random = np.random.default_rng([seed, length])
    return rounded(random.standard_normal((columns, length)), dtype).astype(np.float64)


def of_few(random: np.random.Generator, columns: int, length: int, spread: np.ndarray, dtype: str) -> np.ndarray:
    """The values for so few summands that triples leave next to nothing: numbers of any size, and in the columns that span many
    binades one pair that cancels and that is larger than all others, so that what joins between its two is lost."""
    low, high = np.repeat(-spread, length, axis=1), np.repeat(spread, length, axis=1)
    wide = np.arange(1, columns, 2) if length > 2 else np.arange(0)
    place = np.argsort(random.random((columns, length)), axis=1)[wide, :2]
    high[wide] = 0
    low[wide[:, None], place], high[wide[:, None], place] = spread[wide] // 2, spread[wide]
    sizes = np.exp2(np.floor(random.uniform(low, high))) * random.uniform(1, 2, (columns, length))
    values = rounded(np.where(random.random((columns, length)) < 0.5, -1.0, 1.0) * sizes, dtype).astype(np.float64)
    if len(wide):
        values[wide, place[:, 1]] = -values[wide, place[:, 0]]
    return values
