"""All orders of addition within one call of an op, each at its own outputs: revealed, re-added, put into facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from detcheck.hashes import content_hash
from detcheck.probes.order import pairs, triples
from detcheck.probes.order.confirm import Confirmation, same
from detcheck.probes.order.counting import read, through
from detcheck.probes.order.facts import Place, Proved, Repeats, Revealed
from detcheck.probes.order.sums import OpError, Sums
from detcheck.reason import Reason
from detcheck.summation.arithmetic import MANTISSA, Adds, cancelling, ordinary, positive
from detcheck.summation.tree import Tree, UnreadError

COLUMNS = 1024  # of data that the revealed order is re-added on
REPEATS, MORE = 2, 20  # equal calls, and how many where those differed
AT_ONCE = 65  # children of a node, at most: no matrix unit adds more
# Rows of data that tell outputs apart, and how many for sums so short that calls cost nothing.
ALIKE, MANY, SHORT = 2, 8, 512
ORDINARY = 64  # sums of ordinary numbers: where an order rounds as another, it is seldom in all of them. Of results that keep few bits, COLUMNS
OF_SQUARES = 64  # squares do not cancel, so that two orders often round alike
PLACES, LISTED = 6, 64  # orders within one call that are revealed, and that are told apart


class Revealer:
    """Reveals orders of calls in one dtype. It remembers data, and orders: the next call often has the same."""

    def __init__(self, dtype: str, seed: int, prove: bool) -> None:
        self._dtype, self._seed, self._prove = dtype, seed, prove
        self._data: dict[tuple[int, bool], tuple[np.ndarray, np.ndarray, Confirmation]] = {}
        self._ordinary: dict[tuple[int, int], np.ndarray] = {}
        self._last: dict[tuple[int, bool], Tree] = {}
        self._proved: dict[object, Proved | None] = {}

    def forget(self) -> None:
        """Another implementation is asked next: what was read and proved was of the one before."""
        self._last.clear()
        self._proved.clear()

    def orders(self, sums: Sums) -> Iterator[tuple[Place, Revealed, int, float]]:
        """Every order within one call: where, which, calls that it took, seconds in the op so far. Raises OpError."""
        values, factors, _ = self._data_of(sums)
        sums.multiply_by(factors)
        telling = values[self._telling(sums)]
        sums.base(telling[0])
        given = [argument.clone() for argument in sums.arguments]
        repeats, first = self._repeats(sums, REPEATS)
        everywhere = Place(tuple(range(sums.rows)), tuple(range(sums.columns)))
        wrote = any(not now.equal(before) for now, before in zip(sums.arguments, given, strict=True))
        del given  # as large as the op's weight
        if wrote:
            yield everywhere, Revealed(sums.length, why=Reason("writes")), sums.calls, sums.op_s
            return
        if repeats.distinct > 1:
            repeats, _ = self._repeats(sums, MORE)
            yield everywhere, unsteady(sums.length, repeats), sums.calls, sums.op_s
            return
        results, before = [first], 0
        for row in telling[1:]:
            sums.base(row)
            results.append(sums.result())
        places = alike(results)
        if len(places) > LISTED:
            raise OpError(f"adds in {len(places)} orders within one call of {sums.rows} rows, or in none that stays")
        for n, place in enumerate(places):
            if n < PLACES:
                for part, order in self._within(sums, place):
                    yield part, order, sums.calls - before, sums.op_s
                    before = sums.calls
            else:
                bits = content_hash(b"".join(r[place.rows[0], place.columns[0]].tobytes() for r in results))
                unread = Revealed(sums.length, bits=bits, why=Reason("more_orders", {"most": PLACES}))
                yield place, unread, 0, sums.op_s

    def _telling(self, sums: Sums) -> slice:
        """Rows of the data by which outputs are told apart: in half precision those that span many binades, since sums are kept wider."""
        if sums.squared:
            return slice(OF_SQUARES)
        if MANTISSA[self._dtype] < MANTISSA["float32"]:
            return slice(1, 4 * (MANY - 1), 4)
        return slice(ALIKE if sums.length > SHORT else MANY)

    def _through(self, sums: Sums, place: Place) -> np.ndarray:
        """The data in all sums of the place. Equal calls: what stands in other sums is the same each time too."""
        values, factors, _ = self._data_of(sums)
        sums.multiply_by(factors)
        if len(sums.slots_of(place)) < sums.slots:
            sums.base(values[0])
        return through(sums, place, values, everywhere=True)

    def _within(self, sums: Sums, place: Place) -> Iterator[tuple[Place, Revealed]]:
        """What was seen of outputs that looked alike: (where, which) of each order. Rows that all of the data tells apart are two."""
        came, slots = self._through(sums, place), sums.slots_of(place)
        slots = slots[: (came.shape[1] - 1) % len(slots) + 1]  # those of the last call
        steady = same(sums.of(place, sums.result(), slots), came[:, -len(slots) :]).all()
        unlike: dict[bytes, list[int]] = {}
        for row, sent in enumerate(came):
            unlike.setdefault(sent.tobytes(), []).append(row)
        for at in unlike.values():
            part = Place(tuple(place.rows[row] for row in at), place.columns) if len(unlike) > 1 else place
            yield part, self._sure(sums, part, came[at], steady)

    def _sure(self, sums: Sums, place: Place, came: np.ndarray, steady: bool) -> Revealed:
        """One order. `steady`: the data gave the same when it was there again."""
        order = self._read(sums, place, came) if steady else Revealed(sums.length)
        if order.sure:
            return order
        # A doubt may come of an op that now and then adds otherwise: the data goes through again, and then again and again.
        apart = ~same(self._through(sums, place), came).all(0)
        room = len(sums.slots_of(place))
        calls, left = -(-len(apart) // room), len(set((np.flatnonzero(apart) // room).tolist()))
        repeats, _ = self._repeats(sums, MORE)
        if steady and not left and repeats.distinct == 1:
            return order
        return unsteady(sums.length, Repeats(repeats.calls + 2 * calls, repeats.distinct, repeats.left + left))

    def _read(self, sums: Sums, place: Place, came: np.ndarray) -> Revealed:
        """Its order, read and re-added. `came`: what the data gave."""
        confirmation = self._data_of(sums)[2]
        bits = content_hash(came[0, :COLUMNS].tobytes())
        key = sums.length, sums.squared
        try:
            tree, _ = (triples.read if sums.squared else read)(sums, place, self._seed, self._last.get(key))
        except UnreadError as error:
            return Revealed(sums.length, bits=bits, why=error.reason)
        if tree.arity > AT_ONCE:
            return Revealed(sums.length, bits=bits, why=Reason("at_once", {"summands": tree.arity}))
        self._last[key] = tree
        order, way = confirmation.checked(tree, sums, place, came)
        order = replace(order, bits=bits)
        if way and not self._of_ordinary(tree, way, sums, place):
            return replace(order, sure=False, why=Reason("not_of_ordinary", {"tree": tree.hash}))
        if self._prove and order.sure:
            import torch

            asked = tree.hash, place, sums.rows, torch.get_num_threads()
            if asked not in self._proved:  # equal conditions were asked already: what is revealed again is the order
                self._proved[asked] = pairs.prove(sums, place, tree)
            proved = self._proved[asked]
            if proved is None:
                return replace(order, sure=False, proved=Proved(), why=Reason("unproved"))
            order = replace(order, proved=proved)
            if proved.unlike:
                why = Reason("meets_elsewhere", {"pairs": proved.pairs, "unlike": proved.unlike})
                order = replace(order, sure=False, why=why)
        return order

    def _of_ordinary(self, tree: Tree, way: Adds, sums: Sums, place: Place) -> bool:
        """Whether a sure order is also that of ordinary numbers, in a call that holds no others: masks and data that cancels are not what a model has."""
        _, factors, confirmation = self._data_of(sums)
        key = COLUMNS if sums.precision < MANTISSA["float32"] else ORDINARY, sums.length
        if key not in self._ordinary:
            self._ordinary[key] = ordinary(*key, self._dtype, self._seed)
        values = self._ordinary[key]
        sums.multiply_by(factors)
        sums.base(values[0])
        return confirmation.holds(tree, way, sums, values, through(sums, place, values, everywhere=True))

    def _repeats(self, sums: Sums, times: int) -> tuple[Repeats, np.ndarray]:
        """Equal calls, on the data that is in place; and the last result."""
        each = Counter()
        for _ in range(times):
            each[(result := sums.result()).tobytes()] += 1
        return Repeats(times, len(each), times - max(each.values())), result

    def _data_of(self, sums: Sums) -> tuple[np.ndarray, np.ndarray, Confirmation]:
        """Values and factors for sums of that length, and what re-adds them."""
        key = sums.length, sums.squared
        if key not in self._data:
            values, factors = cancelling(COLUMNS, sums.length, self._dtype, self._seed)
            values = positive(COLUMNS, sums.length, self._dtype, self._seed) if sums.squared else values
            self._data[key] = values, factors, Confirmation(values, factors, self._dtype)
        return self._data[key]


def alike(results: Sequence[np.ndarray]) -> list[Place]:
    """Outputs that equal data gave equal bits, each time: one order, until re-adding says otherwise. Every output is in one place.

    `results`: what some rows of the data gave everywhere. Rows share a place where the same columns of theirs are alike.
    """
    keys = np.zeros(results[0].shape, np.int64)
    for result in results:
        _, which = np.unique(result.view(np.int64), return_inverse=True)
        _, keys = np.unique(keys * (1 + which.max()) + which.reshape(keys.shape), return_inverse=True)
        keys = keys.reshape(result.shape)
    kinds: dict[bytes, list[int]] = {}
    for row, key in enumerate(keys):
        kinds.setdefault(key.tobytes(), []).append(row)
    found: dict[tuple[int, bytes], list[int]] = {}
    for rows in kinds.values():
        for key in dict.fromkeys(keys[rows[0]].tolist()):
            found.setdefault((key, (keys[rows[0]] == key).tobytes()), []).extend(rows)
    return [
        Place(tuple(sorted(rows)), tuple(np.flatnonzero(np.frombuffer(at, bool)).tolist()))
        for (_, at), rows in found.items()
    ]


def unsteady(length: int, repeats: Repeats) -> Revealed:
    """Of calls that were seen to differ, though more of them may not have."""
    seen = Repeats(repeats.calls, max(2, repeats.distinct), max(1, repeats.left))
    return Revealed(length, repeats=seen, why=Reason("unsteady"))
