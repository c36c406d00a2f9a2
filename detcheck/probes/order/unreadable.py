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
from detcheck.reason import Reason

if TYPE_CHECKING:
    import torch


def why(name: str, op: Callable[..., torch.Tensor], rows: int, dtype: str, seed: int, device: str = "cpu") -> Reason:
    """Of which op the reason is, and whether this one shows it here. Raises OpError."""
    import torch

    bundled = lookup.find("kernels", name).OP
    try:
        with torch.no_grad():
            made = bundled.make(bundled.shapes[0], rows, getattr(torch, dtype), seed)
            holds = bundled.order.holds(op, _device.moved(made, device))
    except Exception as error:  # as in Sums: an op may raise anything
        raise OpError(f"raised {user_op.words(error)}") from error
    return Reason("shown_by_the_op", {"op": name}) if holds else Reason("not_shown_by_the_op", {"op": name})
