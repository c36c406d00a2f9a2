"""1 / (1 + exp(-x)), each element: gates of experts, of state-space layers, and of attention.

Elementwise, and yet stock is not invariant on a CPU in float32, where the elements of the tail take another exp (see silu_mul). Ours fills
the tail up. On a GPU every element is computed by the same instructions, and stock stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._shared import gradients
from detcheck.kernels._shared.rowwise import make_rows, rowwise
from detcheck.kernels._shared.unreadable import ADDS_NOTHING
from detcheck.op import Op

if TYPE_CHECKING:
    import torch


def stock(x: torch.Tensor) -> torch.Tensor:
    return x.sigmoid()


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Each element of x[...]."""
    return rowwise("sigmoid", x if x.ndim else x.view(1), torch_row=stock).view(x.shape)


def reference(x: torch.Tensor) -> torch.Tensor:
    return stock(x.double())


def glu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """The first half of x, gated by the second."""
    first, gate = x.chunk(2, dim)
    return first * sigmoid(gate)


OP = Op(
    "sigmoid", ("67", "1024"), make_rows, stock, reference, sigmoid, order=ADDS_NOTHING,
    aten={"sigmoid": sigmoid, "glu": glu, "sigmoid_backward": gradients.elementwise("sigmoid")},
)  # fmt: skip
