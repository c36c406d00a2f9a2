"""One call asked again with exactly the inputs that it had in a batch: all rows as they were, and the prompt's rows alone.

Whoever traces a model says how its calls are asked (an op of torch, a module of vLLM); what is asked, how often, and what it
shows is here. No tensor is kept, only hashes and distances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from detcheck.bits import furthest, patterns
from detcheck.reason import Reason
from detcheck.tensors import digest, integers, out_of_memory

if TYPE_CHECKING:
    import numpy as np
    import torch

    Ask = Callable[[], Sequence[torch.Tensor]]


class Untested(StrEnum):
    """Why a call is not asked again, or not with fewer rows: codes of a `Reason`."""

    ROWS_UNKNOWN = "rows_unknown"
    RANDOM = "random"
    NO_BATCH = "no_batch"
    MIXES_ROWS = "mixes_rows"
    OTHER_ARGUMENTS = "other_arguments"
    OTHER_ARGUMENTS_ALONE = "other_arguments_alone"
    INDICES = "indices"
    OWN_STATE = "own_state"
    NOT_ROWS = "not_rows"
    CACHE = "cache"
    SHAPE_ALONE = "shape_alone"
    RAISES_AGAIN = "raises_again"
    RAISES_ALONE = "raises_alone"


@dataclass(frozen=True)
class Difference:
    """How far apart two results of one call are."""

    elements: int
    differing: int
    max_ulp: float | None
    """None: not numbers, or of one byte"""
    max_abs: float | None


@dataclass
class Replayed:
    """What came of a call that was asked again: a hash of the bits each time."""

    alone: list[int] = field(default_factory=list)
    batch: list[int] = field(default_factory=list)
    """the call itself is the first"""
    untested: Reason | None = None
    difference: Difference | None = None
    """between what the call gave and the first result that has other bits"""
    starts_at: int | None = None
    """the fewest rows with which the prompt's own have other bits, where more rows have them too"""

    @property
    def differs(self) -> bool:
        return len({*self.alone, *self.batch}) > 1

    @property
    def steady(self) -> bool:
        """Whether each arm gave the same each time, and the two differ: then it is the batch that decides."""
        return len(set(self.alone)) == 1 == len(set(self.batch)) and self.differs


def hashed(tensors: Sequence[torch.Tensor]) -> int:
    return hash(tuple(map(digest, tensors)))


def replay(
    own: Sequence[torch.Tensor],
    again: Ask,
    alone: Ask | None,
    repeats: int,
    hashed: Callable[[Sequence[torch.Tensor]], int] = hashed,
) -> Replayed:
    """`own`: the prompt's rows of what the call gave in the batch. `again` and `alone` ask it and give the same rows; None: it
    cannot be asked alone. `repeats`: calls of each arm. Raises whatever says that memory ran out."""
    found, other = Replayed(batch=[hashed(own)]), None
    arms = [(found.batch, again, repeats - 1, Untested.RAISES_AGAIN)]
    arms += [(found.alone, alone, repeats, Untested.RAISES_ALONE)] if alone else []
    for arm, ask, times, raises in arms:
        for _ in range(times):
            try:
                made = ask()
            except Exception as error:  # it may refuse sizes or layouts that the model never gives it
                if out_of_memory(error):
                    raise
                return Replayed(untested=Reason(raises, {"error": type(error).__name__}))
            if [t.shape for t in made] != [t.shape for t in own]:
                return Replayed(untested=Reason(Untested.SHAPE_ALONE))
            arm.append(hashed(made))
            if other is None and arm[-1] != found.batch[0]:
                other = made
    if other is not None:
        found.difference = difference(own, other)
    return found


def first_size(smallest: int, whole: int, bits: Callable[[int], int], lone: int) -> int | None:
    """The fewest rows whose bits are not those of the row alone, where the whole batch's are not. By bisection.

    None: it refuses sizes that the model never gives it. It still counts as a cause.
    """
    equal, differs = smallest, whole
    try:
        if bits(smallest) != lone:
            return smallest
        while differs - equal > 1:
            size = (equal + differs) // 2
            equal, differs = (size, differs) if bits(size) == lone else (equal, size)
    except Exception as error:
        if out_of_memory(error):
            raise
        return None
    return differs


def difference(own: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> Difference | None:
    """Of the first tensors that have other bits."""
    for a, b in zip(own, other, strict=True):
        x, y = integers(a).numpy(), integers(b).numpy()
        if (x != y).any():
            return apart(x, y, "" if a.is_complex() else str(a.dtype).removeprefix("torch."))
    return None


def apart(x: np.ndarray, y: np.ndarray, dtype: str) -> Difference:
    """Of bit patterns of numbers of that dtype (torch's name); "": of none whose distance is measured."""
    numbers = dtype and x.dtype.itemsize > 1
    ulp, absolute = furthest(patterns(x), patterns(y), dtype) if numbers else (None, None)
    return Difference(int(x.size), int((x != y).sum()), ulp, absolute)
