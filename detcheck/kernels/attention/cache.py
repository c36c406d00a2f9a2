"""Writes keys and values into the blocks of a paged cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.kernels.attention.dense import NUMBERS
from detcheck.op import dtype_code

if TYPE_CHECKING:
    import torch


def write_cache(
    k: torch.Tensor, v: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor
) -> None:
    """k, v[T, KH, D] into keys, values[blocks, KH, block_size, D]: token t to block slots[t] // block_size, there to place
    slots[t] % block_size. slots: int64[T], all different; tokens of a negative slot are passed over. Raises ValueError for
    what it cannot take, and writes nothing then."""
    import torch

    cache = keys.shape
    fits = (
        k.ndim == 3 and keys.ndim == 4 and k.shape == v.shape and cache == values.shape and slots.shape == k.shape[:1]
    )
    if not fits or k.shape[1:] != (cache[1], cache[3]):
        given = ", ".join(str(tuple(t.shape)) for t in (k, v, keys, values, slots))
        needs = "k and v[T, KH, D], keys and values[blocks, KH, block_size, D] and slots[T]"
        raise ValueError(f"write_cache needs {needs}; got {given}")
    check_integers("write_cache", k, torch.int64, slots=slots)
    dtype_code("write_cache", k, v, keys, values)
    k_strides, v_strides = keys.stride(), values.stride()
    if k_strides[3] != 1 or v_strides[3] != 1:
        given = f"{k_strides}, {v_strides}"
        raise ValueError(f"write_cache needs keys and values whose last dimension is dense; got strides {given}")
    tokens, blocks, size = slots.shape[0], cache[0], cache[2]
    if k.is_cpu and build.available():
        k, v = (t if t.stride(2) == 1 else t.contiguous() for t in (k, v))
        slots = slots.contiguous()
        strides = (*k.stride()[:2], *v.stride()[:2], *k_strides[:3], *v_strides[:3])
        shape = NUMBERS(tokens, cache[1], cache[3], blocks, size, *strides)
        pointers = [t.data_ptr() for t in (k, v, keys, values, slots)]
        build.function("write_cache", "ppppppi", "attention")(*pointers, shape, k.element_size())
        refused = shape[15]
    else:
        beyond = slots >= blocks * size
        refused = int(beyond.int().argmax()) if bool(beyond.any()) else tokens
        if refused == tokens:
            used = slots >= 0
            block, place = slots[used] // size, slots[used] % size
            keys[block, :, place], values[block, :, place] = k[used], v[used]
    if refused < tokens:
        given = f"token {refused} has slot {int(slots[refused])}"
        raise ValueError(f"write_cache needs slots below {blocks} blocks * {size} = {blocks * size}; {given}")


def check_integers(op: str, q: torch.Tensor, dtype: torch.dtype, **tensors: torch.Tensor) -> None:
    where = q.device if q.is_cuda else "cpu"
    for name, t in tensors.items():
        if t.dtype != dtype or not (t.device == q.device if q.is_cuda else t.is_cpu):
            needs = f"{name} of {str(dtype).removeprefix('torch.')} on {where}"
            raise ValueError(f"{op} needs {needs}; got {str(t.dtype).removeprefix('torch.')} on {t.device.type}")
