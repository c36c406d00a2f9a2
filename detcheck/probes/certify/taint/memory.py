"""What is loaded and stored, by which address and mask, and atomics."""

from __future__ import annotations

import re
from dataclasses import replace

from detcheck.probes.certify.taint.lattice import ATOMIC, NONE, OF_ROW, Mark, listed, placed, union
from detcheck.probes.certify.taint.reductions import Reductions
from detcheck.probes.certify.ttir import Operation
from detcheck.reason import Reason


class Memory(Reductions):
    """Methods are named by the ops that they know."""

    def _tt_load(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        address, *rest = inputs
        mask = rest[0] if rest else Mark()
        self._against_loops(address, Reason("address_follows", {"batch": listed(address.batch)}), op, excusable=False)
        self._against_loops(mask, Reason("mask_follows", {"batch": listed(mask.batch)}), op)
        gate = address.gate | mask.gate
        self._switched(gate, Reason("load_switched", {"batch": listed(gate)}), op)
        pointer = self._source(op.operands[0])
        if op.results[0].is_float:
            self.loaded.setdefault(pointer, op)
        by_place = any(map(placed, address.batch))
        own = OF_ROW if by_place else ""
        declared = frozenset({pointer + own}) if pointer in self.signature.batch else NONE
        if not by_place:  # a table that the batch's size looks something up in
            declared |= frozenset(n for n in address.batch - {pointer} if not placed(n))
        pattern = address.pattern | mask.pattern
        why = (address.batch | mask.batch) if pattern else NONE
        floats = op.results[0].is_float
        # What was loaded is the row's own, whichever way its address was computed.
        number = (declared | union(rest[1:]).number) if floats else NONE
        made = Mark(declared | why, address.varies | mask.varies, pattern, number, data=floats)
        return [replace(made, rows=address.rows) if floats else made]

    def _tt_store(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        address, value, *masks = inputs
        mask = union(masks)
        self._numbers(value, op)
        gate = address.gate | value.gate | mask.gate
        self._switched(gate, Reason("store_switched", {"batch": listed(gate)}), op)
        if not op.operands[1].is_float and any(not placed(n) for n in value.batch):
            self._unclear(Reason("integers_depend", {"batch": listed(value.batch)}), op)
        sizes = re.findall(r"(\d+)x", op.operands[1].type)
        cut = {a for a in value.pattern - mask.pattern if isinstance(a, int) and a < len(sizes) and sizes[a] != "1"}
        if cut and any(not placed(n) for n in value.batch):
            self._unclear(Reason("stored_cut", {"batch": listed(value.batch), "axis": min(cut)}), op)
        self._written(self._source(op.operands[0]), op)
        return []

    def _written(self, pointer: str, op: Operation) -> None:
        """Two places that write one tensor, where the batch decides which: two ways to an output."""
        places = self.written.setdefault(pointer, {})
        places[op] = frozenset().union(places.get(op, NONE), *self._guards)
        batch = frozenset().union(*places.values())
        if len(places) > 1 and batch:
            self._unclear(
                Reason("written_twice", {"pointer": pointer, "places": len(places), "batch": listed(batch)}), op
            )

    def _tt_descriptor_load(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        tiles, *starts = inputs
        # The hardware compares each place with the tensor's end, as a mask would.
        where = tiles | union(replace(s, varies=s.varies | {axis}).compared() for axis, s in enumerate(starts))
        self._against_loops(where, Reason("address_follows", {"batch": listed(where.batch)}), op, excusable=False)
        self._switched(where.gate, Reason("load_switched", {"batch": listed(where.gate)}), op)
        rank = op.results[0].rank
        why = where.batch if where.pattern else NONE
        rows = frozenset(
            a for a, s in enumerate(starts) if s.batch and not any(isinstance(v, Operation) for v in s.varies)
        )
        return [Mark(why, where.varies | frozenset(range(rank)), where.pattern, tiles.number, data=True, rows=rows)]

    def _tt_descriptor_store(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        for value, mark in zip(op.operands, inputs, strict=True):
            if value.is_float:
                self._numbers(mark, op)
        self._written(self._source(op.operands[0]), op)
        return []

    def _tt_make_tensor_descriptor(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        """Along an axis whose end or stride follows the batch, so does what is loaded: zeros, from another place on."""
        rank = (len(inputs) - 1) // 2
        axes = frozenset(a for a in range(rank) if (inputs[1 + a] | inputs[1 + rank + a]).batch)
        pointer = self._source(op.operands[0])
        number = frozenset({pointer}) if pointer in self.signature.batch else NONE
        return [Mark(union(inputs[1:]).batch, pattern=axes, number=number)]

    def _tt_atomic_rmw(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        self.atomics.add(self._source(op.operands[0]))
        if re.search(r"\bexch\b|xchg", op.text):
            return self._tt_atomic_cas(op, inputs)
        if op.operands[1].is_float and re.search(r"\bf?add\b|fadd", op.text):
            self._refuted(Reason("atomic_add"), op)
        # A counter hands out numbers in any order: as good as a program's id.
        return [Mark(frozenset({ATOMIC}), union(inputs).varies)] * len(op.results)

    def _tt_descriptor_reduce(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        self._refuted(Reason("atomic_add"), op)
        return []

    def _tt_atomic_cas(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        self._unclear(Reason("lock"), op)
        return [Mark(frozenset({ATOMIC}), union(inputs).varies)]
