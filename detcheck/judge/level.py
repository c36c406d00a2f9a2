"""How deep a comparison of outcomes goes, and what was counted beside it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from detcheck.counted import alike_in, ours_in, stock_in, unlike_in
from detcheck.judge.statistics import NUMBERS
from detcheck.records import Outcome

LEVELS = {
    "bits": "bits",
    "digits": "tokens, and log-probabilities as they were printed",
    "tokens": "tokens",
    "text": "text",
}


def level(outcomes: Iterable[Outcome]) -> str:
    """How deep a comparison goes: "bits" where every outcome has log-probabilities, else "tokens", or "text" where that is all.

    "digits" where somebody else wrote the log-probabilities down (a file; a server that rounds): they are compared as they stand there.
    """
    compared = list(outcomes)
    if any(o.unit == "character" for o in compared):
        return "text"
    if (
        compared
        and all(o.logprobs is not None for o in compared)
        and any(o.logprobs.dtype == np.float64 for o in compared)
    ):
        return "digits"
    return "bits" if all(o.logprobs is not None or o.unit in NUMBERS for o in compared) else "tokens"


def unit(outcomes: Iterable[Outcome]) -> str:
    """What an index of the finding's figures counts."""
    return next((o.unit for o in outcomes), "token")


def finish_reasons(counts: Counter[str], outcomes: Mapping[str, Outcome]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for name, count in counts.items():
        found[outcomes[name].finish_reason or "not given"] += count
    return dict(found)


def coverage(calls: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Which ops ran batch-invariant kernels, and which others that multiply or reduce ran without, with their calls."""
    found = {"overridden": ours_in(calls), "uncovered": stock_in(calls)}
    asked = {"alike": alike_in(calls), "unlike": unlike_in(calls)}
    return found | {kind: ops for kind, ops in asked.items() if ops}
