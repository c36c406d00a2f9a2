"""Batches around the row under test, of every kind that may not change its bits."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

from detcheck.condition_name import named

OTHERS = 16  # rows of the pool beside the one under test; larger batches hold some of them more than once
LAYOUT_SIZES = (1, 2, 8, 33)  # and the smallest above 1, whatever is asked for: a lone row has no strides to speak of
FED = {"unaligned": "alignment", "strided": "strides"}  # kind of a condition -> `Condition.fed`
SMALL = 17  # thread counts are varied at all sizes up to here, at 33 and at the largest: position and threads meet in small batches


def conditions(sizes: Sequence[int], seed: int, plain: bool, on_cpu: bool = True) -> list[tuple[str, tuple[int, ...]]]:
    """(name, kinds of rows) of every batch to form, small ones first: `sizes` are 1 and others above it, in order. `plain`: copies and other rows are enough."""
    import torch

    planned = [("alone" if size == 1 else named("rows", size), (0,) * size) for size in sizes]
    planned += [(named("mixed", size), among(size, seed, range(1, 1 + OTHERS))) for size in sizes if size > 1]
    if sizes[-1] == 1:  # there are no other rows, but accuracy is still of interest
        planned.append(("mixed-1", (0,)))
    if plain:
        return planned
    planned += [(named("hostile", size), among(size, seed, (-1, -2, -3))) for size in sizes if size > 1]
    here = torch.get_num_threads()
    for count in sorted({1, max(2, os.cpu_count() or 1)} - {here}) if on_cpu else ():
        few = [size for size in sizes if size <= SMALL or size in (33, sizes[-1])]
        planned += [(named("threads", size, count), (0,) * size) for size in few]
    laid_out = [size for size in sizes if size in LAYOUT_SIZES or size == min(sizes[1:], default=1)]
    for kind in FED:
        planned += [(named(kind, size), (0,) * size) for size in laid_out]
    return planned


def among(size: int, seed: int, others: Sequence[int]) -> tuple[int, ...]:
    """A batch of other rows with the row under test at one slot, from size 5 on at both ends and at one between."""
    rng = random.Random(f"{seed}/{size}/{others[0]}")
    rows = [rng.choice(others) for _ in range(size)]
    slots = {0, size - 1, rng.randrange(1, size - 1)} if size > 4 else {rng.randrange(size)}
    for slot in slots:
        rows[slot] = 0
    return tuple(rows)
