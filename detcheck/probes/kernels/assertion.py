"""`detcheck.assert_batch_invariant`: the question of `detcheck kernels`, for a test of your own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcheck.bits import floats_of, furthest, patterns
from detcheck.condition_name import ConditionName
from detcheck.harness.batches import ContractError, alike, form, row_bits, threads
from detcheck.probes.kernels.arm import TESTED
from detcheck.probes.kernels.schedule import FED, conditions
from detcheck.schedules.batches import THRESHOLDS
from detcheck.verdict import Verdict

if TYPE_CHECKING:
    import torch

RUN_ADVICE = "What to do: look for atomic additions, an autotuner that picks another kernel, memory that was never written, or random numbers."
OF_BATCH = (
    "What to do: use kernels that add each row in one order whatever the batch is; with `detcheck.batch_invariant():` puts ours in the "
    "place of torch's, and `detcheck order --op module:function` shows the order at each batch size."
)
ADVICE = {
    "rows": OF_BATCH,
    "mixed": OF_BATCH,
    "hostile": "What to do: look for a sum or a maximum that runs over other rows too; a mask by multiplication lets NaN through.",
    "threads": "What to do: keep the number of threads fixed (torch.set_num_threads), or add in an order that does not follow it.",
    "unaligned": "What to do: copy inputs to memory of their own first, or do not let the address choose how a row is added.",
    "strided": "What to do: make inputs contiguous first, or do not let strides choose how a row is added.",
}
NAMED = 8  # rows and conditions named in a message
MEANING = {
    "rows": "copies of the row",
    "mixed": "other rows beside it",
    "hostile": "rows of NaN and infinity beside it",
    "threads": "another number of threads",
    "unaligned": "inputs one element off in memory",
    "strided": "room between the rows in memory",
}


@dataclass(frozen=True)
class Examined:
    """What was seen of a function."""

    name: str
    verdict: Verdict
    """identical, batch-variant or run-variant"""
    note: str
    """of a difference: what, where, why, and what to do"""
    sizes: tuple[int, ...]
    """batch sizes that it was called at"""
    calls: int
    max_ulp: float | None = None
    """largest difference from the row alone, or between two trials; None: there is none, or not of two numbers"""
    max_abs: float | None = None


def assert_batch_invariant(
    fn: Callable[..., torch.Tensor],
    inputs: Sequence[object],
    batched: Sequence[int] = (0,),
    sizes: Sequence[int] = THRESHOLDS,
    trials: int = 2,
) -> None:
    """Raises AssertionError unless every row of `fn(*inputs)` has the same bits in every batch, each time.

    `inputs` are the arguments of one call; those at the places `batched` have a row per request as first dimension. Each of
    the first 16 rows is run alone, then among copies of itself, the other rows, NaN and infinity, at every size, `trials`
    times, at other thread counts, unaligned and strided. More rows see more. Raises ValueError where that cannot be asked.
    """
    seen = examine(fn, inputs, batched, sizes, trials)
    if seen.verdict is not Verdict.IDENTICAL:
        raise AssertionError(seen.note)


def examine(
    fn: Callable[..., torch.Tensor],
    inputs: Sequence[object],
    batched: Sequence[int] = (0,),
    sizes: Sequence[int] = THRESHOLDS,
    trials: int = 2,
) -> Examined:
    """What `assert_batch_invariant` asks, answered without raising AssertionError."""
    import torch

    name, batched, sizes = named(fn), tuple(batched), tuple(sizes)
    inputs = inputs if isinstance(inputs, torch.Tensor) else tuple(inputs)
    rows = count_rows(inputs, batched)
    if trials < 2 or not sizes or min(sizes) < 1:
        raise ValueError(f"assert_batch_invariant needs sizes from 1 up and at least 2 trials; got {sizes}, {trials}")
    if max(sizes) < 2:
        raise ValueError(
            f"sizes={sizes} has no batch of several rows, so nothing would be compared. Give sizes like (1, 8, 64)"
        )
    pool = tuple(both_ways(a) if rows == 1 and n in batched else a for n, a in enumerate(inputs))
    have, asked, calls = max(rows, 2), sorted({1, *sizes}), 0
    differing: dict[str, str] = {}
    far: list[tuple[float | None, float | None]] = []
    for tested in range(min(rows, TESTED)):
        alone, lone_dtype = None, ""
        for condition, kinds in conditions(asked, 0, plain=False):
            made = ConditionName.parse(condition)
            there = [tested if k == 0 else k if k < 0 else (tested + 1 + k % (have - 1)) % have for k in kinds]
            arguments = form(pool, batched, there, FED.get(made.kind, ""))
            slots = [slot for slot, k in enumerate(kinds) if k == 0]
            first = None
            for trial in range(trials):
                with torch.no_grad(), threads(made.threads):
                    try:
                        bits, dtype = row_bits(fn(*copied(arguments)), len(kinds))
                        alone, lone_dtype = (bits[0], dtype) if alone is None else (alone, lone_dtype)
                        alike(bits, dtype, alone, lone_dtype)
                    except ContractError as error:
                        raise ValueError(f"{name} {error}") from None
                calls += 1
                first = bits if first is None else first
                if (bits != first).any():
                    slot = int(np.flatnonzero((bits != first).any(1))[0])
                    note = (
                        f"{name} is not deterministic: row {slot} of the same batch ({condition}) has other bits in trial {trial} "
                        f"than in trial 0, whatever the batch does. {apart(first[slot], bits[slot], dtype)}\n{RUN_ADVICE}"
                    )
                    distance = furthest(patterns(first.ravel()), patterns(bits.ravel()), dtype)
                    return Examined(name, Verdict.RUN_VARIANT, note, tuple(asked), calls, *distance)
            wrong = [slot for slot in slots if (bits[slot] != alone).any()]
            if wrong:
                lone = np.broadcast_to(alone, (len(wrong), len(alone)))
                far.append(furthest(patterns(lone.ravel()), patterns(bits[wrong].ravel()), dtype))
            if wrong and condition not in differing:
                differing[condition] = (
                    f"in {condition} ({MEANING[made.kind]}) {len(wrong)} of {len(slots)} rows differ from input row {tested} "
                    f"alone: {listed(wrong)}. Row {wrong[0]}: {apart(alone, bits[wrong[0]], dtype)}"
                )
    if not differing:
        return Examined(name, Verdict.IDENTICAL, "", tuple(asked), calls)
    condition = next(iter(differing))
    note = (
        f"{name} is not batch-invariant: {differing[condition]}\nConditions that differ: {listed(differing)}. "
        f"Each of them gave the same bits {trials} times, so this is no chance.\n{ADVICE[ConditionName.parse(condition).kind]}"
    )
    return Examined(name, Verdict.BATCH_VARIANT, note, tuple(asked), calls, *map(largest, zip(*far, strict=True)))


def named(fn: Callable[..., object]) -> str:
    return getattr(fn, "__name__", None) or type(fn).__name__


def largest(found: Sequence[float | None]) -> float | None:
    return max((value for value in found if value is not None), default=None)


def count_rows(inputs: Sequence[object], batched: Sequence[int]) -> int:
    import torch

    found = {}
    if isinstance(inputs, torch.Tensor):
        raise ValueError(
            f"inputs must be the tuple of a call's arguments; got one tensor {tuple(inputs.shape)}. Write (tensor,)"
        )
    for n in batched:
        if type(n) is not int or n < 0:
            raise ValueError(f"batched names places of inputs, counted from 0; got {n!r} in batched={batched}")
        if n >= len(inputs) or not isinstance(inputs[n], torch.Tensor) or not inputs[n].ndim or not len(inputs[n]):
            raise ValueError(f"inputs[{n}] must be a tensor with at least one row, since {n} is in batched={batched}")
        found[n] = len(inputs[n])
    if len(set(found.values())) != 1:
        raise ValueError(f"batched inputs must have the same number of rows; got {found or 'none'}")
    return found[batched[0]]


def both_ways(t: torch.Tensor) -> torch.Tensor:
    """A lone row, and beside it the same backwards."""
    import torch

    return torch.cat((t, t.flip(-1)))


def copied(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """A function may write into its arguments: every call gets its own, which lie the same way in memory."""
    import torch

    def copy(t: torch.Tensor) -> torch.Tensor:
        whole = t.untyped_storage().nbytes() // t.element_size()
        room = t.as_strided((whole,), (1,), 0).clone()
        return room.as_strided(t.shape, t.stride(), t.storage_offset())

    return tuple(copy(a) if isinstance(a, torch.Tensor) else a for a in arguments)


def apart(a: np.ndarray, b: np.ndarray, dtype: str) -> str:
    """Where two rows' bits part and how far, in words."""
    index = int(np.flatnonzero(a != b)[0])
    x, y = (floats_of(patterns(row), dtype) for row in (a, b))
    ulp, _ = furthest(patterns(a), patterns(b), dtype)
    ulp = "" if ulp is None else f", up to {ulp:.0f} ulp apart"
    return f"{(a != b).sum()} of {len(a)} elements differ, the first is {index}: {x[index]} and {y[index]}{ulp}."


def listed(things: Sequence[object]) -> str:
    named = [str(thing) for thing in things]
    return ", ".join(named[:NAMED]) + (f" and {len(named) - NAMED} more" if len(named) > NAMED else "")
