"""In which order a guilty product adds, alone and in the batch: read as `detcheck order` reads it, and said only where it is sure.

Where it cannot be read, or re-adding does not give the product's own bits, nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from detcheck.adders import MANTISSA, cancelling
from detcheck.probes._confirm import Confirmation
from detcheck.probes._reading import NotASumError, read, through
from detcheck.probes._sums import OpError, Place, Sums
from detcheck.tree_fold import fold
from detcheck.tree_words import words
from detcheck.trees import NotATreeError

if TYPE_CHECKING:
    import torch

PRODUCTS = ("aten::mm", "aten::addmm")
COLUMNS = 1024  # of data that the order is re-added on


def orders(
    op: str, function: Callable[..., Any], alone: Sequence[torch.Tensor], batch: Sequence[torch.Tensor], row: int
) -> dict[str, str]:
    """{"alone": ..., "batch": ...}: the tree of additions in words, of the row alone and of row `row` of the batch.

    The arguments are copies that masks are written into, of the same sizes, strides and alignment: the order follows these.
    """
    said = {}
    for arm, arguments, at in (("alone", alone, 0), ("batch", batch, row)) if op in PRODUCTS else ():
        *bias, a, b = arguments
        nothing = [c.new_zeros(c.shape) for c in bias]
        if found := ask(lambda *given, nothing=nothing: function(*nothing, *given), a, b, at):
            said[arm] = found
    return said


def ask(function: Callable[..., Any], a: torch.Tensor, b: torch.Tensor, row: int) -> str:
    """The order of one row of function(a[M, K], b[K, N]), in words with its hash; "" where it is not sure."""
    sums = Sums(lambda: function(a, b), b.t(), a, a.shape[0], b.shape[1], "columns")
    place = Place((row,), tuple(range(sums.columns)))
    if sums.dtype not in MANTISSA:
        return ""
    values, factors = cancelling(COLUMNS, sums.length, sums.dtype, 0)
    try:
        sums.multiply_by(factors)
        came = through(sums, place, values)
        tree, _ = read(sums, place, 0)
        facts = Confirmation(values, factors, sums.dtype).checked(tree, sums, place, came)
    except (NotASumError, NotATreeError, OpError):
        return ""
    return f"{words(fold(tree))} ({tree.hash})" if facts.get("sure") else ""
