"""The rows of one request in the tensors of a step of vLLM's, and what tensors a module's arguments hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

from detcheck.tensors import same_form

DIRECTIONS = 3  # of a position, where it has several: time, height, width


@dataclass(frozen=True)
class RowSpan:
    """Where the request's rows are in a step, and how many rows there are."""

    first: int
    last: int
    computed: int
    """tokens of it that were computed before"""
    tokens: int
    index: int
    requests: int

    @property
    def positions(self) -> range:
        return range(self.computed, self.computed + self.last - self.first)

    def part(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """What of it is the request's: of all tokens, or of the last token of each request. None: it holds no rows."""
        if not tensor.ndim or isinstance(tensor, torch.nn.Parameter):
            return None
        if self.across(tensor):
            return tensor[:, self.first : self.last]
        if tensor.shape[0] == self.tokens:
            return tensor[self.first : self.last]
        if tensor.shape[0] == self.requests:
            return tensor[self.index : self.index + 1]
        return None

    def cut(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The same, a row for each token."""
        part = self.part(tensor)
        return part.T if part is not None and self.across(tensor) else part

    def across(self, tensor: torch.Tensor) -> bool:
        """Whether tokens lie along the second dimension: positions in several directions."""
        across = tensor.ndim == 2 and tensor.shape[1] == self.tokens and not tensor.is_floating_point()
        return across and (tensor.shape[0] != self.tokens or self.tokens == DIRECTIONS)

    def window(self, first: int, last: int) -> RowSpan:
        """Rows first to last - 1, of any request."""
        return RowSpan(first, last, self.computed, self.tokens, 0, -1)


def own_rows(out: Any, own: RowSpan) -> list[torch.Tensor]:
    """Copies of the request's rows of all floating-point tensors among these."""
    cuts = [own.cut(t) for t in leaves(out) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    return [same_form(cut) for cut in cuts if cut is not None]


def leaves(value: Any) -> list[Any]:
    """All leaves of lists, tuples, dicts and dataclasses, in order."""
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return [leaf for part in value for leaf in leaves(part)]
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if is_dataclass(value) and type(value).__name__ == "SamplerOutput":
        return [leaf for f in fields(value) for leaf in leaves(getattr(value, f.name))]
    return [value]


def mapped(value: Any, change: Callable[[int, torch.Tensor], torch.Tensor]) -> Any:
    """The same with its tensors changed; `change` is given a tensor's place among the leaves."""
    place = -1

    def walk(part: Any) -> Any:
        nonlocal place
        if isinstance(part, (list, tuple)) and not isinstance(part, torch.Size):
            made = [walk(each) for each in part]
            return type(part)(*made) if hasattr(part, "_fields") else type(part)(made)
        if isinstance(part, dict):
            return {name: walk(each) for name, each in part.items()}
        place += 1
        return change(place, part) if isinstance(part, torch.Tensor) else part

    return walk(value)


def plain(leaf: Any) -> bool:
    """Whether it can be given to a call of fewer rows as it is, or cut."""
    return leaf is None or isinstance(leaf, (torch.Tensor, torch.nn.Module, bool, int, float, str))


def nudge(own: RowSpan, out: Any) -> None:
    """Move the request's last row by one representable number each."""
    first = next(t for t in leaves(out) if isinstance(t, torch.Tensor) and t.is_floating_point())
    row = own.cut(first)[-1]
    row.copy_(row.nextafter(row.new_full((), float("inf"))))
