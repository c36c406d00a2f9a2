"""Batch-invariant ops out of torch's own, where there is no compiler.

A matmul picks its reduction order by the number of rows, so rows are given to it in tiles of one fixed size, filled up with
zeros. Nothing promises that every row of such a tile is added in the same order, so each new shape is tested first, and
refused where the bits do not hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.op import NotInvariantError

if TYPE_CHECKING:
    import torch

TILE = 16  # rows: part of the result's definition


_passed: set[tuple[object, ...]] = set()


def matmul(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x[M, K] @ w[N, K].T in tiles of TILE rows. Raises NotInvariantError where the tile is not invariant."""
    import torch

    x, w = x.contiguous(), w.contiguous()
    w = w.clone() if w.data_ptr() % 64 else w  # alignment changes bits too
    tested = (w.shape, w.dtype, torch.get_num_threads())
    if tested not in _passed:
        _test(x.new_empty(0), w)
        _passed.add(tested)
    out = x.new_empty(len(x), len(w))
    for begin in range(0, len(x), TILE):
        rows = x[begin : begin + TILE]
        out[begin : begin + TILE] = _tile(rows, w)[: len(rows)]
    return out


def _tile(rows: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    tile = rows.new_zeros(TILE, rows.shape[1])
    tile[: len(rows)] = rows
    return tile @ w.t()


def _test(like: torch.Tensor, w: torch.Tensor) -> None:
    """One row at every place of the tile, among others and alone, twice."""
    import torch

    generator = torch.Generator().manual_seed(0)
    row = torch.randn(w.shape[1], generator=generator).to(w.dtype)
    others = torch.randn(TILE, w.shape[1], generator=generator).to(w.dtype)
    expected = _tile(row[None], w)[0]
    for place in range(TILE):
        mixed = others.clone()
        mixed[place] = row
        alone = torch.zeros_like(others)
        alone[place] = row
        for tile in (mixed, alone, mixed):
            if not bits_equal((tile @ w.t())[place], expected):
                raise NotInvariantError(
                    f"without a compiler, matmul of [{TILE}, {w.shape[1]}] by {list(w.shape)} in {w.dtype} is not batch-invariant here "
                    f"(row {place} of a tile differs). Install a C++ compiler such as g++"
                )


def bits_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equality of bytes: -0.0 is not 0.0, a NaN equals itself."""
    import torch

    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
