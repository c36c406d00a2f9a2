"""An op as what it is made of: many sums of `length` summands, put into one call and read out of one result.

Where a weight is, its rows hold the summands and x is all ones, so every output column is a probe by itself, at any batch size;
a reduction over rows has one probe a row. The op is called with tensors of the caller's sizes and layout: with fewer columns, or
aligned otherwise, kernels take other orders.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcheck.harness import user_op
from detcheck.harness.batches import strided, unaligned
from detcheck.probes.order.facts import Place
from detcheck.summation.arithmetic import MANTISSA

if TYPE_CHECKING:
    import torch


class OpError(Exception):
    """The op raised, or returned what is no result of its form. Its text follows the op's name."""


@dataclass
class Sums:
    """The op with its tensors. Slots are the sums whose summands one call can choose freely: columns, or rows."""

    run: Callable[[], torch.Tensor]
    """calls the op; its result is [rows, columns] or can be read as that"""
    terms: torch.Tensor
    """[..., slots, length]: a view of the argument that holds the summands"""
    factors: torch.Tensor | None
    """[..., length]: a view of what multiplies them; None: nothing does"""
    rows: int
    columns: int
    by: str
    """ "columns": a slot is a column, and every row sees the same summands; "rows": a slot is a row"""
    shape: tuple[int, ...] | None = None
    """of the result, but for axes of one; None: any of so many numbers"""
    arguments: tuple[torch.Tensor, ...] = ()
    """all that it is called with"""
    squared: bool = False
    """whether it is the squares that are added up"""
    scale: float = 1.0
    out: str = ""
    """dtype of the result, once the op was called"""
    calls: int = 0
    op_s: float = 0.0

    @property
    def length(self) -> int:
        return self.terms.shape[-1]

    @property
    def slots(self) -> int:
        return self.terms.shape[-2]

    @property
    def dtype(self) -> str:
        return str(self.terms.dtype).removeprefix("torch.")

    @property
    def precision(self) -> int:
        """Bits of a summand or of a result, whichever has fewer."""
        return min(MANTISSA[self.dtype], MANTISSA[self.out or self.dtype])

    def fill(self, value: float) -> None:
        self.terms.fill_(value)

    def base(self, values: np.ndarray) -> None:
        """Every sum gets values[length]."""
        import torch

        self.terms.copy_(torch.from_numpy(np.ascontiguousarray(values)))

    def put(self, slots: np.ndarray, leaves: np.ndarray, values: np.ndarray | float) -> None:
        """values[n] at summands leaves[n] of the sums in slots[n]."""
        import torch

        value = torch.as_tensor(values, dtype=torch.float64).to(self.terms.dtype).to(self.terms.device)
        at, of = (torch.from_numpy(index).to(self.terms.device) for index in (slots, leaves))
        self.terms[..., at, of] = value

    def load(self, slots: np.ndarray, values: np.ndarray) -> None:
        """values[n, length] into the sums of slots[n]."""
        import torch

        at = torch.from_numpy(slots).to(self.terms.device)
        self.terms[..., at, :] = torch.from_numpy(values).to(self.terms.dtype).to(self.terms.device)

    def multiply_by(self, factors: np.ndarray | float) -> None:
        import torch

        if self.factors is not None:
            self.factors.copy_(torch.as_tensor(factors, dtype=torch.float64))

    def bits(self) -> torch.Tensor:
        """One call: [rows, columns] in the op's dtype. Raises OpError."""
        import torch

        started = time.perf_counter()
        try:
            with torch.no_grad(), user_op.importable(), contextlib.redirect_stdout(sys.stderr):
                result = tensor_of(self.run())
        except (KeyboardInterrupt, OpError):
            raise
        except BaseException as error:  # it is foreign and may raise anything
            raise OpError(f"raised {user_op.words(error)}") from error
        finally:
            self.op_s += time.perf_counter() - started
            self.calls += 1
        self.out = str(result.dtype).removeprefix("torch.")
        expected = (self.rows, self.columns) if self.shape is None else self.shape
        fits = result.numel() == self.rows * self.columns and (
            self.shape is None or bare(result.shape) == bare(expected)
        )
        if not fits or self.out not in MANTISSA:
            raise OpError(f"returned {self.out}{list(result.shape)}; {list(expected)} sums were expected")
        return result.reshape(self.rows, self.columns)

    def result(self) -> np.ndarray:
        """One call: float64[rows, columns], a copy: an op may write its next result into the same memory."""
        return self.bits().double().cpu().numpy().copy()

    def slots_of(self, place: Place) -> np.ndarray:
        return np.asarray(place.columns if self.by == "columns" else place.rows)

    def of(self, place: Place, result: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """What came of the sums in these slots: [rows of the place or 1, slots]."""
        if self.by == "columns":
            return result[np.ix_(np.asarray(place.rows), slots)]
        return result[slots, place.columns[0]][None]


def tensor_of(found: object) -> torch.Tensor:
    """What an op returned, as a plain tensor. Raises OpError."""
    import torch

    if isinstance(found, tuple) or found is None:
        what = "nothing" if found is None else f"a tuple of {len(found)}"
        raise OpError(f"returned {what}; it must return its sums alone, as one tensor")
    if isinstance(found, torch.Tensor):
        if found.is_nested or found.layout != torch.strided or found.device.type == "meta":
            raise OpError("returned a tensor that is nested, sparse or without data; it must be a plain one")
        return found.detach().resolve_neg()
    return torch.as_tensor(found, dtype=None if hasattr(found, "dtype") else torch.float64)


def bare(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def make(
    form: str,
    function: Callable[..., object],
    shape: Sequence[int],
    rows: int,
    dtype: torch.dtype,
    fed: str = "",
    device: str = "cpu",
) -> Sums:
    """The op in that form with `rows` rows in the batch; `fed` as in `harness.batches.form`, `device` torch's name of it."""
    import torch

    arguments: list[torch.Tensor] = []

    def tensor(*sizes: int) -> torch.Tensor:
        made = torch.ones(*sizes, dtype=dtype, device=device)
        if fed == "strides":
            made = strided(made) if made.ndim > 1 else strided(made[:, None])[:, 0]
        arguments.append(unaligned(made) if fed == "alignment" else made)
        return arguments[-1]

    sums = formed(form, function, shape, rows, tensor)
    sums.arguments = tuple(arguments)
    return sums


def formed(
    form: str, function: Callable[..., object], shape: Sequence[int], rows: int, tensor: Callable[..., torch.Tensor]
) -> Sums:
    """The same, with `tensor(*sizes)` to make its arguments."""
    if form in ("linear", "mm"):
        k, n = shape
        x = tensor(rows, k)
        w = tensor(n, k) if form == "linear" else tensor(k, n)
        return Sums(lambda: function(x, w), w if form == "linear" else w.t(), x, rows, n, "columns", (rows, n))
    if form == "bmm":
        b, k, n = shape
        x, w = tensor(b, rows, k), tensor(b, k, n)
        # Its result as [M, B, N]: what one row of the batch gives stands together, as in every other form.
        return Sums(lambda: swapped(function(x, w)), w.transpose(1, 2), x, b * rows, n, "columns", (rows, b, n))
    if form == "mv":
        k, n = shape
        w, x = tensor(n, k), tensor(k)
        return Sums(lambda: function(w, x), w, x, 1, n, "columns", (n,))
    if form == "dot":
        x, w = tensor(*shape), tensor(*shape)
        return Sums(lambda: function(x, w), w[None], x, 1, 1, "columns", ())
    if form in ("sum", "squares"):
        x = tensor(rows, *shape)
        return Sums(lambda: function(x), x, None, rows, 1, "rows", (rows,), squared=form == "squares")
    if form == "vector":
        x = tensor(*shape)
        return Sums(lambda: function(x), x[None], None, 1, 1, "columns", ())
    heads, kv_heads, keys, width = shape
    q, k, v = tensor(rows, heads, 1, width), tensor(rows, kv_heads, keys, width), tensor(rows, kv_heads, keys, width)
    q.zero_()  # every key gets the same weight
    shape = rows, heads, 1, width
    return Sums(lambda: function(q, k, v), v.transpose(2, 3), None, rows * heads, width, "columns", shape)


def swapped(found: object) -> torch.Tensor:
    result = tensor_of(found)
    return result.transpose(0, 1) if result.ndim > 1 else result
