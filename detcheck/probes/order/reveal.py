"""All orders of addition within one call of an op, each at its own outputs: revealed, re-added, put into facts."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from detcheck.hashes import content_hash
from detcheck.probes.order import pairs, triples
from detcheck.probes.order.confirm import Confirmation, same
from detcheck.probes.order.counting import NoRoomError, NotASumError, read, through
from detcheck.probes.order.sums import OpError, Place, Sums
from detcheck.summation.arithmetic import MANTISSA, cancelling, positive
from detcheck.summation.tree import NotATreeError, Tree

COLUMNS = 1024  # of data that the revealed order is re-added on
REPEATS, MORE = 2, 20  # equal calls, and how many where those differed
UNSTEADY = "equal calls gave different bits"
AT_ONCE = 65  # children of a node, at most: no matrix unit adds more
# Rows of data that tell outputs apart, and how many for sums so short that calls cost nothing.
ALIKE, MANY, SHORT = 2, 8, 512
OF_SQUARES = 64  # squares do not cancel, so that two orders often round alike
PLACES, LISTED = 6, 64  # orders within one call that are revealed, and that are told apart
UNREAD = f"more than {PLACES} orders within one call: the others are told apart, not read"
UNPROVED = "--prove was asked for, and what sums are multiplied by leaves counts too few bits in the result"
WRITES = "it writes over its arguments, so no call is like another: give it copies"


class Revealer:
    """Reveals orders of calls in one dtype. It remembers data, and orders: the next call often has the same."""

    def __init__(self, dtype: str, seed: int, prove: bool) -> None:
        self._dtype, self._seed, self._prove = dtype, seed, prove
        self._data: dict[tuple[int, bool], tuple[np.ndarray, np.ndarray, Confirmation]] = {}
        self._last: dict[tuple[int, bool], Tree] = {}
        self._proved: dict[object, dict[str, int] | None] = {}

    def orders(self, sums: Sums) -> Iterator[tuple[Place, dict[str, object], int, float]]:
        """Every order within one call: where, facts, calls that it took, seconds in the op so far. Raises OpError."""
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
            yield everywhere, blank(sums.length) | {"why": WRITES}, sums.calls, sums.op_s
            return
        if repeats["distinct"] > 1:
            repeats, _ = self._repeats(sums, MORE)
            facts = blank(sums.length) | {"repeats": unsteady(repeats), "why": UNSTEADY}
            yield everywhere, facts, sums.calls, sums.op_s
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
                for part, facts in self._facts(sums, place):
                    yield part, facts, sums.calls - before, sums.op_s
                    before = sums.calls
            else:
                bits = content_hash(b"".join(r[place.rows[0], place.columns[0]].tobytes() for r in results))
                yield place, blank(sums.length) | {"bits": bits, "why": UNREAD}, 0, sums.op_s

    def _telling(self, sums: Sums) -> slice:
        """Rows of the data by which outputs are told apart: in half precision those that span many binades, since sums are kept wider."""
        if sums.squared:
            return slice(OF_SQUARES)
        if MANTISSA[self._dtype] < MANTISSA["float32"]:
            return slice(1, 4 * MANY, 4)
        return slice(ALIKE if sums.length > SHORT else MANY)

    def _through(self, sums: Sums, place: Place) -> np.ndarray:
        """The data in all sums of the place. Equal calls: what stands in other sums is the same each time too."""
        values, factors, _ = self._data_of(sums)
        sums.multiply_by(factors)
        if len(sums.slots_of(place)) < sums.slots:
            sums.base(values[0])
        return through(sums, place, values, everywhere=True)

    def _facts(self, sums: Sums, place: Place) -> Iterator[tuple[Place, dict[str, object]]]:
        """What was seen of outputs that looked alike: (where, facts) of each order. Rows that all of the data tells apart are two."""
        came, slots = self._through(sums, place), sums.slots_of(place)
        slots = slots[: (came.shape[1] - 1) % len(slots) + 1]  # those of the last call
        steady = same(sums.of(place, sums.result(), slots), came[:, -len(slots) :]).all()
        unlike: dict[bytes, list[int]] = {}
        for row, sent in enumerate(came):
            unlike.setdefault(sent.tobytes(), []).append(row)
        for at in unlike.values():
            part = Place(tuple(place.rows[row] for row in at), place.columns) if len(unlike) > 1 else place
            yield part, self._sure(sums, part, came[at], steady)

    def _sure(self, sums: Sums, place: Place, came: np.ndarray, steady: bool) -> dict[str, object]:
        """Facts of one order. Equal facts are one order. `steady`: the data gave the same when it was there again."""
        facts = self._read(sums, place, came) if steady else blank(sums.length)
        if facts["sure"]:
            return facts
        # A doubt may come of an op that now and then adds otherwise: the data goes through again, and then again and again.
        apart = ~same(self._through(sums, place), came).all(0)
        room = len(sums.slots_of(place))
        calls, left = -(-len(apart) // room), len(set((np.flatnonzero(apart) // room).tolist()))
        repeats, _ = self._repeats(sums, MORE)
        if steady and not left and repeats["distinct"] == 1:
            return facts
        repeats |= {"calls": repeats["calls"] + 2 * calls, "left": repeats["left"] + left}
        return blank(sums.length) | {"repeats": unsteady(repeats), "why": UNSTEADY}

    def _read(self, sums: Sums, place: Place, came: np.ndarray) -> dict[str, object]:
        """Its order, read and re-added. `came`: what the data gave."""
        confirmation = self._data_of(sums)[2]
        facts = blank(sums.length) | {"bits": content_hash(came[0, :COLUMNS].tobytes())}
        key = sums.length, sums.squared
        try:
            tree, _ = (triples.read if sums.squared else read)(sums, place, self._seed, self._last.get(key))
        except NoRoomError as error:
            return facts | {"why": f"there is no room for the masks that would show it: {error}"}
        except NotASumError as error:
            return facts | {"why": f"it is no plain sum: {error}"}
        except NotATreeError as error:
            return facts | {"why": f"what was read is no order of additions: {error}"}
        if tree.arity > AT_ONCE:
            return facts | {
                "why": f"{tree.arity} summands seem to be added at once, as where an order depends on the data"
            }
        self._last[key] = tree
        facts |= told(tree)
        facts |= confirmation.checked(tree, sums, place, came)
        if self._prove and facts["sure"]:
            import torch

            asked = tree.hash, place, sums.rows, torch.get_num_threads()
            if asked not in self._proved:  # equal conditions were asked already: what is revealed again is the order
                self._proved[asked] = pairs.prove(sums, place, tree)
            facts["proved"] = self._proved[asked]
            if facts["proved"] is None:
                return facts | {"sure": False, "proved": {"pairs": 0, "unlike": 0}, "why": UNPROVED}
            if wrong := facts["proved"]["unlike"]:
                why = f"of {facts['proved']['pairs']} pairs of summands {wrong} do not meet where it says"
                facts |= {"sure": False, "why": why}
        return facts

    def _repeats(self, sums: Sums, times: int) -> tuple[dict[str, int], np.ndarray]:
        """Equal calls, on the data that is in place: how many results, how many calls left the commonest; and the last result."""
        each = Counter()
        for _ in range(times):
            each[(result := sums.result()).tobytes()] += 1
        return {"calls": times, "distinct": len(each), "left": times - max(each.values())}, result

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


def unsteady(repeats: dict[str, int]) -> dict[str, int]:
    """Of calls that were seen to differ, though more of them may not have."""
    return repeats | {"distinct": max(2, repeats["distinct"]), "left": max(1, repeats["left"])}


@functools.lru_cache(maxsize=64)
def told(tree: Tree) -> dict[str, object]:
    """Facts of a tree: mostly it is that of the condition before."""
    return {"tree": tree.hash, "children": [list(children) for children in tree.nodes]}


def blank(length: int) -> dict[str, object]:
    """Facts of an order of which nothing is known yet."""
    facts: dict[str, object] = dict.fromkeys(("tree", "adds_in", "why", "bits"), "")
    facts |= {"sure": False, "length": length, "children": [], "checked": {"columns": 0, "equal": 0}}
    return facts | {"repeats": {"calls": 0, "distinct": 1, "left": 0}}
