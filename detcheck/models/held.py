"""What an engine holds, tensor by tensor and row by row, as hashes that may be compared between processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcheck.tensors import plain

if TYPE_CHECKING:
    import torch

HASH_BYTES = 8  # of a row


@dataclass(frozen=True)
class HeldTensor:
    """A tensor as it was found."""

    shape: tuple[int, ...]
    dtype: str
    rows: bytes
    """HASH_BYTES for each index of its first dimension; of a scalar for the whole"""

    def unlike(self, other: HeldTensor) -> np.ndarray:
        """bool[rows]: which rows differ; all where they are not of one form."""
        mine, theirs = (np.frombuffer(one.rows, f"V{HASH_BYTES}") for one in (self, other))
        if (self.shape, self.dtype) != (other.shape, other.dtype):
            return np.ones(len(mine), bool)
        return mine != theirs


Held = Mapping[str, HeldTensor | None]
"""by name; None: it is there in a form that cannot be read"""


def held(tensors: Iterable[tuple[str, torch.Tensor | None]]) -> dict[str, HeldTensor | None]:
    return {name: None if tensor is None else readable(tensor) for name, tensor in tensors}


def readable(tensor: torch.Tensor) -> HeldTensor | None:
    """None of what has no bytes of its own: a quantised number in parts, or one that was taken away."""
    try:
        return of_tensor(tensor)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return None


def of_tensor(tensor: torch.Tensor) -> HeldTensor:
    import torch

    found = plain(tensor)
    rows = (found if found.ndim else found.reshape(1)).reshape(len(found) if found.ndim else 1, -1)
    if not rows.numel():
        hashed = b"\0" * HASH_BYTES * len(rows)
    else:
        hashed = b"".join(
            hashlib.blake2b(row, digest_size=HASH_BYTES).digest() for row in rows.view(torch.uint8).numpy()
        )
    return HeldTensor(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), hashed)
