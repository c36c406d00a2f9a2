"""Launches attention's kernels: at one go, or with a program a split where few queries leave the device idle.

Which of the two it is decides no bits: the second is taken only where the device gave the bits of the first (`splits_agree`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton

from detcheck.kernels._triton import attention_splits, attention_tiles
from detcheck.kernels._triton.attention import attention_kernel, merge_kernel, split_kernel
from detcheck.kernels._triton.launch import fit, on_its_device, processors, strides, target_of_device, type_of, unit
from detcheck.op import NotInvariantError

if TYPE_CHECKING:
    import torch

LOG2_E = 1.4426950408889634  # powers of 2 are what the hardware computes


@on_its_device
def dense(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    scale: float,
    soft_cap: float = 0.0,
    first: torch.Tensor | None = None,
    split: bool | None = None,
    alone: bool | None = None,
) -> torch.Tensor:
    """q[B, H, L, D], k, v[B, KH, S, D] -> [B, H, L, D], of arguments that `kernels.attention.attention` has checked.

    first: int32[B], no later than any low of its request; splits are counted from there. Without it, from the query's own low.
    split: a program for each split; None: where that has been shown to give the same bits, and there are few queries.
    alone: without `first`, whether queries of a request begin at different keys; None: the device is asked, and waited for.
    """
    import torch

    batch, heads, length, dim = q.shape
    out = torch.empty(batch, length, heads, dim, dtype=q.dtype, device=q.device).transpose(1, 2)
    if not out.numel():
        return out
    low, high = (t.to(torch.int32).contiguous() for t in (low, high))
    windowed = first is not None
    if first is None:
        first = torch.where(high > low, low, torch.iinfo(torch.int32).max).amin(1, keepdim=True)
        alone = length > 1 and (bool(((high > low) & (low != first)).any()) if alone is None else alone)
        first = low if alone else first
    alone = bool(alone) and not windowed
    first = fit(first.view(batch, -1), 1)
    numbers = {
        "low_b": length,
        "first_b": first.shape[1],
        "first_l": int(alone),
        "L": length,
        "S": k.shape[2],
        "table_b": 0,
    }
    pointers = {"low": fit(low, 1), "high": fit(high, 1), "first": first, "table": low, "start": low, "lengths": low}
    step = unit(dim, type_of(q))
    q, k, v = (fit(t, step) for t in (q, k, v))
    named = zip(
        ("q_b", "q_h", "q_l", "k_b", "k_h", "k_s", "v_b", "v_h", "v_s"),
        (s for t in (q, k, v) for s in strides(t, step)),
        strict=True,
    )
    numbers |= dict(named) | dict(zip(("out_b", "out_h", "out_l"), strides(out, step), strict=True))
    window = 1 if windowed else 0
    _launch(
        q, k, v, out, pointers, numbers, (batch, length, k.shape[2]), heads, scale, soft_cap, window, 0, alone, split
    )
    return out


@on_its_device
def paged(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_table: torch.Tensor,
    query_start: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    soft_cap: float,
    window: int | None,
    out: torch.Tensor,
    longest: tuple[int, int] | None = None,
    split: bool | None = None,
) -> None:
    """q[T, H, D], keys, values[blocks, KH, block_size, D] -> out[T, H, D], of arguments that `kernels.attention.paged_attention` has checked.

    longest: (queries, keys) that no request exceeds; without it the device is asked, and waited for.
    """
    requests, (heads, dim) = len(lengths), q.shape[1:]
    if not requests or not out.numel() or not keys.shape[0]:
        return
    if longest is None:
        longest = int((query_start[1:] - query_start[:-1]).max()), int(lengths.max())
    step = unit(dim, type_of(q))
    q, keys, values = (fit(t, step) for t in (q, keys, values))
    to = fit(out, step)
    table, start, lengths = (fit(t, 1) for t in (block_table, query_start, lengths))
    pointers = {"low": lengths, "high": lengths, "first": lengths, "table": table, "start": start, "lengths": lengths}
    named = zip(("q_l", "q_h", "out_l", "out_h"), (s for t in (q, to) for s in strides(t, step)), strict=True)
    numbers = {
        "q_b": 0,
        "out_b": 0,
        "low_b": 0,
        "first_b": 0,
        "first_l": 0,
        "L": 0,
        "S": 0,
        "table_b": table.stride(0),
        **dict(named),
    }
    steps = (s for t in (keys, values) for s in strides(t, step))
    numbers |= dict(zip(("k_b", "k_h", "k_s", "v_b", "v_h", "v_s"), steps, strict=True))
    sizes = (requests, *longest)
    _launch(
        q, keys, values, to, pointers, numbers, sizes, heads, scale, soft_cap, window or 0, keys.shape[2], False, split
    )
    if to is not out:
        out.copy_(to)


def _launch(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    pointers: dict[str, torch.Tensor],
    numbers: dict[str, int],
    sizes: tuple[int, int, int],
    heads: int,
    scale: float,
    soft_cap: float,
    window: int,
    page: int,
    alone: bool,
    split: bool | None,
) -> None:
    """sizes: requests, the most queries of one, the most keys of one. alone: a tile holds one query."""
    import torch

    requests, queries, length = sizes
    shared, dim, target = keys.shape[1], q.shape[-1], target_of_device()
    if dim > attention_tiles.WIDEST:
        raise NotInvariantError(
            f"attention on a GPU has batch-invariant kernels for heads of up to {attention_tiles.WIDEST} elements; got {dim}"
        )
    group = heads // shared
    chosen = attention_tiles.tile(dim, type_of(q), target)
    block_m = chosen.sizes["BLOCK_M"]
    constants = attention_tiles.constants_of(dim, type_of(q), group, shared, page, window, bool(soft_cap), chosen)
    together = int(constants["HEADS"])
    in_tile = 1 if alone else block_m // together
    tiles = triton.cdiv(queries, in_tile) * triton.cdiv(group, together)
    parts = triton.cdiv(length, attention_tiles.SPLIT)
    numbers = numbers | {"QUERIES": in_tile}
    scaled = 2 * scale / soft_cap if soft_cap else scale
    factors = {"scale": scaled * LOG2_E, "cap": soft_cap * LOG2_E}
    rows = min(in_tile, queries) * together
    if split is None:
        few = parts > 1 and rows <= attention_tiles.FEW and tiles * shared * requests < processors()
        split = few and splits_agree(q, group, shared, bool(soft_cap), page, window)
    if not split:
        given = {"q": q, "keys": keys, "values": values, "out": out, **pointers, **numbers, **factors, **constants}
        given = {n: given[n] for n in attention_kernel.arg_names}
        attention_kernel[(tiles, shared, requests)](**given, **chosen.options)
        return
    parts = max(parts, 1)
    slots = requests * tiles * shared * parts
    sums = q.new_empty(slots, 2, rows, dtype=torch.float32)
    partial = q.new_empty(slots, rows, chosen.sizes["BLOCK_D"], dtype=torch.float32)
    given = {
        "q": q,
        "keys": keys,
        "values": values,
        "sums": sums,
        "partial": partial,
        "out": out,
        **pointers,
        **numbers,
        **factors,
        **constants,
        "parts": parts,
        "rows": rows,
    }
    merging = attention_tiles.tile_of_merge(dim, type_of(q), target, rows <= attention_tiles.FEW)
    split_kernel[(parts, tiles * shared, requests)](**{n: given[n] for n in split_kernel.arg_names}, **chosen.options)
    given |= merging.sizes
    merge_kernel[(1, tiles * shared, requests)](**{n: given[n] for n in merge_kernel.arg_names}, **merging.options)


def splits_agree(q: torch.Tensor, group: int, shared: int, capped: bool, page: int = 0, window: int = 0) -> bool:
    """Whether q's device gives the same bits at one go and with a program a split, for few rows of that kind of attention."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, split: bool) -> torch.Tensor:
        cap = 20.0 if capped else 0.0
        if page:
            return _over_blocks(q, k, v, ends, cap, page, window, split)
        return _over_keys(q, k, v, ends, cap, window, split)

    return attention_splits.agree(q, group, shared, (capped, page, window), attend)


def _over_keys(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, cap: float, window: int, split: bool
) -> torch.Tensor:
    """`dense`, of queries the last of which is at the last key."""
    import torch

    length, dim = q.shape[2:]
    high = (ends[:, None] - torch.arange(length, device=q.device).flip(0)).int()
    low = torch.zeros_like(high)
    first = low[:, 0].contiguous() if window else None
    return dense(q, k, v, low, high, dim**-0.5, cap, first, split, alone=False)


def _over_blocks(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ends: torch.Tensor,
    cap: float,
    page: int,
    window: int,
    split: bool,
) -> torch.Tensor:
    """`paged`, of the same keys in blocks of `page`: [B L, H, D]."""
    import torch

    requests, _, length, dim = q.shape
    keys = k.shape[2]
    blocks = -(-keys // page)
    cached = [torch.nn.functional.pad(t, (0, 0, 0, blocks * page - keys)) for t in (k, v)]
    cached = [t.unflatten(2, (blocks, page)).transpose(1, 2).flatten(0, 1).contiguous() for t in cached]
    table = torch.arange(requests * blocks, dtype=torch.int32, device=q.device).view(requests, blocks)
    start = (torch.arange(requests + 1, device=q.device) * length).int()
    flat = q.transpose(1, 2).flatten(0, 1).contiguous()
    out = torch.zeros_like(flat)
    paged(flat, *cached, table, start, ends, dim**-0.5, cap, window or None, out, (length, keys), split)
    return out
