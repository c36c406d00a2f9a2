"""Loops and branches: how often, from where and which way, and whether the batch says so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from detcheck.probes.certify.taint.lattice import NONE, Mark, listed, union, without
from detcheck.probes.certify.taint.reductions import Reductions, accumulates, adds, resets, sums
from detcheck.probes.certify.ttir import Operation, Value
from detcheck.reason import Reason


class ControlFlow(Reductions):
    """Methods are named by the ops that they know."""

    def _scf_for(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        bounds, inits = inputs[:3], inputs[3:]
        batch = frozenset().union(*(b.batch for b in bounds))
        counter, *carried = op.regions[0][0].arguments or []
        if batch and accumulates(op):
            if resets(op):
                self._unclear(Reason("loop_may_follow", {"sums": sums(op), "batch": listed(batch)}), op)
            else:
                self._refuted(Reason("loop_follows", {"sums": sums(op), "batch": listed(batch)}), op, rule=op)
        for value, init in zip(carried, op.operands[3:], strict=True):
            self.carried_from[value] = init
        if batch and (kept := self._through_memory(op)) and not accumulates(op):
            self._unclear(Reason("loop_in_memory", {"batch": listed(batch), "pointers": listed(kept)}), op)
        if accumulates(op) and any(b.data for b in bounds):
            self._unclear(Reason("loop_by_data"), op)
        progress = bounds[0] | bounds[2]  # where it ends says nothing of where it is
        if self.signature.masked_tail and whole_steps(op.operands[0], op.operands[2], self.makers, self.marks):
            progress = replace(
                progress, batch=NONE, pattern=NONE
            )  # a key's own number: those before it are passed over
        # That it starts at a place of its own is judged by itself, so how that place was computed is not held against the counter.
        self.marks[counter] = replace(progress, varies=progress.varies | {op}, crooked=NONE, constant=False)
        return [
            self._after(m, v, batch, op) for m, v in zip(self._iterate(op, carried, inits), op.results, strict=True)
        ]

    def _after(self, mark: Mark, value: Value, batch: frozenset[str], op: Operation) -> Mark:
        """What a loop leaves behind has been through it as often as the batch says."""
        if not batch or value.is_float:
            return mark
        if mark.data:
            self._refuted(Reason("bits_loop_follows", {"batch": listed(batch)}), op)
        return replace(mark, batch=mark.batch | batch).bent()

    def _iterate(self, op: Operation, carried: Sequence[Value], inits: Sequence[Mark]) -> list[Mark]:
        self._loops.append(op)
        state = [replace(mark, varies=mark.varies | {op}, constant=False) for mark in inits]
        for _ in range(40):
            for value, mark in zip(carried, state, strict=True):
                self.marks[value] = mark
            yielded = self._body(op.regions[-1])
            after = [replace(old | new, constant=False) for old, new in zip(state, yielded, strict=False)]
            if after == state:
                break
            state = after
        self._loops.pop()
        return [without(mark, op) for mark in state]

    def _scf_while(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        before, after = op.regions
        for value, mark in zip(before[0].arguments, inputs, strict=False):
            self.marks[value] = replace(mark, varies=mark.varies | {op}, constant=False)
        floats = any(v.is_float for v in op.operands)
        for _ in range(40):
            state = [self._of(v) for v in before[0].arguments]
            condition, *passed = self._body(before)
            for value, mark in zip(after[0].arguments, passed, strict=False):
                self.marks[value] = mark
            self._loops.append(op)
            yielded = self._body(after)
            self._loops.pop()
            for value, old, new in zip(before[0].arguments, state, yielded, strict=False):
                self.marks[value] = old | new
            if state == [self._of(v) for v in before[0].arguments]:
                break
        if floats and condition.batch:
            self._refuted(Reason("while_follows", {"batch": listed(condition.batch)}), op, rule=op)
        elif floats and condition.data:
            self._unclear(Reason("loop_by_data"), op)
        if condition.batch and (kept := self._through_memory(op)) and not floats:
            self._unclear(Reason("loop_in_memory", {"batch": listed(condition.batch), "pointers": listed(kept)}), op)
        left = [without(self._of(v), op) for v in after[0].arguments]
        return [self._after(m, v, condition.batch, op) for m, v in zip(left, op.results, strict=False)]

    def _scf_if(self, op: Operation, inputs: list[Mark]) -> list[Mark]:
        (chooser,) = inputs
        if any(
            o.name == "tt.store" or adds(o)
            for region in op.regions
            for b in region
            for each in b.ops
            for o in each.walk()
        ):
            self._switched(chooser.gate, Reason("run_switched", {"batch": listed(chooser.gate)}), op)
        self._guards.append(chooser.batch)
        arms = [self._body(region) for region in op.regions]
        self._guards.pop()
        working = [
            region
            for region in op.regions
            if any(adds(inner) for block in region for o in block.ops for inner in o.walk())
        ]
        floats = any(v.is_float for v in op.results)
        if chooser.batch and (floats or len(working) > 1):
            self._refuted(Reason("branch_follows", {"batch": listed(chooser.batch)}), op)
        elif chooser.data and (floats or working):
            self._unclear(Reason("branch_by_data"), op)
        made = []
        for i in range(len(op.results)):
            mark = union(arm[i] for arm in arms)
            made.append(
                replace(mark | chooser, constant=False).bent() if chooser.batch else replace(mark, constant=False)
            )
        return made


def whole_steps(start: Value, step: Value, makers: Mapping[Value, Operation], marks: Mapping[Value, Mark]) -> bool:
    """Whether a loop that starts later for some starts a whole number of steps later: something of the row's own, plus
    something times the step."""
    mark = marks.get(start, Mark())
    if not mark.batch:
        return True
    op = makers.get(start)
    if op is not None and op.name == "arith.addi":
        return all(whole_steps(v, step, makers, marks) for v in op.operands)
    if op is not None and op.name == "arith.muli":
        size = whole_number(makers.get(step))
        return any(v is step or (size and (whole_number(makers.get(v)) or 1) % size == 0) for v in op.operands)
    return False


def whole_number(op: Operation | None) -> int | None:
    """An integer constant."""
    found = re.match(r"arith\.constant (\d+) : i\d+", op.text) if op is not None else None
    return int(found.group(1)) if found else None
