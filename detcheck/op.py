"""What an op is, to the probe that tests it and to the switch that puts it in the place of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from detcheck import lookup
from detcheck.checks import NotInvariantError

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
    devices: tuple[str, ...] = ("cpu",)
    """types of device that ours runs on"""
    roundings: int = 1
    """to the output's dtype, on the way to it"""
    triton: tuple[str, ...] = ()
    """its Triton kernels, as package.module:kernel"""


def find(name: str, device: str) -> ModuleType:
    """The op's file, whose functions run batch-invariantly on that type of device. Raises NotInvariantError where there is none."""
    module = lookup.find("kernels", name)
    op = module.OP
    if op.batch_invariant is None or device not in op.devices:
        there = f"; it has on {', '.join(op.devices)}" if op.batch_invariant else ""
        raise NotInvariantError(f"{name} has no batch-invariant kernel on {device}{there}")
    return module
