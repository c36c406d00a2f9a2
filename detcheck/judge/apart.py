"""How far a row's numbers are from those that it has alone, by what was done to it: rounding, padding and neighbours differ in size. Pure.

Another order of the same sums moves the last digits. What a mask lets through, or a scale that is taken over somebody else's numbers too,
moves the first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import sqrt

import numpy as np

from detcheck.bits import floats_of
from detcheck.condition_name import kind_of
from detcheck.dtypes import EPSILON
from detcheck.judge.aspects import OTHERS_BESIDE, place_in_batch
from detcheck.judge.statistics import divergence
from detcheck.judge.tally import Tally
from detcheck.records import Condition, Outcome

MORE = 32  # times as far as in batches of equal lengths: more than rounding has been seen to do here


def apart(tally: Tally, outcomes: Mapping[str, Outcome], dtype: str) -> dict[str, object]:
    """Evidence: `apart` (way -> how far at most; 0.0: not at all), `largest` (of the row's numbers), `beyond_rounding` (ways).

    {} where the prompt alone has no bits of its own, or no numbers differ. `dtype`: that the model computes in.
    """
    pairs = by_way(tally)
    lone = {outcome for _, outcome in pairs.pop("alone", ())}
    if len(lone) != 1:
        return {}
    alone = lone.pop()
    found: dict[str, float] = {}
    for way, compared in pairs.items():
        distances = [distance(outcomes[one or alone], outcomes[other]) for one, other in compared]
        if numbers := [d for d in distances if d is not None]:
            found[way] = max(numbers)
    if not any(found.values()):
        return {}
    largest = scale(outcomes[alone])
    beyond = beyond_rounding(found, largest, dtype)
    if not outcomes[alone].dtype and "batches" in beyond:
        beyond.remove("batches")  # from token to token of a completion rounding grows
    return {"apart": found, "largest": largest, "beyond_rounding": beyond}


def by_way(tally: Tally) -> dict[str, set[tuple[str, str]]]:
    """Way -> (outcome to compare with, "" for the row alone; outcome). Neighbours are compared with others in the same places."""
    pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
    beside = {place_in_batch(c): found for c, found in tally.conditions.items() if way_of(c) == "batches"}
    for condition, found in tally.conditions.items():
        way = way_of(condition)
        others = beside.get(place_in_batch(condition), ()) if way == "neighbours" else ("",)
        if way:
            pairs[way] |= {(other, outcome) for other in others for outcome in found}
    return pairs


def way_of(c: Condition) -> str:
    """What was done to the row; "" where its batch is not known, or it was fed in another way."""
    if c.batch_size is None or c.trace or c.fed not in ("", "padding"):
        return ""
    kind = kind_of(c.name)
    if c.fed:
        return "padding"
    if kind == "ragged":
        return "unequal lengths"
    if kind in OTHERS_BESIDE:
        return "neighbours"
    return "batches" if c.batch_size > 1 else "alone"


def distance(a: Outcome, b: Outcome) -> float | None:
    """The numbers furthest apart: elements, or log-probabilities of tokens that both share. None where nothing tells."""
    if a.id == b.id:
        return 0.0
    numbers = [] if (far := divergence(a, b).max_abs) is None else [far]
    if (
        a.apart is not None and b.apart is not None and not a.apart.any() and not a.names
    ):  # positions before the last, from the prompt alone
        numbers += b.apart[1][np.isfinite(b.apart[1])].tolist()
    return max(numbers, default=None)


def scale(outcome: Outcome) -> float:
    """The largest of the row's numbers; of log-probabilities it is a nat at least."""
    numbers = floats_of(outcome.tokens, outcome.dtype) if outcome.dtype else outcome.logprobs
    finite = np.abs(numbers[np.isfinite(numbers)])
    return float(max(finite.max(initial=0.0), 0.0 if outcome.dtype else 1.0))


def beyond_rounding(found: Mapping[str, float], largest: float, dtype: str) -> list[str]:
    """Ways that cost more than half of a number's digits; of padding, far more than a batch of equal lengths does."""
    least = largest * sqrt(EPSILON.get(dtype, 1.0))
    usual = MORE * found.get("batches", 0.0)
    return [way for way, far in found.items() if far > least and (way in ("batches", "neighbours") or far > usual)]
