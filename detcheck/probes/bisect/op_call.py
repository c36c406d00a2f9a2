"""An op's call with exactly the inputs that it has in the batch, and how the prompt's rows are cut out of these.

The rows alone are laid out as the call had them when the prompt really ran alone: its strides, its distance from an aligned
address. Only a call that can be cut like that can be a cause: its other arguments and its integers (indices, routes, ids) must be
those of the lone run, and what comes out must hold the batch if what goes in does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detcheck.coverage import uncounted
from detcheck.probes.bisect.arguments import flat, rebuilt
from detcheck.probes.bisect.call import TracedCall
from detcheck.probes.bisect.rows import Part
from detcheck.probes.bisect.tensor import SeenTensor
from detcheck.replay import Untested
from detcheck.tensors import same_form

if TYPE_CHECKING:
    import torch

# Products, of which every row of the first factor is one of its own.
PRODUCTS = ("aten::mm", "aten::addmm", "aten::_grouped_mm", "transformers::grouped_mm_fallback")
RANDOM = "nondeterministic_seeded"  # torch's tag: asking again would draw other numbers


@dataclass
class OpCall:
    """A call with its arguments in the batch: asked again, with the prompt's rows alone, or with some rows more."""

    call: TracedCall
    lone: TracedCall
    function: Callable[..., Any]
    leaves: list[Any]
    form: Any

    def untested(self) -> Untested | None:
        """Why it cannot be cut to the prompt's rows; None where it can."""
        tags = getattr(self.function, "tags", ())
        if not self.call.attention and any(RANDOM in str(tag) for tag in tags):
            return Untested.RANDOM
        seen, outputs = self.call.inputs, self.call.outputs
        if any(s.part is None for s in (*seen.values(), *outputs.values())):
            return Untested.ROWS_UNKNOWN
        if all(s.weight or s.part.whole for s in seen.values()):
            return Untested.NO_BATCH
        if any(s.part.whole for s in outputs.values()):
            return Untested.MIXES_ROWS
        if not self.call.attention and self.call.plain != self.lone.plain:
            return Untested.OTHER_ARGUMENTS
        if self.offsets() and not any(s.part.picked for s in seen.values()):
            return Untested.ROWS_UNKNOWN
        for place, s in seen.items():
            before = self.lone.inputs.get(place)
            if before is None:
                if not self.call.attention:
                    return Untested.OTHER_ARGUMENTS_ALONE
            elif not s.floats and s.digest != before.digest and place not in self.offsets():
                return Untested.INDICES
        return None

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
            before: SeenTensor | None = self.lone.inputs.get(place)
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


def schema_writes(function: Any) -> bool:
    schema = getattr(function, "_schema", None)
    return schema is not None and schema.is_mutable
