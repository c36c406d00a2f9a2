"""Leaves sklearn for later: transformers imports it with every model, for one function that a kind of assisted generation calls."""

from __future__ import annotations

import importlib
import sys
from typing import Any

USER = "transformers.generation.candidate_generator"


def sklearn_later() -> None:
    """Imports `USER` with a `roc_curve` that imports sklearn when it is first called: 1.5 to 2 s of a core less at each start, where sklearn is installed.

    Nothing is left changed: who calls that function gets sklearn's. Does nothing where sklearn or `USER` is there already, or where a
    transformers of another version does it another way.
    """
    if "sklearn" in sys.modules or USER in sys.modules:
        return
    from transformers import utils

    if (available := getattr(utils, "is_sklearn_available", None)) is None or not available():
        return
    utils.is_sklearn_available = lambda: False
    try:
        user = importlib.import_module(USER)
    finally:
        utils.is_sklearn_available = available
    user.is_sklearn_available = available
    user.roc_curve = roc_curve


def roc_curve(*arguments: Any, **named: Any) -> Any:
    from sklearn.metrics import roc_curve as of_sklearn

    return of_sklearn(*arguments, **named)
