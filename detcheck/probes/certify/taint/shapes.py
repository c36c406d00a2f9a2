"""Where values come from, and ops that move or choose numbers."""

from __future__ import annotations

import re
from dataclasses import replace

from detcheck.probes.certify.taint.lattice import INLINE, NONE, Axis, Mark, listed, renumbered, union
from detcheck.probes.certify.taint.walk import Walk
from detcheck.probes.certify.ttir import Operation
from detcheck.reason import Reason

AXES = "xyz"  # as Triton's code calls the axes of the grid


class Shapes(Walk):
    """Methods are named by the ops that they know."""

    def _arith_constant(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        return [Mark(constant=True)]

    def _ub_poison(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        return [Mark(constant=True)]

    def _tt_make_range(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        return [Mark(varies=frozenset({0}))]

    def _tt_get_program_id(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        axis = AXES.index(op.text.split()[1])
        return [Mark(frozenset({f"program_id({axis})"}) if axis in self.signature.batch_axes else NONE)]

    def _tt_get_num_programs(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        axis = AXES.index(op.text.split()[1])
        return [Mark(frozenset({f"num_programs({axis})"}) if axis in self.signature.batch_axes else NONE)]

    def _tt_splat(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        return inputs

    _tt_broadcast = _tt_unsplat = _tt_splat

    def _tt_expand_dims(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        new = int(op.attribute("axis"))
        return [renumbered(inputs[0], lambda axis: axis + (axis >= new))]

    def _tt_trans(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        order = [int(word) for word in re.search(r"order = array<i32: ([\d, ]+)>", op.text).group(1).split(",")]
        return [renumbered(inputs[0], order.index)]

    def _tt_reshape(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        return [self._spread(inputs[0], op.results[0].rank)]

    def _tt_join(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        mark = union(inputs)
        return [replace(mark, varies=mark.varies | {op.results[0].rank - 1}, constant=False)]

    def _tt_split(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        gone = op.operands[0].rank - 1
        return [renumbered(inputs[0], lambda axis: None if axis == gone else axis)] * 2

    def _tt_cat(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        return [self._spread(union(inputs), op.results[0].rank)]

    def _tt_gather(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        """Whichever elements the indices name, in whichever order."""
        made = self._spread(union(inputs), op.results[0].rank)
        everywhere = frozenset(range(op.results[0].rank))
        return [replace(made, pattern=made.pattern | everywhere) if inputs[1].batch else made]

    @staticmethod
    def _spread(mark: Mark, rank: int) -> Mark:
        """Behind a change of shape it is not known which axis was which: any of them."""

        def spread(axes: frozenset[Axis]) -> frozenset[Axis]:
            loops = frozenset(a for a in axes if not isinstance(a, int))
            return loops | (frozenset(range(rank)) if loops != axes else NONE)

        axes = {name: spread(getattr(mark, name)) for name in ("varies", "pattern", "summed", "rows")}
        return replace(mark, **axes)

    def _arith_sitofp(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        return [replace(inputs[0], number=inputs[0].batch, constant=False)]

    def _arith_uitofp(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        """Of a truth value that varies: zeros where nothing is, as a mask makes them."""
        mask = op.operands[0].element == "i1" and inputs[0].varies and not inputs[0].gate
        return [replace(inputs[0], number=NONE if mask else inputs[0].batch, constant=False)]

    def _arith_select(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        chooser, a, b = inputs
        made = union([a, b]) if not chooser.batch else union(inputs).bent()
        if op.results[0].is_float:
            masks = (a.constant or b.constant) and bool(chooser.varies)  # zeros, or -inf, where nothing is
            self._switched(chooser.gate, Reason("number_switched", {"batch": listed(chooser.gate)}), op)
            number = a.number | b.number | chooser.number | (chooser.batch if chooser.batch and not masks else NONE)
            pattern = a.pattern | b.pattern | chooser.pattern
            return [
                Mark(
                    a.batch | b.batch | chooser.batch, chooser.varies | a.varies | b.varies, pattern, number, data=True
                )
            ]
        return [replace(made, varies=made.varies | chooser.varies, constant=False)]

    def _tt_call(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        self._unclear(Reason("call"), op)
        return [union(inputs).bent()] * len(op.results)

    def _tt_elementwise_inline_asm(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        self._unclear(Reason("assembly"), op)
        made = replace(union(inputs), batch=union(inputs).batch | {INLINE}, constant=False).bent()
        return [made] * len(op.results)

    def _tt_extern_elementwise(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        if op.attribute("libpath") or op.attribute("pure") == "false":
            self._unclear(Reason("library", {"symbol": str(op.attribute("symbol"))}), op)
        made = replace(self._with_numbers(op, inputs), constant=False)
        return [made if all(v.is_float for v in op.operands) else made.bent()]
