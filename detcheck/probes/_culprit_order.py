"""In which order a guilty product adds, alone and in the batch: the one place where what `detcheck order` is made of is asked.

Where it is not there, or cannot read this product, nothing is said of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from detcheck import lookup

if TYPE_CHECKING:
    import torch

PRODUCTS = ("aten::mm", "aten::addmm")
Ask = Callable[[Callable[..., Any], "torch.Tensor", "torch.Tensor", int], str]


def orders(
    op: str, function: Callable[..., Any], alone: Sequence[torch.Tensor], batch: Sequence[torch.Tensor], row: int
) -> dict[str, str]:
    """{"alone": ..., "batch": ...}: the tree of additions in words, of the row alone and of row `row` of the batch.

    The arguments are copies that masks are written into, of the same sizes, strides and alignment: the order follows these.
    """
    ask = reader() if op in PRODUCTS else None
    said = {}
    for arm, arguments, at in (("alone", alone, 0), ("batch", batch, row)) if ask else ():
        *bias, a, b = arguments
        nothing = [c.new_zeros(c.shape) for c in bias]
        if words := ask(lambda *given, nothing=nothing: function(*nothing, *given), a, b, at):
            said[arm] = words
    return said


def reader() -> Ask | None:
    """What reads the order of one row of function(a[M, K], b[K, N]); None where there is no such part."""
    if "order" not in lookup.names("probes"):
        return None
    sums, reading, trees, folds, wording = (
        importlib.import_module(f"detcheck.{name}")
        for name in ("probes._sums", "probes._reading", "trees", "tree_fold", "tree_words")
    )

    def ask(function: Callable[..., Any], a: torch.Tensor, b: torch.Tensor, row: int) -> str:
        asked = sums.Sums(lambda: function(a, b), b.t(), a, a.shape[0], b.shape[1], "columns")
        try:
            tree, _ = reading.read(asked, sums.Place((row,), tuple(range(asked.columns))), 0)
        except (reading.NotASumError, trees.NotATreeError, sums.OpError):
            return ""
        return f"{wording.words(folds.fold(tree))} ({tree.hash})"

    return ask
