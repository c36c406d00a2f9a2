"""Does an op that is stock give a row, at the shapes that it is called with, the bits that it has alone? Asked of calls as they run.

Rows are what the first dimension of the result and of some arguments counts. Where nothing is counted like that (a sum over the
batch, a scalar), it cannot be asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from detcheck.tensors import integers, out_of_memory, same_form

if TYPE_CHECKING:
    import torch

ALIKE, UNLIKE = "alike", "unlike"


def form_of(arguments: Any) -> tuple[object, ...]:
    """What calls of one form have in common: shapes, strides and dtypes of tensors, anything else as it is written."""
    return tuple((tuple(a.shape), a.stride(), a.dtype) if hasattr(a, "untyped_storage") else repr(a) for a in arguments)


def asked(run: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any], made: Any) -> str:
    """ALIKE, UNLIKE, or "" where it cannot be asked. `made`: what the call gave. The first and the last row are asked."""
    given = [a for a in (*arguments, *options.values()) if hasattr(a, "untyped_storage")]
    results = [t for t in (made if isinstance(made, tuple) else (made,)) if hasattr(t, "untyped_storage")]
    rows = results[0].shape[0] if results and results[0].ndim else 0
    if any(result.is_quantized for result in results):  # a dtype that carries its scale, whose bits torch does not show
        return ""
    if rows < 2 or not any(is_rows(a, rows) for a in given) or any(is_index(a) for a in given):
        return ""
    for row in (0, rows - 1):
        cut, named = [part(a, rows, row) for a in arguments], {n: part(a, rows, row) for n, a in options.items()}
        try:
            alone = run(*cut, **named)
        except Exception as error:  # it may refuse sizes that the model never gives it
            if out_of_memory(error):
                raise
            return ""
        pairs = zip(results, alone if isinstance(alone, tuple) else (alone,), strict=False)
        for together, lone in pairs:
            if together.ndim == 0 or together.shape[0] != rows or lone.shape != together[row : row + 1].shape:
                return ""
            if not bool((integers(together[row : row + 1]) == integers(lone)).all()):
                return UNLIKE
    return ALIKE


def is_rows(argument: torch.Tensor, rows: int) -> bool:
    return argument.ndim > 0 and argument.shape[0] == rows


def is_index(argument: torch.Tensor) -> bool:
    """Places in another argument, which is no longer there once it is cut to a row."""
    return not (argument.is_floating_point() or argument.is_complex()) and argument.dtype.itemsize > 1


def part(argument: Any, rows: int, row: int) -> Any:
    """The row of what counts rows, laid out as it was; anything else as it is."""
    if not hasattr(argument, "untyped_storage") or not is_rows(argument, rows):
        return argument
    return same_form(argument[row : row + 1])
