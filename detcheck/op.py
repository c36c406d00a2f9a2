"""An op: everything that is said of it stands in its own file in `kernels/`, and everybody reads it from there.

The probe that tests it, the switch that puts ours in its place, `order` and `certify`, and the advice of `bisect` keep no list of
their own, so that an op is added by adding its file.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from detcheck import lookup

if TYPE_CHECKING:
    import torch

    Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Unreadable:
    """Why no masks can show in which order an op adds, and what the op must show for that to be so."""

    text: str
    seen: str
    """what the op shows if it is so"""
    holds: Callable[[Callable[..., torch.Tensor], Tensors], bool]
    """looks at the op, on some arguments of its own"""


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
    order: str | Unreadable | None = None
    """the form in which `order` calls it (`probes/order/sums.py`), or why its order cannot be read; None: it is not asked about"""
    aten: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """aten overload -> what runs in its place inside `batch_invariant`; overloads that write into `out=` or in place follow"""
    also: tuple[str, ...] = ()
    """words in the names of ops that are made of it, or are other kernels of it: they are replaced with it"""
    elsewhere: Callable[[contextlib.ExitStack], None] | None = None
    """puts ours in its place outside of aten too, and what takes it away again onto the stack"""

    def replaces(self, name: str) -> bool:
        """Whether putting ours in its place replaces the op of that name ("mm", "_softmax", and in place "silu_" ...)."""
        plain = name.removesuffix("_")
        return any(overload.partition(".")[0] == plain for overload in self.aten) or any(w in name for w in self.also)


@functools.cache
def every() -> tuple[Op, ...]:
    """All that are bundled."""
    return tuple(lookup.find("kernels", name).OP for name in lookup.names("kernels"))


def replaceable(op: str) -> str | None:
    """The bundled op by whose replacement this one ("aten::mm") becomes ours; None: there is no kernel of ours for it."""
    name = op.split("::")[-1].split(".")[0]
    return next((known.name for known in every() if known.replaces(name)), None)


def find(name: str, device: str) -> ModuleType:
    """The op's file, whose functions run batch-invariantly on that type of device. Raises NotInvariantError where there is none."""
    module = lookup.find("kernels", name)
    op = module.OP
    if op.batch_invariant is None or device not in op.devices:
        there = f"; it has on {', '.join(op.devices)}" if op.batch_invariant else ""
        raise NotInvariantError(f"{name} has no batch-invariant kernel on {device}{there}")
    return module


class NotInvariantError(ValueError):
    """An op that has no batch-invariant form for its arguments here. Stock never steps in silently."""


class NoKernelError(NotInvariantError):
    """An op of which ours has no form for a dtype or a variant. The switch runs stock there, counts the call, and asks it."""


NAMES = ("float32", "bfloat16", "float16")  # in the order of _cpu/common.h's Dtype


def dtype_code(op: str, *tensors: torch.Tensor | None) -> int:
    """The dtype that all share, as the CPU kernels number it. Raises ValueError for mixed dtypes and devices, NoKernelError for
    dtypes and NotInvariantError for devices that no kernel takes."""
    given = [t for t in tensors if t is not None]
    first = given[0]
    if any(t.dtype != first.dtype for t in given):
        names = sorted({str(t.dtype).removeprefix("torch.") for t in given})
        raise ValueError(f"{op} needs one dtype; got {', '.join(names)}. Convert the arguments first")
    name = str(first.dtype)[6:]  # behind "torch."
    if name not in NAMES:
        raise NoKernelError(f"{op} has no batch-invariant kernel for {name}; it has for {', '.join(NAMES)}")
    for t in given:
        if not (t.is_cpu or t.is_cuda):  # torch calls ROCm devices cuda too
            raise NotInvariantError(f"{op} has no batch-invariant kernel on {t.device.type}; it has on cpu and cuda")
        if t.device != first.device:
            raise ValueError(f"{op} needs its arguments on one device; got {first.device} and {t.device}")
    return NAMES.index(name)


# What `detcheck certify` must be told of a Triton kernel, since the source alone does not say which arguments follow the batch. A module that
# has Triton kernels declares them in `DETCHECK`, kernel name -> Signature, or -> a function of (dtype, target) that makes one.
@dataclass(frozen=True)
class Signature:
    """How a kernel is called. Types are Triton's: "*bf16", "i32", "fp32"; "*T" is a pointer to the dtype that is asked about."""

    arguments: Mapping[str, str]
    """name -> type, of everything that is not a constexpr"""
    constexprs: Mapping[str, object] = field(default_factory=dict)
    """name -> value. A tuple: of a name in `batch`, the values that the launcher chooses among; of another, variants of the kernel"""
    batch: tuple[str, ...] = ()
    """arguments and constexprs that follow the batch: rows, requests, queries, strides over them"""
    reduction: tuple[str, ...] = ()
    """arguments that are the length of a row's own sum: they may reach its bounds"""
    batch_axes: tuple[int, ...] = (0, 1, 2)
    """axes of the grid along which programs take other rows, or other tiles of rows; fewer only where the others do not"""
    aligned: tuple[str, ...] = ()
    """pointers that the launcher only passes aligned to 16 bytes (copying if need be); trusted, and named in the certificate"""
    trusted: tuple[str, ...] = ()
    """what the launcher does besides that no certificate can show, in words: named in the certificate"""
    masked_tail: bool = False
    """attention's rule: how far the loop over keys goes may follow the tile of queries, where what it adds is masked for the others"""
    options: Mapping[str, object] = field(default_factory=dict)
    """num_warps, num_stages and the like; a tuple as above"""
    dtypes: tuple[str, ...] = ("bf16",)
    """what "T" may be"""
