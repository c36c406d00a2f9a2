"""The bytes of tensors: hashes and bit patterns of them, and copies that lie in memory as they do.

The hash is Python's own of bytes: keyed, 64 bits, at memory speed. It is good within one process; what is stored is hashed for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ALIGNED = 64  # bytes: a kernel may take another path where its data begin elsewhere


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in one piece on the CPU, without a gradient or a conjugation that is still to be done."""
    import torch

    found = (tensor.detach() if tensor.requires_grad else tensor).resolve_conj().resolve_neg().contiguous().cpu()
    # Of one number along a dimension, any stride counts as one piece, and not all can be viewed as bytes.
    return found.clone(memory_format=torch.contiguous_format) if found.ndim and found.stride(-1) != 1 else found


def digest(tensor: torch.Tensor) -> int:
    """Of the bytes, in the order of the elements, whatever the strides."""
    import torch

    flat = plain(tensor).reshape(-1)
    return hash(flat.view(torch.uint8).numpy().tobytes())


def row_digests(tensor: torch.Tensor) -> tuple[int, ...]:
    """One hash for each index of the first dimension."""
    import torch

    if not tensor.numel():
        return (0,) * len(tensor)
    rows = plain(tensor).view(torch.uint8).numpy()
    return tuple(hash(row.tobytes()) for row in rows)


def integers(tensor: torch.Tensor) -> torch.Tensor:
    """The bit patterns, flat, on the CPU."""
    import torch

    flat = plain(tensor).reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    return flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()])


def same_form(tensor: torch.Tensor, strides: Sequence[int] | None = None, offset: int | None = None) -> torch.Tensor:
    """A copy with the same strides, beginning as many bytes from an aligned address; or with those that are given."""
    import torch

    strides = tensor.stride() if strides is None else strides
    offset = tensor.data_ptr() % ALIGNED if offset is None else offset
    if not tensor.numel() or len(strides) != tensor.ndim:
        return tensor.clone()
    shape = tensor.shape
    for dim, stride in enumerate(strides):
        if stride == 0 and shape[dim] > 1:  # one number stands for all along it
            once = tensor.narrow(dim, 0, 1)
            if not torch.equal(integers(once.expand_as(tensor)), integers(tensor)):
                return tensor.clone()
            tensor = once
    reach = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, strides, strict=True))
    base = torch.empty(reach + ALIGNED, dtype=tensor.dtype, device=tensor.device)
    start = ((offset - base.data_ptr()) % ALIGNED) // tensor.element_size()
    base.as_strided(tensor.shape, strides, start).copy_(tensor)
    return base.as_strided(shape, strides, start)


def out_of_memory(error: BaseException) -> bool:
    """torch says it in three ways: a class of its own on GPUs, a RuntimeError on the CPU, Python's MemoryError."""
    import torch

    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in str(error)
        or "out of memory" in str(error)
    )
