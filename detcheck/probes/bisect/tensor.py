"""What a trace keeps of a tensor: its form and hashes, never the tensor itself.

A trace is compared within one process, so hashes need be good there alone (`kernels/_bytes.py`). A weight is known by its name and
place and is not hashed at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detcheck.probes.bisect.rows import Layout, Part, matching, part
from detcheck.tensors import ALIGNED, digest, row_digests

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class SeenTensor:
    """A tensor as a call took or gave it; of a batch, the prompt's own part."""

    shape: tuple[int, ...]
    """of the whole tensor"""
    strides: tuple[int, ...]
    dtype: str
    offset: int
    """bytes from an aligned address"""
    digest: int | None
    """of the bytes; None: its own part is not known"""
    weight: str = ""
    """name of the parameter that it is, or is a view of"""
    rows: tuple[int, ...] | None = None
    """a hash a row, where rows may have to be found by their bytes"""
    part: Part | None = None

    @property
    def floats(self) -> bool:
        return "float" in self.dtype or "complex" in self.dtype


def weights(model: torch.nn.Module) -> dict[int, str]:
    """Storage -> name of the parameter in it. Tied weights are one storage with one name."""
    found: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        for named, tensor in parts(name, parameter):
            found.setdefault(tensor.untyped_storage().data_ptr(), named)
    return found


def parts(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of what has a storage: the tensor itself, or what one that is made of others holds (numbers, scales ...)."""
    if not made_of_parts(type(tensor)):
        yield name, tensor
        return
    for attribute in tensor.__tensor_flatten__()[0]:
        yield from parts(f"{name}.{attribute}", getattr(tensor, attribute))


def made_of_parts(kind: type) -> bool:
    """A class of tensors without a storage of their own, as quantised weights are."""
    return hasattr(kind, "__tensor_flatten__")


def look(
    tensor: torch.Tensor,
    names: Mapping[int, str],
    tokens: int,
    alone: SeenTensor | None = None,
    layout: Layout | None = None,
    known: Part | None = None,
) -> SeenTensor:
    """`tokens`: columns of this forward pass alone; `alone`: what stood there when the prompt ran alone; `known`: its part."""
    shape, pointer = tuple(tensor.shape), tensor.data_ptr() if tensor.numel() else 0
    dtype = str(tensor.dtype).removeprefix("torch.")
    seen = SeenTensor(shape, tensor.stride(), dtype, pointer % ALIGNED, None)
    seen.weight = names.get(tensor.untyped_storage().data_ptr(), "") if tensor.numel() else ""
    if seen.weight:
        seen.weight += f"@{tensor.storage_offset()}{shape}{seen.strides}"
        seen.digest, seen.part = hash(seen.weight), Part(())
        return seen
    if layout is None:
        seen.digest = digest(tensor)
        if tensor.ndim == 2 and (tokens == 1 or shape[0] != tokens):
            seen.rows = row_digests(tensor)
        return seen
    seen.part = known
    if known is None and alone is not None and not alone.weight:
        seen.part = part(alone.shape, shape, layout)
        if seen.part is not None:
            seen.digest = digest(seen.part.take(tensor))
        if seen.digest != alone.digest and alone.rows is not None and len(alone.rows) < shape[0]:
            places = matching(alone.rows, row_digests(tensor)) if shape[1:] == alone.shape[1:] else None
            if places is not None:
                seen.part, seen.digest = Part(tuple(Part(()).dims), 0, places), alone.digest
    elif known is not None:
        seen.digest = digest(known.take(tensor))
    return seen
