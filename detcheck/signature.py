"""What `detcheck certify` must be told of a Triton kernel, since the source alone does not say which arguments follow the batch.

A module that has Triton kernels declares them in `DETCHECK`, kernel name -> Signature, or -> a function of (dtype, target)
that makes one. The user's modules do it the same way, with `from detcheck import Signature`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
