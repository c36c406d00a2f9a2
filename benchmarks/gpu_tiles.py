"""Tiles for a matrix product on this device: do they give the bits of the one that defines the result, and how fast is each?

    python benchmarks/gpu_tiles.py [N,K ...]     by default the weights of an 8B model's layers

Prints, for each weight and number of rows, stock's time / ours with each tile whose bits were equal, fastest first. The table in
_triton/tiles.py is made from this; a tile with other bits is named and ranks nowhere.
"""

import json
import sys

import torch

from detcheck.kernels._triton import launch
from detcheck.kernels._triton import matmul as triton_matmul
from detcheck.kernels._triton import tiles as triton_tiles
from detcheck.kernels._triton.launch import Tile

ROWS = (1, 16, 32, 64, 128, 512, 4096)
# What to try beyond the table: (rows, columns, K, warps, stages, swap).
MORE = [
    (16, 64, 64, 4, 6, True), (16, 128, 64, 4, 6, True), (16, 64, 128, 4, 4, False), (64, 64, 128, 4, 4, False), (64, 128, 64, 4, 4, False),
    (128, 128, 64, 4, 4, False), (128, 128, 64, 8, 4, False), (128, 256, 64, 8, 4, False), (256, 128, 64, 8, 3, False),
]  # fmt: skip


def candidates():
    table = [tile for _, _, tile in triton_tiles.BY_ROWS.get(launch.family(launch.target_of_device()), ())]
    more = [
        Tile({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "SWAP": swap}, warps, stages)
        for m, n, k, warps, stages, swap in MORE
    ]
    return {name(tile): tile for tile in (*table, *more)}


def name(tile):
    sizes = "x".join(str(tile.sizes[f"BLOCK_{axis}"]) for axis in "MNK")
    return f"{sizes} w{tile.warps} s{tile.stages}{' swapped' if tile.sizes.get('SWAP') else ''}"


def multiply(x, w, tile):
    return triton_matmul.matmul(x, w, None, tile)


def compare(found):
    """gpu_proof.py's part: every candidate's bits by the defining tile's, in both halves; and attention split and at one go."""
    from detcheck.kernels._triton import attention_launch

    n, k, some = (4096, 4096, None) if not found.small else (40, 64, 2)
    verdicts, target = {}, launch.target_of_device()
    for dtype in (torch.bfloat16, torch.float16):
        defining = triton_matmul.tile(n, launch.TYPES[str(dtype)[6:]], target)
        for label, tile in list(candidates().items())[:some]:
            key = f"{label} {str(dtype)[6:]}"
            try:
                verdicts[key] = triton_tiles.agree(tile, defining, n, k, dtype, torch.device(found.device), multiply)
            except Exception as error:  # noqa: BLE001  a tile too large for this device is an answer
                verdicts[key] = f"{type(error).__name__}: {str(error)[:120]}"
            equal = sum(each is True for each in verdicts.values())
            found.say(f"{equal} of {len(verdicts)} tiles give the defining one's bits", tiles=verdicts)
    other = [key for key, each in verdicts.items() if each is not True]
    splits = {}
    for dim in (64, 128, 256)[:some]:
        for dtype in (torch.bfloat16, torch.float16, torch.float32)[:some]:
            q = torch.empty(1, 8, 1, dim, dtype=dtype, device=found.device)
            splits[f"{dim} {str(dtype)[6:]}"] = (
                None if found.small else attention_launch.splits_agree(q, 4, 2, False, 16)
            )
            found.say(f"not so: {', '.join(other) or 'none'}", splits=splits)
    apart = [key for key, same in splits.items() if same is False]
    found.say(f"{len(verdicts) - len(other)} of {len(verdicts)} tiles give the defining one's bits{f' (not {chr(44).join(other)})' if other else ''}; "
              f"split and one go differ for {', '.join(apart) or 'none'} of {len(splits)} kinds of attention")  # fmt: skip


def times(n, k, rows, dtype=torch.bfloat16):
    """[(stock / ours, tile)] of tiles with equal bits, fastest first."""
    import gpu

    target = launch.target_of_device()
    defining = triton_matmul.tile(n, launch.TYPES[str(dtype)[6:]], target)
    x, w = torch.randn(rows, k, device="cuda").to(dtype), torch.randn(n, k, device="cuda").to(dtype)
    sets = [(x.clone(), w.clone()) for _ in range(gpu.rotations_of(x, w))]
    stock = gpu.device_ms(lambda i: torch.nn.functional.linear(*sets[i]), len(sets))
    made = []
    for label, tile in {name(defining): defining, **candidates()}.items():
        try:
            if not triton_tiles.agree(tile, defining, n, k, dtype, x.device, multiply):
                continue
            made.append((stock / gpu.device_ms(lambda i, t=tile: multiply(*sets[i], t), len(sets)), label))
        except Exception as error:  # noqa: BLE001  too large for this device
            print(f"  {label}: {type(error).__name__}", flush=True)
    return sorted(made, reverse=True)


def main(weights):
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_tiles.py needs a CUDA device with TMA (Hopper or Blackwell)")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {launch.description()}")
    found = {}
    for n, k in weights:
        for rows in ROWS:
            best = times(n, k, rows)
            found[f"{n},{k},{rows}"] = best
            print(
                f"({n}, {k}) M = {rows}: " + "; ".join(f"{ratio:.2f} {label}" for ratio, label in best[:4]), flush=True
            )
    print(json.dumps(found))


if __name__ == "__main__":
    import gpu

    main([tuple(map(int, word.split(","))) for word in sys.argv[1:]] or gpu.WEIGHTS)
