"""How attention is cut: keys into splits, queries and keys into tiles.

SPLIT and BLOCK_N make the order of addition, BLOCK_M perhaps the matrix instruction. A head's width, the dtype and the target choose
them; the batch never does.

Sizes: benchmarks/compiled.py, the largest at which nothing spills, windows and soft caps included. Not yet a clock.
"""

from __future__ import annotations

import triton

from detcheck.kernels._triton.launch import Tile, family, unit

SPLIT = 256  # keys. Part of the result's definition, as BLOCK_N is
FEW = 16  # rows of a tile at most for which merge_kernel takes a small one: in decode few of the tile's rows exist
WIDEST = 256  # elements of a head
# (BLOCK_M, BLOCK_N, warps) for heads of at most 128 elements.
TILES = {"sm_80": (64, 64, 8), "sm_90": (128, 32, 8), "sm_100": (128, 32, 8), "gfx": (64, 32, 4)}
SMALL_HEAD = (128, 64, 8)  # at most 64 elements, on every target
LARGE_HEAD = (32, 32, 8)  # 129 to 256
# float32 is multiplied outside the matrix units. By the padded width of a head, at most:
FLOAT = {64: (16, 16, 4), 128: (32, 16, 8), 256: (16, 16, 8)}
FLOAT_SM_100 = FLOAT | {
    256: (16, 16, 4)
}  # 8 bytes spill there where a split has a window and a soft cap; elsewhere nothing


def tile(dim: int, dtype: str, target: str) -> Tile:
    """The one tile of a head's width: of prefill and of decode, since another number of rows may be another matrix instruction."""
    wide = max(triton.next_power_of_2(dim), 16)
    if dtype == "fp32":
        tiles = FLOAT_SM_100 if family(target) == "sm_100" else FLOAT
        m, n, warps = next((tile for most, tile in tiles.items() if wide <= most), tiles[WIDEST])
    elif wide <= 64:
        m, n, warps = SMALL_HEAD
    elif wide <= 128:
        m, n, warps = TILES[family(target)]
    else:
        m, n, warps = LARGE_HEAD
    return Tile({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_D": wide}, warps, 1 if dtype == "fp32" else 2)


def tile_of_merge(dim: int, dtype: str, target: str, few: bool = False) -> Tile:
    """The same rows, or of them the first FEW; nothing is multiplied across rows, so they and the warps are free."""
    sizes = tile(dim, dtype, target).sizes
    sizes = sizes | {"BLOCK_M": min(sizes["BLOCK_M"], FEW)} if few else sizes
    return Tile(sizes, min(max(sizes["BLOCK_M"] * sizes["BLOCK_D"] // 512, 1), 16), 2)


def constants_of(
    dim: int, dtype: str, group: int, shared: int, page: int, window: int, cap: bool, chosen: Tile
) -> dict[str, object]:
    """What a model and a cache decide, with the tile."""
    return {
        "GROUP": group,
        "HEADS": min(group, chosen.sizes["BLOCK_M"]),
        "SHARED": shared,
        "PAGE": page,
        "WINDOW": window,
        "UNIT": unit(dim, dtype),
        "D": dim,
        "CAP": cap,
        "SPLIT": SPLIT,
        **chosen.sizes,
    }
