"""In which order a guilty product adds, alone and in the batch: the one place where `detcheck order` is asked.

Where there is no such probe, or it cannot read this product, nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from detcheck import lookup

if TYPE_CHECKING:
    import torch

PRODUCTS = ("aten::mm", "aten::addmm")


def orders(
    op: str, function: Callable[..., Any], alone: Sequence[torch.Tensor], batch: Sequence[torch.Tensor], row: int
) -> dict[str, str]:
    """{"alone": ..., "batch": ...}: the tree of additions in words, of the row alone and of row `row` of the batch.

    `probes/order.py` answers through `of_call(function, arguments, row) -> str`, function(a[M, K], b[K, N]), with copies that it may
    write masks into: of the same sizes, strides and alignment, since the order follows these.
    """
    if op not in PRODUCTS or "order" not in lookup.names("probes"):
        return {}
    ask = getattr(lookup.find("probes", "order"), "of_call", None)
    if ask is None:
        return {}
    said = {}
    for arm, arguments, at in (("alone", alone, 0), ("batch", batch, row)):
        *bias, a, b = arguments
        nothing = [c.new_zeros(c.shape) for c in bias]
        words = ask(lambda *given, nothing=nothing: function(*nothing, *given), (a, b), at)
        if words:
            said[arm] = words
    return said
