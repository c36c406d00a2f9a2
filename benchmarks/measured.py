"""What a benchmark measured, handed to `make bench`: one line a row, as soon as it is known, so that what ends early loses little.

A count that has a goal is recorded when all is counted: "none so far" would meet it. A script that is run by itself prints its lines as before; `record` then does nothing.
"""

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

FILE = "DETCHECK_BENCH"
"""Variable: the file that `bench.py` reads the lines from"""


def record(row: str, figures: Sequence[float], beside: str = "") -> None:
    """`figures`: of each round, in the row's unit. `beside`: what else the same run told, in words. Of a row that is told again the last counts.

    Raises ValueError for a figure that is infinite or NaN: no goal can be met by it.
    """
    if wrong := [figure for figure in figures if not math.isfinite(figure)]:
        raise ValueError(
            f"{row}: {len(wrong)} of {len(figures)} figures are not finite, the first is {float(wrong[0])}"
        )
    if file := os.environ.get(FILE):
        with open(file, "a") as lines:
            lines.write(json.dumps({"row": row, "figures": [float(f) for f in figures], "beside": beside}) + "\n")


def in_turn(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    after: Callable[[Mapping[str, list[float]]], None] = lambda took: None,
) -> dict[str, list[float]]:
    """Seconds of each, a round after the other, every second round backwards: what else the machine does falls on all of them.

    `after` is given what is known after each round, to record it: a script that is stopped has told something then.
    """
    took: dict[str, list[float]] = {name: [] for name in works}
    for n in range(rounds):
        for name, work in list(works.items())[:: -1 if n % 2 else 1]:
            began = clock()
            work()
            took[name].append(clock() - began)
        after(took)
    return took


def ratios(ours: Sequence[float], base: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, base, strict=True)]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))
