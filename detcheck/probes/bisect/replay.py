"""Two arms on one call, with exactly the inputs that it has in the batch: again, and the prompt's rows alone.

The rows alone are laid out as the call had them when the prompt really ran alone: its strides, its distance from an aligned
address. Only a call that can be cut like that can be a cause: its other arguments and its integers (indices, routes, ids) must be
those of the lone run, and what comes out must hold the batch if what goes in does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detcheck.bits import furthest, patterns
from detcheck.coverage import uncounted
from detcheck.probes.bisect.arguments import flat, rebuilt
from detcheck.probes.bisect.call import Call, Key
from detcheck.probes.bisect.orders import orders
from detcheck.probes.bisect.rows import Layout, Part
from detcheck.probes.bisect.tensor import Seen
from detcheck.probes.bisect.trace import unseen
from detcheck.tensors import digest, integers, out_of_memory, same_form

if TYPE_CHECKING:
    import torch

# Products, of which every row of the first factor is one of its own.
PRODUCTS = ("aten::mm", "aten::addmm", "aten::_grouped_mm", "transformers::grouped_mm_fallback")
RANDOM = "nondeterministic_seeded"  # torch's tag: asking again would draw other numbers


@dataclass
class Tested:
    """What came of the two arms on a call: a hash of the bits each time."""

    key: Key
    alone: list[int]
    batch: list[int]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def differs(self) -> bool:
        return len({*self.alone, *self.batch}) > 1


class TwoArms:
    """Tests every call of a batch's trace whose parts are known. `repeats`: calls of each arm."""

    def __init__(self, layout: Layout, repeats: int) -> None:
        self._rows, self._slot, self._repeats = layout.rows, layout.slot, repeats
        self._by = "padding" if layout.padding else "layout"
        self._done: set[Any] = set()
        self._ordered: dict[Any, dict[str, str]] = {}
        self.tested: dict[Key, Tested] = {}
        self.untested: dict[str, int] = {}
        """why a call could not be cut -> calls"""

    def __call__(
        self,
        call: Call,
        alone: Call,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        kept: dict[int, torch.Tensor],
        outputs: Sequence[torch.Tensor],
        where: Callable[[], str],
    ) -> None:
        form = args, kwargs
        leaves = flat(form)
        form_of = (call.key[1:], tuple((s.shape, s.dtype) for s in call.inputs.values()))
        if form_of in self._done:
            return
        self._done.add(form_of)
        given = Given(call, alone, function, [kept.get(n, leaf) for n, leaf in enumerate(leaves)], form)
        given.pick_any()
        if why := given.cannot_be_cut():
            self._leave(why)
            return
        places = list(call.outputs)
        own = [call.outputs[n].part.take(outputs[n]) for n in places]
        arms: dict[str, list[int]] = {"batch": [digests(own)], "alone": []}
        other = None  # the first result with other bits
        for arm, count, ask in (("batch", self._repeats - 1, given.again), ("alone", self._repeats, given.alone)):
            for _ in range(count):
                try:
                    made = ask()
                except Exception as error:  # an op may refuse sizes or layouts that the model never gives it
                    if out_of_memory(error):
                        raise
                    self._leave(f"it raises {type(error).__name__} when it is asked {arm_said(arm)}")
                    return
                if [t.shape for t in made] != [t.shape for t in own]:
                    self._leave("it gives another shape alone")
                    return
                arms[arm].append(digests(made))
                if other is None and arms[arm][-1] != arms["batch"][0]:
                    other = made
        found = Tested(call.key, arms["alone"], arms["batch"])
        if other is not None:
            n = next(n for n, (a, b) in enumerate(zip(own, other, strict=True)) if digests([a]) != digests([b]))
            found.details = describe(call, alone, own[n], other[n]) | {"source": where()}
            if len(set(found.alone)) == 1 == len(set(found.batch)):
                found.details |= self._start(given, found.alone[0])
                if words := self._orders(given):
                    found.details["order_of_additions"] = words
        self.tested[call.key] = found

    def _leave(self, why: str) -> None:
        self.untested[why] = self.untested.get(why, 0) + 1

    def _orders(self, given: Given) -> dict[str, str]:
        """Once for each form of a product or a sum: its layers add alike. {} too where that cannot be asked: it still counts as a cause."""
        form = (given.call.op, *(s.shape for s in given.call.inputs.values()))
        if form not in self._ordered:
            result = next(iter(given.call.outputs.values()))
            cut, whole = ([same_form(t) for t in tensors(leaves)] for leaves in (given.cut(), given.leaves))
            try:
                said = orders(given.call.op, given.called, cut, whole, result.part.indices(result.shape))
            except Exception as error:  # it may refuse arguments that the model never gives it
                if out_of_memory(error):
                    raise
                said = {}
            self._ordered[form] = said
        return self._ordered[form]

    def _start(self, given: Given, lone: int) -> dict[str, Any]:
        """From how many rows on, and where one is enough, by what: its padding, or how its rows lie in memory."""
        try:
            starts = self._starts_at(given, lone)
        except Exception as error:  # it may refuse sizes that the model never gives it; it still counts as a cause
            if out_of_memory(error):
                raise
            starts = None
        return {"starts_at": starts} | ({"starts_by": self._by} if starts == 1 else {})

    def _starts_at(self, given: Given, lone: int) -> int | None:
        """The smallest batch that gives other bits than the row alone, if larger ones do too. By bisection; None: it cannot be cut."""
        if not given.by_slot():
            return None
        if digests(given.window(self._slot, self._slot + 1)) != lone:
            return 1
        equal, differs = 1, self._rows
        while differs - equal > 1:
            size = (equal + differs) // 2
            first = min(self._slot, self._rows - size)
            if digests(given.window(first, first + size)) == lone:
                equal = size
            else:
                differs = size
        return differs


@dataclass
class Given:
    """A call's arguments in the batch, and how to cut them."""

    call: Call
    lone: Call
    function: Callable[..., Any]
    leaves: list[Any]
    form: Any

    def cannot_be_cut(self) -> str:
        """Why, in words; "" where it can."""
        tags = getattr(self.function, "tags", ())
        if not self.call.attention and any(RANDOM in str(tag) for tag in tags):
            return "it draws random numbers"
        seen, outputs = self.call.inputs, self.call.outputs
        if any(s.part is None for s in (*seen.values(), *outputs.values())):
            return "the prompt's own rows are not known"
        if all(s.weight or s.part.whole for s in seen.values()):
            return "it holds no batch"
        if any(s.part.whole for s in outputs.values()):
            return "it mixes the rows"
        if not self.call.attention and self.call.plain != self.lone.plain:
            return "its other arguments follow the batch"
        if self.offsets() and not any(s.part.picked for s in seen.values()):
            return "the prompt's own rows are not known"
        for place, s in seen.items():
            before = self.lone.inputs.get(place)
            if before is None:
                if not self.call.attention:
                    return "it has other arguments alone"
            elif not s.floats and s.digest != before.digest and place not in self.offsets():
                return "its indices follow the batch"
        return ""

    def pick_any(self) -> None:
        """Rows that a router handed to an expert, and that their bytes do not find: for a product any of them will do."""
        seen = [s for s in (*self.call.inputs.values(), *self.call.outputs.values()) if not s.weight]
        if self.call.op not in PRODUCTS or any(s.part and s.part.picked for s in seen):
            return
        together, lone = next(iter(self.call.outputs.values())), next(iter(self.lone.outputs.values()))
        if together.part is not None and not self.offsets():
            return
        rows, count = together.shape[0], lone.shape[0]
        if not 0 < count < rows:
            return
        picked = tuple(range(0, rows, rows // count))[:count]
        for s in seen:
            if s.floats and s.shape[:1] == (rows,):
                s.part = Part((), 0, picked)

    def offsets(self) -> list[int]:
        """Places of the ends of groups of rows, in a product of groups: they are counted again for fewer rows."""
        if "grouped_mm" not in self.call.op:
            return []
        return [place for place, s in self.call.inputs.items() if not s.floats]

    def by_slot(self) -> bool:
        return any(s.part.by_slot for s in self.call.inputs.values() if not s.weight) and all(
            s.part.picked is None for s in (*self.call.inputs.values(), *self.call.outputs.values())
        )

    def again(self) -> list[torch.Tensor]:
        leaves = list(self.leaves)
        if schema_writes(self.function):
            leaves = [same_form(leaf) if n in self.call.inputs else leaf for n, leaf in enumerate(leaves)]
        return self._run(leaves, {n: s.part for n, s in self.call.outputs.items()})

    def alone(self) -> list[torch.Tensor]:
        return self._run(self.cut(), {})

    def cut(self) -> list[Any]:
        """The arguments with the prompt's rows alone."""
        leaves = list(self.leaves)
        for place, s in self.call.inputs.items():
            if s.weight:
                continue
            if place in self.offsets():
                picked = next((x.part.picked for x in self.call.inputs.values() if x.part.picked), ())
                ends = leaves[place].tolist()
                leaves[place] = leaves[place].new_tensor([sum(row < end for row in picked) for end in ends])
                continue
            before: Seen | None = self.lone.inputs.get(place)
            cut = s.part.take(leaves[place])
            same = before is not None and tuple(cut.shape) == before.shape
            leaves[place] = same_form(cut, *((before.strides, before.offset) if same else ()))
        return leaves

    def window(self, first: int, last: int) -> list[torch.Tensor]:
        leaves = list(self.leaves)
        for place, s in self.call.inputs.items():
            if not s.weight:
                cut = s.part.window(leaves[place], first, last)
                leaves[place] = cut.clone() if schema_writes(self.function) or s.part.by_slot else cut
        return self._run(leaves, {n: s.part.within(first) for n, s in self.call.outputs.items()})

    def called(self, *instead: torch.Tensor) -> Any:
        """The op with other tensors in the place of its own."""
        given = iter(instead)
        leaves = [next(given) if hasattr(leaf, "untyped_storage") else leaf for leaf in self.leaves]
        args, kwargs = rebuilt(self.form, iter(leaves))
        with uncounted():
            return self.function(*args, **kwargs)

    def _run(self, leaves: list[Any], parts: dict[int, Part]) -> list[torch.Tensor]:
        import torch

        args, kwargs = rebuilt(self.form, iter(leaves))
        with uncounted():
            made = [t for t in flat(self.function(*args, **kwargs)) if isinstance(t, torch.Tensor)]
        made = made or [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        return [parts[n].take(made[n]) if parts else made[n] for n in self.call.outputs]


def tensors(leaves: Sequence[Any]) -> list[torch.Tensor]:
    return [leaf for leaf in leaves if hasattr(leaf, "untyped_storage")]


def arm_said(arm: str) -> str:
    return "again" if arm == "batch" else "with the prompt's rows alone"


def schema_writes(function: Any) -> bool:
    schema = getattr(function, "_schema", None)
    return schema is not None and schema.is_mutable


def digests(tensors: Sequence[torch.Tensor]) -> int:
    with unseen():
        return hash(tuple(map(digest, tensors)))


def describe(call: Call, alone: Call, together: torch.Tensor, lone: torch.Tensor) -> dict[str, Any]:
    """Forms of what went in, and how far apart what came out is."""
    a, b = integers(together).numpy(), integers(lone).numpy()
    ulp, apart = (None, None)
    if together.dtype.itemsize > 1 and not together.is_complex():
        ulp, apart = furthest(patterns(a), patterns(b), str(together.dtype).removeprefix("torch."))
    return {
        "inputs": {"alone": forms(alone), "batch": forms(call)},
        "elements": int(a.size),
        "differing": int((a != b).sum()),
        "max_ulp": ulp,
        "max_abs": apart,
    }


def forms(call: Call) -> list[dict[str, Any]]:
    return [
        {"shape": list(s.shape), "dtype": s.dtype, "strides": list(s.strides), "weight": s.weight.split("@")[0]}
        for s in call.inputs.values()
    ]
