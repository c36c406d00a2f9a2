"""The detector's own test subject: a row sum that is variant on purpose.

It splits the row into as many parts as there are rows in the batch (at most 8), sums each part, and adds the sums up: what a
split-K matmul does when it takes its number of splits from the size of the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.op import Op

if TYPE_CHECKING:
    import torch

SPLITS = 8  # at most


def stock(x: torch.Tensor) -> torch.Tensor:
    """x[M, N] -> [M, 1]. The order of addition follows M."""
    total = x.new_zeros(len(x), 1)
    for part in x.tensor_split(min(max(len(x), 1), SPLITS), dim=1):
        total = total + part.cumsum(1)[:, -1:]  # a running sum adds from left to right
    return total


def reference(x: torch.Tensor) -> torch.Tensor:
    return x.double().sum(1, keepdim=True)


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor]:
    import torch

    columns = int(shape)
    made = [torch.randn(columns, generator=torch.Generator().manual_seed(seed + row)) for row in range(rows)]
    return (torch.stack(made).to(dtype) if made else torch.empty(0, columns, dtype=dtype),)


OP = Op("control", ("1024",), make, stock, reference, order="sum")
