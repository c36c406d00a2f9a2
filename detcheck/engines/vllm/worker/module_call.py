"""How a module's call in vLLM is asked again, with exactly the inputs that it has in the step: see `detcheck/replay.py`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from detcheck.engines.vllm.calls import ModuleTrace
from detcheck.engines.vllm.worker.rows import RowSpan, leaves, mapped, own_rows, plain
from detcheck.reason import Reason
from detcheck.replay import Replayed, Untested, first_size, hashed, replay
from detcheck.tensors import same_form

SAMPLER = "sampler"
IDEMPOTENT = ("Attention", "MLAAttention")  # asked again they write the same numbers to the same places of their cache


@dataclass(frozen=True)
class ModuleCall:
    """A call and what it was given."""

    call: ModuleTrace
    module: torch.nn.Module
    given: Any
    """copies of (arguments, options): the call itself may have written into its own"""
    own: RowSpan
    stateful: bool
    offsets: Mapping[tuple[str, int, int], int]
    """(path, visit, place) -> bytes from an aligned address, of what went in when the prompt ran alone"""

    def replayed(self, out: Any, repeats: int) -> Replayed:
        """`out`: what came out of the call itself. `repeats`: calls of each arm."""
        if why := self._untested():
            return Replayed(untested=Reason(why))
        found = replay(own_rows(out, self.own), self._again, None if self.stateful else self._alone, repeats)
        if self.stateful and found.untested is None:
            found.untested = Reason(Untested.CACHE)
        if found.steady and len(self.call.positions) == (count := self.own.last - self.own.first):
            first = first_size(count, self.own.tokens, self._bits_of, found.alone[0])
            found.starts_at = 1 if first == count else first  # its own rows are enough: it is how they lie in memory
        return found

    def _untested(self) -> Untested | None:
        if None in self.call.after:
            return Untested.ROWS_UNKNOWN
        if self.stateful:
            idempotent = any(kind.__name__ in IDEMPOTENT for kind in type(self.module).__mro__)
            return None if idempotent else Untested.OWN_STATE
        others = self.call.path == SAMPLER or any(not plain(leaf) for leaf in leaves(self.given))
        return Untested.NOT_ROWS if others else None

    def _run(self, given: Any, own: RowSpan) -> list[torch.Tensor]:
        arguments, options = given
        return own_rows(self.module(*arguments, **options), own)

    def _again(self) -> Sequence[torch.Tensor]:
        own = self.own
        return self._run(mapped(self.given, lambda _, t: same_form(t) if own.cut(t) is not None else t), own)

    def _alone(self) -> Sequence[torch.Tensor]:
        """Laid out as they are, and as far from an aligned address as when the prompt ran alone."""
        own, call = self.own, self.call

        def rows(place: int, tensor: torch.Tensor) -> torch.Tensor:
            if (part := own.part(tensor)) is None:
                return tensor
            return same_form(part, offset=self.offsets.get((call.path, call.visit, place), 0))

        count = own.last - own.first
        return self._run(mapped(self.given, rows), RowSpan(0, count, own.computed, count, 0, 1))

    def _bits_of(self, size: int) -> int:
        """Of the request's rows among as many."""
        own = self.own
        first = min(own.first, own.tokens - size)
        inside = RowSpan(own.first - first, own.last - first, own.computed, size, 0, 0)
        window = own.window(first, first + size)
        cut = mapped(self.given, lambda _, t: t if window.part(t) is None else same_form(window.part(t)))
        return hashed(self._run(cut, inside))


def source(module: Any) -> str:
    """File and line of the code that it runs."""
    try:
        file, (_, line) = inspect.getsourcefile(type(module).forward), inspect.getsourcelines(type(module).forward)
    except (OSError, TypeError):
        return ""
    return f"{'/'.join((file or '').replace(chr(92), '/').split('/')[-2:])}:{line}"
