"""How many summands came in before two of them met, read off the result of an op, and the tree that these counts make.

A huge number at i, its negative at j, and one everywhere else: whatever is added to either before they meet is swallowed, they
cancel, and the result counts the rest. What a count needs of range and precision is looked for, not assumed: first whether the op
adds at all (units count, one by one and all together, and the huge number swallows them), then how exactly a count comes out.

    plain    the result holds every count up to its length exactly
    rest     the result rounds counts (bfloat16 beyond 256): a guess at the count is taken off at a summand that is known to join
             later; a rest that is small enough is exact, and a larger one makes the next guess
    blocks   the sum itself is kept so narrow that units stop counting: units stand in one block at a time
"""

from __future__ import annotations

import numpy as np

from detcheck.probes.order.facts import Place
from detcheck.probes.order.sums import Sums
from detcheck.summation.tree import NotATreeError, Tree, UnreadError, reveal

# dtype -> (unit, huge) to try in turn. A huge one must swallow all units of a sum, also where it is kept in float64. float16
# has no room for that; its second pair is for sums that are kept in float16, where the first would overflow no less.
MASKS = {
    "float64": ((1.0, 2.0**600),),
    "float32": ((1.0, 2.0**100),),
    "bfloat16": ((1.0, 2.0**100),),
    "float16": ((2.0**-23, 2.0**15), (2.0**-9, 2.0**15)),
}
SINGLES = 5  # summands that are looked at one by one
GUESSES = 4  # at a count, at most
EXACT = 0.25  # how far from a whole number a count may be read


# dtype -> the smallest number that it holds. So many times that, a number has all its bits.
TINY = {"float64": 2.0**-1074, "float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}


class NotASumError(UnreadError):
    """The op's results are not those of adding its summands up."""


class NoRoomError(NotASumError):
    """The dtype has too little range to tell."""


class CountReader:
    """Counts of one place of an op, by one pair of masks and one way to read."""

    def __init__(
        self, sums: Sums, place: Place, unit: float, huge: float, how: str, likely: Tree | None = None
    ) -> None:
        """`likely`: an order that was found before; counts are guessed by it, and read to the last unit all the same."""
        self._sums, self._place, self._unit, self._huge, self._how = sums, place, unit, huge, how
        self._slots = sums.slots_of(place)
        self._likely = likely
        self._side: np.ndarray | None = None
        """of each summand: whether it met the first pivot before the root"""
        self._pivot = self._other = 0
        bits = sums.precision
        self._limit = 2 ** (
            bits
            if (sums.scale in (1.0, 1 / sums.length) and is_power_of_two(sums.length)) or sums.scale == 1.0
            else bits - 3
        )
        self._block = max(1, 2 ** (bits - 2))

    def ask(self, i: np.ndarray, j: np.ndarray, most: np.ndarray) -> np.ndarray:
        """Leaves of the subtree in which i[n] and j[n] meet."""
        counts = (
            {"plain": self._counts, "blocks": self._in_blocks}[self._how](i, j)
            if self._how != "rest"
            else self._by_rest(i, j, most)
        )
        nearest = np.round(counts)
        with np.errstate(invalid="ignore"):
            odd = ~(np.abs(counts - nearest) <= EXACT) | (nearest < 0) | (nearest > self._sums.length - 2)
        if odd.any():
            n = int(np.flatnonzero(odd)[0])
            raise NotATreeError("odd_count", i=i[n], j=j[n], count=counts[n])
        return self._sums.length - nearest.astype(np.int64)

    def _counts(
        self,
        i: np.ndarray,
        j: np.ndarray,
        base: np.ndarray | None = None,
        extra: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Units in the results, as they come. `base`: whether a summand is a unit; `extra`: (summand, value) of one more."""
        sums, width = self._sums, len(self._slots)
        if base is None:
            sums.fill(self._unit)
        else:
            sums.base(base * self._unit)
        found = np.empty(len(i))
        for begin in range(0, len(i), width):
            part = slice(begin, begin + width)
            a, b = i[part], j[part]
            slots = self._slots[: len(a)]
            if extra:
                sums.put(slots, extra[0][part], extra[1][part])
            sums.put(slots, a, self._huge)
            sums.put(slots, b, -self._huge)
            found[part] = sums.of(self._place, sums.result(), slots)[0]
            if begin + width < len(i):
                for leaves in (a, b, *((extra[0][part],) if extra else ())):
                    sums.put(slots, leaves, self._unit if base is None else base[leaves] * self._unit)
        return found / (sums.scale * self._unit)

    def _by_rest(self, i: np.ndarray, j: np.ndarray, most: np.ndarray) -> np.ndarray:
        n, dtype = self._sums.length, self._sums.dtype
        if self._side is None:  # the first round: one pivot against all others
            counts = self._counts(i, j)
            met_at_root = counts == 0
            if not met_at_root.any():
                raise NotATreeError("no_last", pivot=i[0])
            self._side = np.ones(n, bool)
            self._side[j[met_at_root]] = False
            self._pivot, self._other = int(i[0]), int(j[met_at_root][0])
            guess, vague = counts, np.zeros(len(i), bool)
        else:
            # Without a likely one: fewer than come in if all of their group do, so that what is left is never nothing.
            fewest = np.maximum(0, (n - most - 2) * (1 - 2.0 ** (1 - self._sums.precision)))
            guess = n - self._likely.meets(i, j) if self._likely else fewest
            counts, vague = np.full(len(i), np.nan), np.ones(len(i), bool)
        emptied = np.full(len(i), -1.0)  # what was taken off when nothing was left
        exact = counts < self._limit  # the limit itself may be its neighbour, rounded
        for _ in range(GUESSES):
            left = np.flatnonzero(~exact)
            if not len(left):
                return counts
            hoped = np.round(guess[left])
            taken = in_dtype(hoped, dtype)
            taken = np.where(taken + 1 == hoped, in_dtype(taken * 1.01 + 1, dtype), taken)
            leaf = np.where(self._side[i[left]], self._other, self._pivot)
            rest = self._counts(i[left], j[left], extra=(leaf, -taken * self._unit))
            counts[left] = rest + taken + 1
            # Two that meet at the root swallow what is taken off too. So nothing left means that, or a guess that is right by chance:
            # the next one takes off another number, and nothing left again means the root.
            nothing = (rest == 0) & vague[left]
            at_root = nothing & (emptied[left] >= 0) & (emptied[left] != taken)
            counts[left[at_root]] = 0
            exact[left] = (np.abs(rest) < self._limit) & (~nothing | at_root)
            emptied[left] = np.where(nothing, taken, -1)
            guess = counts.copy()
        raise NotATreeError("vague_count", i=i[left[0]], j=j[left[0]])

    def _in_blocks(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        total = np.zeros(len(i))
        for begin in range(0, self._sums.length, self._block):
            base = np.zeros(self._sums.length)
            base[begin : begin + self._block] = 1
            counts = self._counts(i, j, base)
            if not (np.abs(counts - np.round(counts)) <= EXACT).all():
                raise NotATreeError("odd_block", first=begin, last=begin + self._block - 1, count=counts[0])
            total += np.round(counts)
        return total


def is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def in_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    from detcheck.summation.arithmetic import rounded

    return rounded(values, dtype).astype(np.float64)


def calibrate(sums: Sums, place: Place, unit: float, huge: float, seed: int) -> float:
    """What a summand of 1 adds to the result. Raises NotASumError where results are not those of a sum."""
    n = sums.length
    random = np.random.default_rng([seed, n])
    singles = sorted({0, n - 1, *(int(k) for k in random.integers(n, size=SINGLES))})
    some = np.sort(random.permutation(n)[: max(1, n // 2)])
    few = np.sort(random.permutation(n)[: max(1, min(n // 3, 2 ** (sums.precision - 4)))])
    patterns = [np.zeros(n), np.ones(n)]
    patterns += [np.bincount([k], minlength=n).astype(float) for k in singles]
    patterns += [np.bincount(chosen, minlength=n).astype(float) for chosen in (some, few)]
    values = np.stack(patterns) * unit
    swallow = n > 2
    if swallow:
        huge_one = np.full((1, n), unit)
        huge_one[0, singles[1]] = huge
        values = np.concatenate([values, huge_one])
    sums.multiply_by(1.0)
    found = through(sums, place, values)[0]
    one = found[2] / unit
    if found[0] != 0 or not np.isfinite(found[: len(patterns)]).all():
        raise NotASumError("zeros", came=found[0])
    if one == 0 and unit < 1:
        raise NoRoomError("unit_is_nothing", unit=unit, out=sums.out)
    if one == 0:
        raise NotASumError("one_is_nothing", unit=unit)
    if abs(one * unit) < 2.0 ** (sums.precision - 1) * TINY[sums.out] and one != round(one):
        raise NoRoomError("unit_keeps_little", unit=unit, came=one * unit, out=sums.out)
    scale = 1 / n if abs(one * n - 1) < 2.0 ** (1 - sums.precision) and n > 1 else float(one)
    for pattern, came in zip(patterns[1:], found[1:], strict=False):
        count = int(pattern.sum())
        expected = scale * unit * count
        # A rounding for the result and one for the scale, and of each addition where units are scaled to no power of two first; a sum
        # that is kept too narrow stops counting, which `blocks` is for.
        roundings = 4 if np.frexp(scale)[0] == 0.5 else max(4, min(count / 8, 2.0 ** (sums.precision - 6)))
        allowed = abs(expected) * roundings * 2.0**-sums.precision
        saturates = count > 2 ** (sums.precision - 4) and 0 < came / (scale * unit) <= count
        if abs(came - expected) > allowed and not (saturates and came / (scale * unit) >= 2 ** (sums.precision - 1)):
            raise NotASumError("not_added_up", count=count, came=came / unit, one=one)
    if (
        swallow
        and not found[-1] == scale * huge
        and not abs(found[-1] / (scale * huge) - 1) < 2.0 ** (2 - sums.precision)
    ):
        raise NotASumError("huge", huge=huge, came=found[-1])
    return scale


def through(sums: Sums, place: Place, values: np.ndarray, everywhere: bool = False) -> np.ndarray:
    """values[n, length] as summands of the place's sums, as many a call as fit: [rows of the place or 1, n].

    `everywhere`: where the place has more sums than there are values, these come again, so that none goes without: [..., sums].
    """
    slots, n = sums.slots_of(place), len(values)
    count, found = max(n, len(slots)) if everywhere else n, []
    for begin in range(0, count, len(slots)):
        used = slots[: count - begin]
        for first in range(0, len(used), n):
            part = used[first : first + n]
            at = (begin + first) % n
            sums.load(
                part, values[at : at + len(part)] if at + len(part) <= n else values[(at + np.arange(len(part))) % n]
            )
        found.append(sums.of(place, sums.result(), used))
    return np.concatenate(found, axis=1)


def read(sums: Sums, place: Place, seed: int, likely: Tree | None = None) -> tuple[Tree, str]:
    """The tree of the place's sums, and how it was read. A `likely` one saves calls. Raises NotASumError, NotATreeError."""
    troubles: list[UnreadError] = []
    for unit, huge in MASKS[sums.dtype]:
        try:
            sums.scale = calibrate(sums, place, unit, huge, seed)
        except NotASumError as error:
            troubles.append(error)
            continue
        narrow = sums.length > 2 ** (sums.precision - 3)
        for how in ("rest", "blocks") if narrow else ("plain",):
            try:
                reader = CountReader(sums, place, unit, huge, how, likely)
                return reveal(sums.length, reader.ask, seed, len(sums.slots_of(place))), how
            except NotATreeError as error:
                troubles.append(error)
    raise next((trouble for trouble in troubles if isinstance(trouble, NoRoomError)), troubles[-1])
