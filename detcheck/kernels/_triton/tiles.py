"""Tiles of a matrix product that follow the number of rows: fit for a few, or for many, with the bits of the one that defines the result.

On Hopper and Blackwell the matrix instructions for halves (mma.sync m16n8k16, wgmma and tcgen05 with k16) are one arithmetic: a fused
sum of 16 products and the accumulator, validated bit by bit against hardware by MMA-Sim (arXiv 2511.10909); on Ampere every tile is made
of mma.sync. So a result follows the ascending chain of groups of 16 along K alone, and not the tile's rows and columns, its warps, its
BLOCK_K, or which operand comes first. That is a reason to expect equal bits and no proof of them: each tile is compared with the
defining one on the device at hand, on data whose order of addition shows, before it is used; where they differ it never is.

Sizes and figures: benchmarks/compiled.py (nothing spills); not yet a clock, since no GPU was at hand: benchmarks/gpu_tiles.py times them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.kernels._triton.launch import Tile, family

if TYPE_CHECKING:
    import torch

    Multiply = Callable[[torch.Tensor, torch.Tensor, Tile], torch.Tensor]

ANY = 1 << 62


def _tile(rows: int, columns: int, k: int, warps: int, stages: int, swap: bool = False) -> Tile:
    return Tile({"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_K": k, "SWAP": swap}, warps, stages)


# (most rows, most columns of the weight) -> tile, the first that fits. SWAP: the weight fills the tall side of the instruction.
BUCKETS = (
    (16, 2048, _tile(16, 32, 128, 4, 6)),
    (16, 16383, _tile(16, 64, 128, 4, 6, swap=True)),
    (16, ANY, _tile(16, 128, 128, 4, 5, swap=True)),
    (32, ANY, _tile(32, 64, 128, 4, 5, swap=True)),
    (64, ANY, _tile(64, 64, 128, 4, 5, swap=True)),
    (256, ANY, _tile(128, 64, 64, 4, 4)),
    (ANY, ANY, _tile(128, 256, 64, 8, 3)),
)
BY_ROWS = {"sm_90": BUCKETS, "sm_100": BUCKETS}  # elsewhere the defining tile serves any number of rows
SAME = 512  # columns of the weight that tiles are compared on, and what is left over of its own
_agreed: dict[tuple[object, ...], bool] = {}  # of this process


def candidate(m: int, n: int, target: str) -> Tile | None:
    """The tile for m rows by a weight of n, in halves loaded by descriptors; None: the defining one."""
    table = BY_ROWS.get(family(target), ())
    return next((tile for rows, columns, tile in table if m <= rows and n <= columns), None)


def by_rows(x: torch.Tensor, n: int, target: str, defining: Tile, multiply: Multiply, bias: bool = False) -> Tile:
    """The tile for x[M, K] by a weight of n rows: one that gave the defining one's bits on x's device, or the defining one.

    multiply(x, w, tile): the product with that tile. It is asked once for each weight's size, and never while a graph is captured, where
    nothing can be looked at: until then the defining one serves.
    """
    import torch

    other = candidate(len(x), n, target)
    if other is None:
        return defining
    key = (str(x.device), x.dtype, n, x.shape[1], bias, *other.sizes.items(), *defining.sizes.items())
    if key not in _agreed:
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return defining
        found = holds(lambda: agree(other, defining, n, x.shape[1], x.dtype, x.device, multiply))
        if found is None:
            return defining
        _agreed[key] = found
    return other if _agreed[key] else defining


def holds(asked: Callable[[], bool]) -> bool | None:
    """The answer; no, where the device cannot even run what is asked about; None, where there is no memory to ask."""
    import torch

    try:
        return asked()
    except torch.OutOfMemoryError:
        return None
    except Exception:  # noqa: BLE001  compilers and drivers have many; the defining way says so itself if it fails too
        return False


def agree(one: Tile, other: Tile, n: int, k: int, dtype: torch.dtype, device: torch.device, multiply: Multiply) -> bool:
    """Whether two tiles give equal bits for products of that length, on data in which the order of addition shows."""
    rows = 2 * max(one.sizes["BLOCK_M"], other.sizes["BLOCK_M"]) + 1
    columns = n if n <= 2 * SAME else SAME + n % 16
    for x, w in telling(rows, columns, k, dtype, device):
        if not bits_equal(multiply(x, w, one), multiply(x, w, other)):
            return False
    return True


def telling(
    rows: int, columns: int, k: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """x[rows, k], w[columns, k]: plain numbers, numbers of very unlike sizes, and sums that cancel.

    Of the last nothing is left but what was rounded on the way, so that a result in half precision shows all of it.
    """
    import torch

    generator = torch.Generator(device).manual_seed(k)  # there, since it takes the CPU longer than all else

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=device)

    x, w = normal(rows, k), normal(columns, k)
    span = 20 if dtype == torch.bfloat16 else 5  # powers of 2, that products stay finite in float16 too
    spread = torch.exp2(torch.randint(-span, span + 1, (1, k), generator=generator, device=device).float())
    half, order = k // 2, torch.randperm(k // 2, generator=generator, device=device)
    cancelling, against = torch.zeros_like(x), torch.zeros_like(w)
    cancelling[:, :half], against[:, :half] = (x * spread.sqrt())[:, :half], w[:, :half]
    cancelling[:, half : 2 * half], against[:, half : 2 * half] = -cancelling[:, order], against[:, order]
    return [(a.to(dtype), b.to(dtype)) for a, b in ((x, w), (x * spread, w), (cancelling, against))]
