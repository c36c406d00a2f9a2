"""Batches around one row under test, formed in every way that may not change its bits, and the bits that came of them.

Arguments are a *pool*: row 0 of every batched argument belongs to the row under test, the others to its neighbours. A batch
is then a list of kinds, one a slot: 0 is the row under test, a positive number that row of the pool, a negative one a row
that is all NaN or infinite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

HOSTILE = {-1: float("nan"), -2: float("inf"), -3: float("-inf")}
PADDING = 3  # elements between rows of a strided batch: odd, so that rows are unaligned too
DTYPES = ("float32", "bfloat16", "float16", "float64")  # of outputs whose distances are known


class ContractError(ValueError):
    """What an op returned is not what an op returns. Its text follows the op's name."""


def form(pool: Sequence[object], batched: Sequence[int], kinds: Sequence[int], fed: str = "") -> tuple[object, ...]:
    """The arguments of one call. `fed` "alignment": one element off in memory; "strides": rows with room between them."""
    import torch

    formed = []
    for n, argument in enumerate(pool):
        if not isinstance(argument, torch.Tensor):
            formed.append(argument)
            continue
        if n in batched:
            index = torch.tensor([max(kind, 0) for kind in kinds], dtype=torch.long, device=argument.device)
            argument = argument[index]
            for slot, kind in enumerate(kinds):
                if kind < 0 and argument.is_floating_point():
                    argument[slot] = HOSTILE[kind]
            if fed == "strides" and argument.ndim > 1:
                argument = strided(argument)
        if fed == "alignment" and argument.is_floating_point():
            argument = unaligned(argument)
        formed.append(argument)
    return tuple(formed)


def unaligned(t: torch.Tensor) -> torch.Tensor:
    """The same numbers and strides, one element further in memory."""
    room = 2 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    moved = t.new_full((max(room, 2),), float("nan")).as_strided(t.shape, t.stride(), 1)
    return moved.copy_(t)


def strided(t: torch.Tensor) -> torch.Tensor:
    """The same numbers as a view of something wider, which is NaN where it does not show."""
    fill = float("nan") if t.is_floating_point() else 0
    wider = t.new_full((*t.shape[:-1], t.shape[-1] + PADDING), fill)
    return wider[..., : t.shape[-1]].copy_(t)


def row_bits(output: object, rows: int) -> tuple[np.ndarray, str]:
    """(bit patterns of each row: integers [rows, n], torch's name of the dtype). Raises ContractError where there are none.

    They are a copy: an op may write its next result into the same memory.
    """
    import torch

    if not isinstance(output, torch.Tensor):
        raise ContractError(f"must return one tensor; it returned {type(output).__name__}")
    dtype = str(output.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ContractError(f"must return one of {', '.join(DTYPES)}; it returned {dtype}")
    if not output.ndim or len(output) != rows:
        raise ContractError(
            f"must return a row for each of the {rows} rows of its batch; it returned shape {tuple(output.shape)}"
        )
    if not output.numel():
        raise ContractError(f"must return something to compare in each row; it returned shape {tuple(output.shape)}")
    whole = output.detach().cpu().contiguous().reshape(rows, -1)
    return whole.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[whole.element_size()]).numpy().copy(), dtype


def alike(bits: np.ndarray, dtype: str, lone: np.ndarray, lone_dtype: str) -> None:
    """Raises ContractError unless rows (integers [rows, n]) are as long as the row alone (integers [n]), and of its dtype.

    Such rows cannot be compared bit by bit, and numpy would compare a lone element with every one of a longer row.
    """
    if (bits.shape[1], dtype) != (len(lone), lone_dtype):
        raise ContractError(
            f"must return rows of one length and dtype whatever the batch is; alone its length is {len(lone)} ({lone_dtype}), "
            f"in a batch of {len(bits)} it is {bits.shape[1]} ({dtype})"
        )


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many intra-op threads of torch inside, as many as before outside. None: leave them."""
    import torch

    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
