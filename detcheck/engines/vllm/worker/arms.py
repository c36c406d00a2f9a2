"""Two arms on a module's call in vLLM, with exactly the inputs that it has in the step: all rows again, and the request's rows alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from detcheck.bits import furthest, patterns
from detcheck.engines.vllm.calls import Call
from detcheck.engines.vllm.worker.rows import Own, digest, leaves, mapped, own_rows, plain
from detcheck.tensors import integers, out_of_memory, same_form

SAMPLER = "sampler"
IDEMPOTENT = ("Attention", "MLAAttention")  # asked again they write the same numbers to the same places of their cache


@dataclass(frozen=True)
class Arms:
    """A call and what it was given. `ask(...)` fills in what came of it."""

    call: Call
    module: torch.nn.Module
    given: Any
    """copies of (arguments, options): the call itself may have written into its own"""
    own: Own
    stateful: bool
    offsets: Mapping[tuple[str, int, int], int]
    """(path, visit, place) -> bytes from an aligned address, of what went in when the prompt ran alone"""

    def cannot(self) -> str:
        """Why it is not asked again, in words; "" where it can be."""
        if None in self.call.after:
            return "the prompt's own rows are not known"
        if self.stateful:
            idempotent = any(kind.__name__ in IDEMPOTENT for kind in type(self.module).__mro__)
            return "" if idempotent else "it changes a state of its own"
        others = self.call.path == SAMPLER or any(not plain(leaf) for leaf in leaves(self.given))
        return "it also takes what is no rows" if others else ""

    def ask(self, out: Any, repeats: int) -> None:
        """`out`: what came out of the call itself. `repeats`: calls of each arm."""
        call, own = self.call, self.own
        if why := self.cannot():
            call.untested = why
            return
        came = own_rows(out, own)
        call.batch, other = [digest(came)], None
        arms = [(call.batch, self._again, repeats - 1)]
        arms += [] if self.stateful else [(call.alone, self._alone, repeats)]
        for arm, again, times in arms:
            for _ in range(times):
                try:
                    made = again()
                except Exception as error:  # a module may refuse sizes that the model never gives it
                    if out_of_memory(error):
                        raise
                    call.untested = f"it raises {type(error).__name__} when it is asked again"
                    call.alone, call.batch = [], []
                    return
                arm.append(digest(made))
                if other is None and arm[-1] != call.batch[0]:
                    other = made
        if self.stateful:
            call.untested = "its cache cannot be cut: the prompt's own run is what it is compared with"
        if other is not None and [t.shape for t in other] == [t.shape for t in came]:
            call.details = apart(came, other)
            call.source = source(self.module)
            if len(set(call.alone)) == 1 == len(set(call.batch)):
                call.details["starts_at"] = self._starts()

    def _run(self, given: Any, own: Own) -> list[torch.Tensor]:
        arguments, options = given
        return own_rows(self.module(*arguments, **options), own)

    def _again(self) -> list[torch.Tensor]:
        own = self.own
        return self._run(mapped(self.given, lambda _, t: same_form(t) if own.cut(t) is not None else t), own)

    def _alone(self) -> list[torch.Tensor]:
        """Laid out as they are, and as far from an aligned address as when the prompt ran alone."""
        own, call = self.own, self.call

        def rows(place: int, tensor: torch.Tensor) -> torch.Tensor:
            if (part := own.part(tensor)) is None:
                return tensor
            return same_form(part, offset=self.offsets.get((call.path, call.visit, place), 0))

        count = own.last - own.first
        return self._run(mapped(self.given, rows), Own(0, count, own.computed, count, 0, 1))

    def _starts(self) -> int | None:
        """None too where it refuses sizes that the model never gives it: it still counts as a cause."""
        try:
            return self._starts_at()
        except Exception as error:
            if out_of_memory(error):
                raise
            return None

    def _starts_at(self) -> int | None:
        """The fewest rows with which the request's own have other bits, if more of them do too. By bisection."""
        own, count = self.own, self.own.last - self.own.first
        if len(self.call.positions) != count:
            return None
        equal, differs = count, own.tokens
        while differs - equal > 1:
            size = (equal + differs) // 2
            first = min(own.first, own.tokens - size)
            inside = Own(own.first - first, own.last - first, own.computed, size, 0, 0)
            window = own.window(first, first + size)
            cut = mapped(self.given, lambda _, t, w=window: t if w.part(t) is None else same_form(w.part(t)))
            if digest(self._run(cut, inside)) == self.call.alone[0]:
                equal = size
            else:
                differs = size
        return differs


def apart(together: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> dict[str, Any]:
    """How far the first tensors with other bits are from each other."""
    for a, b in zip(together, other, strict=True):
        x, y = integers(a).numpy(), integers(b).numpy()
        if (x != y).any():
            dtype = str(a.dtype).removeprefix("torch.")
            ulp, absolute = furthest(patterns(x), patterns(y), dtype) if a.dtype.itemsize > 1 else (None, None)
            return {
                "elements": int(x.size),
                "differing": int((x != y).sum()),
                "max_ulp": ulp,
                "max_abs": absolute,
            }
    return {}


def source(module: Any) -> str:
    """File and line of the code that it runs."""
    try:
        file, (_, line) = inspect.getsourcefile(type(module).forward), inspect.getsourcelines(type(module).forward)
    except (OSError, TypeError):
        return ""
    return f"{'/'.join((file or '').replace(chr(92), '/').split('/')[-2:])}:{line}"
