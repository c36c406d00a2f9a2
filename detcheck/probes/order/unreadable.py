"""Bundled ops whose order of additions no masks can show: each says why (`Op.order`), and that is looked at on the op as it runs here,
at this batch size and thread count. Where it does not hold, that is said instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from detcheck import lookup
from detcheck.harness import device as _device
from detcheck.harness import user_op
from detcheck.probes.order.sums import OpError

if TYPE_CHECKING:
    import torch


def why(name: str, op: Callable[..., torch.Tensor], rows: int, dtype: str, seed: int, device: str = "cpu") -> str:
    """The reason, and whether the op shows it here. Raises OpError."""
    import torch

    bundled = lookup.find("kernels", name).OP
    reason = bundled.order
    try:
        with torch.no_grad():
            made = bundled.make(bundled.shapes[0], rows, getattr(torch, dtype), seed)
            holds = reason.holds(op, _device.moved(made, device))
    except Exception as error:  # as in Sums: an op may raise anything
        raise OpError(f"raised {user_op.words(error)}") from error
    if holds:
        return f"{reason.text} (seen here: {reason.seen})"
    return f"it was not read: it is held for one of which this is true: {reason.text}; but this was not seen here: {reason.seen}"
