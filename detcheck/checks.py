"""What every op refuses, in words; and how torch says that there is no room."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class NotInvariantError(ValueError):
    """An op that has no batch-invariant form for its arguments here. It is refused; stock never steps in silently."""


NAMES = ("float32", "bfloat16", "float16")  # in the order of _cpu/common.h's Dtype


def dtype_code(op: str, *tensors: torch.Tensor | None) -> int:
    """The dtype that all share, as the CPU kernels number it. Raises ValueError for mixed dtypes and devices, NotInvariantError for
    dtypes and devices that no kernel takes."""
    given = [t for t in tensors if t is not None]
    first = given[0]
    if any(t.dtype != first.dtype for t in given):
        names = sorted({str(t.dtype).removeprefix("torch.") for t in given})
        raise ValueError(f"{op} needs one dtype; got {', '.join(names)}. Convert the arguments first")
    name = str(first.dtype)[6:]  # behind "torch."
    if name not in NAMES:
        raise NotInvariantError(f"{op} has no batch-invariant kernel for {name}; it has for {', '.join(NAMES)}")
    for t in given:
        if not (t.is_cpu or t.is_cuda):  # torch calls ROCm devices cuda too
            raise NotInvariantError(f"{op} has no batch-invariant kernel on {t.device.type}; it has on cpu and cuda")
        if t.device != first.device:
            raise ValueError(f"{op} needs its arguments on one device; got {first.device} and {t.device}")
    return NAMES.index(name)


def out_of_memory(error: BaseException) -> bool:
    """torch says it in three ways: a class of its own on GPUs, a RuntimeError on the CPU, Python's MemoryError."""
    import torch

    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in str(error)
        or "out of memory" in str(error)
    )
