"""log(1 + exp(x)), each element: the step sizes and decays of state-space layers.

Elementwise, and yet stock is not invariant on a CPU in float32, where the elements of the tail take other functions (see silu_mul). Ours
fills the tail up. On a GPU every element is computed by the same instructions, and stock stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._shared.rowwise import make_rows, rowwise
from detcheck.kernels._shared.unreadable import ADDS_NOTHING
from detcheck.op import Op

if TYPE_CHECKING:
    import torch


def stock(x: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.softplus(x)


def softplus(x: torch.Tensor, beta: float = 1, threshold: float = 20) -> torch.Tensor:
    """log(1 + exp(beta x)) / beta, each element of x[...]; x itself where beta x is above the threshold."""
    import torch

    def row(each: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(each, 1, threshold)

    scaled = x if beta == 1 else x * beta
    made = rowwise("softplus", scaled if x.ndim else scaled.view(1), torch_row=row, eps=threshold).view(x.shape)
    return made if beta == 1 else torch.where(scaled > threshold, x, made / beta)


def reference(x: torch.Tensor) -> torch.Tensor:
    return stock(x.double())


OP = Op(
    "softplus", ("67", "1024"), make_rows, stock, reference, softplus, order=ADDS_NOTHING, aten={"softplus": softplus}
)
