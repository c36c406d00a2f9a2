"""Ops that add, and what may not reach the order in which they do."""

from __future__ import annotations

import re
from dataclasses import replace

from detcheck.probes.certify.taint.lattice import OF_ROW, Mark, listed, renumbered, union
from detcheck.probes.certify.taint.walk import Walk
from detcheck.probes.certify.ttir import Operation
from detcheck.reason import Reason


class Reductions(Walk):
    """Methods are named by the ops that they know."""

    def _tt_dot(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        a, b, *others = inputs
        rank = op.operands[0].rank
        if rank - 1 in a.pattern:
            self._along(Reason("dot_left_follows", {"batch": listed(a.batch)}), op)
        self._neighbours(a, rank - 1, op)
        if rank - 2 in b.pattern:
            self._along(Reason("dot_right_follows", {"batch": listed(b.batch)}), op)
        self._neighbours(b, rank - 2, op)
        kept_a = renumbered(a, lambda axis: None if axis == rank - 1 else axis)
        kept_b = renumbered(b, lambda axis: None if axis == rank - 2 else axis)
        return [replace(union([kept_a, kept_b, *others[:1]]), data=True, constant=False)]

    def _tt_dot_scaled(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        return self._tt_dot(op, [inputs[0], inputs[1]])

    def _tt_reduce(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        axis = int(op.attribute("axis"))
        for value, mark in zip(op.operands, inputs, strict=True):
            if axis in mark.pattern and (value.is_float or mark.data):  # other integers are exact in any order
                self._along(Reason("reduced_follows", {"axis": axis, "batch": listed(mark.batch)}), op)
            if value.is_float or mark.data:
                self._neighbours(mark, axis, op)
        self._combine(op)
        whole = replace(union(inputs), constant=False)
        gone = renumbered(whole, lambda a: None if a == axis else a - (a > axis))
        return [gone] * len(op.results)

    def _tt_scan(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        axis = int(op.attribute("axis"))
        for value, mark in zip(op.operands, inputs, strict=True):
            if axis in mark.pattern and value.is_float:
                self._along(Reason("scanned_follows", {"axis": axis, "batch": listed(mark.batch)}), op)
            if value.is_float or mark.data:
                self._neighbours(mark, axis, op)
        self._combine(op)
        return [replace(union(inputs), varies=union(inputs).varies | {axis}, constant=False)] * len(op.results)

    def _combine(self, op: Operation) -> None:
        """The little function of a reduction: its own values have nothing of the batch."""
        for region in op.regions:
            for block in region:
                for argument in block.arguments:
                    self.marks[argument] = Mark(data=True)
                for inner in block.ops:
                    self._op(inner)

    def _along(self, why: Reason, op: Operation) -> None:
        loop = self._loops[-1] if self._loops else None
        self._refuted(why, op, rule=loop or op)

    def _neighbours(self, mark: Mark, axis: int, op: Operation) -> None:
        if axis in mark.rows:
            self._unclear(Reason("rows_together"), op)

    def _against_loops(self, mark: Mark, why: Reason, op: Operation, excusable: bool = True) -> None:
        for loop in self._loops:
            if loop in mark.pattern and self._adding(loop):
                self._refuted(why, op, loop if excusable else None)

    def _adding(self, loop: Operation) -> bool:
        """Whether what one iteration makes goes into the next: carried along, or through memory."""
        return accumulates(loop) or bool(self._through_memory(loop))

    def _through_memory(self, loop: Operation) -> set[str]:
        """Pointers that the loop both reads floats from and writes to."""
        inside = [op for op in loop.walk() if op.name in ("tt.load", "tt.store")]
        read = {self._source(op.operands[0]) for op in inside if op.name == "tt.load" and op.results[0].is_float}
        return read & {self._source(op.operands[0]) for op in inside if op.name == "tt.store"}

    def _numbers(self, mark: Mark, op: Operation) -> None:
        named = {n for n in mark.number if not n.startswith("program_id") and not n.endswith(OF_ROW)}
        if named:
            self._refuted(Reason("numbers_depend", {"batch": listed(named)}), op)
        elif mark.number:
            self._unclear(Reason("numbers_by_place", {"batch": listed(mark.number)}), op)


def accumulates(loop: Operation) -> bool:
    return any(v.is_float for v in loop.results)


def resets(loop: Operation) -> bool:
    """Whether the loop starts its sums again inside: many outputs one after the other, written as one loop."""
    made = {v: o for block in loop.regions[-1] for o in block.ops for v in o.results}
    last = loop.regions[-1][-1].ops[-1]
    return any(v.is_float and v in made and made[v].name in ("arith.select", "scf.if") for v in last.operands)


def adds(op: Operation) -> bool:
    return op.name in ("tt.dot", "tt.dot_scaled", "tt.reduce", "tt.scan") or (op.name == "scf.for" and accumulates(op))


def sums(loop: Operation) -> str:
    """The names in the source of what a loop carries; "" where they have none."""
    names_ = [re.sub(r"(_\d+)?(#\d+)?$", "", v.name.removeprefix("%")) for v in loop.results if v.is_float]
    return ", ".join(dict.fromkeys(n for n in names_ if not n.isdigit()))
