"""Sums and products in float64, as models use it for small parts: a table, a loss, a router.

Batch-invariant because numbers are only added and multiplied element by element, each rounded by itself as IEEE 754 says: neighbours are
added, then neighbours of these sums, and so on, in a tree that the length of the sum alone decides. Zeros behind a row change nothing.
Made of torch's own additions, so it is there on every device, and slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

AT_ONCE = 1 << 22  # products that are kept before they are added: no part of the result


def takes(*tensors: torch.Tensor | None) -> bool:
    """Whether all are float64, on one device that is there."""
    import torch

    given = [t for t in tensors if t is not None]
    return all(t.dtype == torch.float64 and t.device == given[0].device and t.device.type != "meta" for t in given)


def added(x: torch.Tensor) -> torch.Tensor:
    """x[..., n] -> [..., 1]."""
    import torch

    x = x + 0.0  # -0.0 becomes 0.0, as it does where a zero follows
    while x.shape[-1] > 1:
        x = torch.nn.functional.pad(x, (0, x.shape[-1] % 2))
        x = x[..., 0::2] + x[..., 1::2]
    return x if x.shape[-1] else x.new_zeros(*x.shape[:-1], 1)


def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x[M, K] @ w[N, K].T, as many rows and columns at once as there is room for."""
    out = x.new_empty(len(x), len(w))
    columns = max(1, AT_ONCE // max(1, w.shape[1]))
    rows = max(1, columns // max(1, len(w)))
    for m in range(0, len(x), rows):
        for n in range(0, len(w), columns):
            out[m : m + rows, n : n + columns] = added(x[m : m + rows, None] * w[None, n : n + columns])[..., 0]
    return out
