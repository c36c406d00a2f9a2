"""Whether what was compared is anything but NaN: a model that overflowed gives the same NaN everywhere, and equal bits of it say nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from detcheck.bits import floats_of
from detcheck.records import Outcome

FLOATS = ("float16", "bfloat16", "float32", "float64")
ONLY_NAN = "each number is NaN, so nothing was compared: look at why the model overflows, or let it compute in float32"


def seen(outcomes: Iterable[Outcome]) -> dict[str, bool]:
    """Evidence; {} unless all numbers of all outcomes are NaN."""
    found = [numbers for o in outcomes if (numbers := numbers_of(o)) is not None and len(numbers)]
    return {"only_nan": True} if found and all(np.isnan(numbers).all() for numbers in found) else {}


def numbers_of(outcome: Outcome) -> np.ndarray | None:
    """None: it has tokens alone."""
    if outcome.dtype in FLOATS:
        return floats_of(outcome.tokens, outcome.dtype)
    return outcome.logprobs


def doubt(evidence: Mapping[str, object]) -> str:
    """Why equal samples are no pass; "" where there is no reason."""
    return ONLY_NAN if evidence.get("only_nan") else ""
