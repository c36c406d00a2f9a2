"""What an op is, to the probe that tests it and to the switch that puts it in the place of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Op:
    """An op in its implementations. All take the same arguments, and row i of the output belongs to row i of the batch."""

    name: str
    shapes: tuple[str, ...]
    """names of the shapes that `make` knows, the smallest first"""
    make: Callable[[str, int, torch.dtype, int], Tensors]
    """make(shape, rows, dtype, seed) -> arguments; row i is the same for every number of rows"""
    stock: Callable[..., torch.Tensor]
    """what torch does"""
    reference: Callable[..., torch.Tensor]
    """the same in float64, from arguments of any dtype"""
    batch_invariant: Callable[..., torch.Tensor] | None = None
    """ours; None: there is none, and the op is a subject only"""
    batched: tuple[int, ...] = (0,)
    """which arguments have the batch as their first dimension; the output always has"""
