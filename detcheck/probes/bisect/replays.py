"""The calls of a batch's trace, each asked again and alone while the batch runs: see `detcheck/replay.py` for what is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from detcheck.probes.bisect.arguments import flat
from detcheck.probes.bisect.call import Key, TracedCall
from detcheck.probes.bisect.facts import Site, TensorForm
from detcheck.probes.bisect.op_call import OpCall
from detcheck.probes.bisect.orders import orders
from detcheck.probes.bisect.rows import Layout
from detcheck.probes.bisect.trace import unseen
from detcheck.reason import Reason
from detcheck.replay import Replayed, first_size, replay
from detcheck.replay import hashed as _hashed
from detcheck.tensors import out_of_memory, same_form

if TYPE_CHECKING:
    import torch

    from detcheck.summation.tree import Tree


@dataclass(frozen=True)
class Tested:
    """A call that was asked again, and where it stands if it is a cause."""

    replayed: Replayed
    site: Site


class Replays:
    """Called for every call of a batch's trace whose parts are known. `repeats`: calls of each arm."""

    def __init__(self, layout: Layout, repeats: int) -> None:
        self._rows, self._slot, self._repeats = layout.rows, layout.slot, repeats
        self._by = "padding" if layout.padding else "layout"
        self._done: set[Any] = set()
        self._ordered: dict[Any, dict[str, Tree]] = {}
        self.tested: dict[Key, Tested] = {}
        self.untested: Counter[Reason] = Counter()
        """why a call could not be cut -> calls"""

    def __call__(
        self,
        call: TracedCall,
        alone: TracedCall,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        kept: Mapping[int, torch.Tensor],
        outputs: Sequence[torch.Tensor],
        where: Callable[[], str],
    ) -> None:
        """`kept`: copies of what the op writes into, as it was before. `where`: file and line of the model's code."""
        form_of = (call.key[1:], tuple((s.shape, s.dtype) for s in call.inputs.values()))
        if form_of in self._done:
            return
        self._done.add(form_of)
        form = args, kwargs
        asked = OpCall(call, alone, function, [kept.get(n, leaf) for n, leaf in enumerate(flat(form))], form)
        asked.pick_any()
        if why := asked.untested():
            self.untested[Reason(why)] += 1
            return
        own = [seen.part.take(outputs[n]) for n, seen in call.outputs.items()]
        found = replay(own, asked.again, asked.alone, self._repeats, hashed)
        if found.untested:
            self.untested[found.untested] += 1
            return
        site = site_of(alone, call)
        if found.difference:
            site = replace(site, difference=found.difference, source=where())
        if found.steady:
            found.starts_at = self._starts_at(asked, found.alone[0])
            by = self._by if found.starts_at == 1 else ""
            site = replace(site, starts_at=found.starts_at, starts_by=by, orders=self._orders(asked))
        self.tested[call.key] = Tested(found, site)

    def _orders(self, asked: OpCall) -> dict[str, Tree]:
        """Once for each form of a product or a sum: its layers add alike. {} too where that cannot be asked: it still counts as a cause."""
        form = (asked.call.op, *(s.shape for s in asked.call.inputs.values()))
        if form not in self._ordered:
            result = next(iter(asked.call.outputs.values()))
            cut, whole = ([same_form(t) for t in tensors(leaves)] for leaves in (asked.cut(), asked.leaves))
            try:
                read = orders(asked.call.op, asked.called, cut, whole, result.part.indices(result.shape))
            except Exception as error:  # it may refuse arguments that the model never gives it
                if out_of_memory(error):
                    raise
                read = {}
            self._ordered[form] = read
        return self._ordered[form]

    def _starts_at(self, asked: OpCall, lone: int) -> int | None:
        """The smallest batch that gives other bits than the row alone, if larger ones do too; None: it cannot be cut."""
        if not asked.by_slot():
            return None

        def bits(size: int) -> int:
            first = min(self._slot, self._rows - size)
            return hashed(asked.window(first, first + size))

        return first_size(1, self._rows, bits, lone)


def hashed(tensors: Sequence[torch.Tensor]) -> int:
    with unseen():
        return _hashed(tensors)


def tensors(leaves: Sequence[Any]) -> list[torch.Tensor]:
    return [leaf for leaf in leaves if hasattr(leaf, "untyped_storage")]


def site_of(alone: TracedCall, together: TracedCall) -> Site:
    """Where a call stands, and what it takes alone and in the batch."""
    weight = (alone.key[4] or "").split("[")[0]
    return Site(alone.order, alone.op, alone.path, alone.step, weight, forms(alone), forms(together))


def forms(call: TracedCall) -> tuple[TensorForm, ...]:
    return tuple(TensorForm(s.shape, s.dtype, tuple(s.strides), s.weight.split("@")[0]) for s in call.inputs.values())
