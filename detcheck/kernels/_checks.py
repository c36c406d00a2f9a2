"""What every op refuses, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class NotInvariantError(ValueError):
    """An op that has no batch-invariant form for its arguments here. It is refused; stock never steps in silently."""


NAMES = ("float32", "bfloat16", "float16")  # in the order of _cpu.h's Dtype


def dtype_code(op: str, *tensors: torch.Tensor | None) -> int:
    """The dtype that all share, as the CPU kernels number it. Raises ValueError for mixed dtypes, NotInvariantError for others, and for other devices."""
    given = [t for t in tensors if t is not None]
    dtypes = {str(t.dtype).removeprefix("torch.") for t in given}
    if len(dtypes) > 1:
        raise ValueError(f"{op} needs one dtype; got {', '.join(sorted(dtypes))}. Convert the arguments first")
    (name,) = dtypes
    if name not in NAMES:
        raise NotInvariantError(f"{op} has no batch-invariant kernel for {name}; it has for {', '.join(NAMES)}")
    devices = {t.device.type for t in given}
    if devices != {"cpu"}:
        raise NotInvariantError(f"{op} has no batch-invariant kernel on {', '.join(sorted(devices))}; it has on cpu")
    return NAMES.index(name)
