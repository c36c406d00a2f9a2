"""Walking through a kernel's intermediate code: what is known of every value, and ops that only pass it on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from detcheck.op import Signature
from detcheck.probes.certify.taint.lattice import NONE, Mark, placed, union
from detcheck.probes.certify.ttir import Block, Function, Operation, Value
from detcheck.reason import Reason
from detcheck.records import SourceLine


@dataclass(frozen=True)
class Against:
    """Something that speaks against the kernel. `refutes`: it is enough; otherwise it is only not clear."""

    refutes: bool
    why: Reason
    place: SourceLine
    rule: Operation | None = None
    """the loop that attention's rule may excuse"""


LINEAR = {
    "arith.addi", "arith.subi", "arith.muli", "arith.extsi", "arith.extui", "arith.index_cast", "arith.bitcast",
    "tt.addptr", "tt.bitcast", "tt.ptr_to_int", "tt.int_to_ptr", "arith.addf", "arith.subf", "arith.mulf", "arith.divf", "arith.negf",
    "arith.extf", "arith.truncf", "arith.maximumf", "arith.minimumf", "arith.maxnumf", "arith.minnumf", "arith.remf", "tt.fp_to_fp",
    "tt.precise_sqrt", "tt.precise_divf", "tt.clampf", "tt.assert", "tt.print", "llvm.intr.assume",
}  # fmt: skip
BENDING = {
    "arith.divsi", "arith.divui", "arith.remsi", "arith.remui", "arith.ceildivsi", "arith.floordivsi", "arith.minsi", "arith.maxsi",
    "arith.minui", "arith.maxui", "arith.shli", "arith.shrsi", "arith.shrui", "arith.trunci", "tt.mulhiui", "math.absi", "math.ctpop",
    "math.ctlz", "math.cttz",
}  # fmt: skip
LOGIC = {"arith.andi", "arith.ori", "arith.xori"}
SILENT = {
    "tt.return",
    "scf.yield",
    "scf.condition",
    "tt.reduce.return",
    "tt.scan.return",
    "gpu.barrier",
    "ttg.barrier",
    "tt.map_elementwise.return",
}


@dataclass
class Walk:
    """One function, walked through until nothing changes."""

    signature: Signature
    found: dict[tuple[Reason, SourceLine], Against] = field(default_factory=dict)
    marks: dict[Value, Mark] = field(default_factory=dict)
    makers: dict[Value, Operation] = field(default_factory=dict)
    users: dict[Value, list[Operation]] = field(default_factory=dict)
    carried_from: dict[Value, Value] = field(default_factory=dict)
    """what a loop carries -> what it starts with"""
    written: dict[str, dict[Operation, frozenset[str]]] = field(default_factory=dict)
    """pointer -> where it is written -> what of the batch decides whether"""
    atomics: set[str] = field(default_factory=set)
    loaded: dict[str, Operation] = field(default_factory=dict)
    """pointer -> where floats are read from it"""
    _loops: list[Operation] = field(default_factory=list)
    _guards: list[frozenset[str]] = field(default_factory=list)

    def run(self, function: Function) -> list[Against]:
        """What speaks against the kernel, the worst first; nothing, where nothing reaches the order in which it adds."""
        self.makers = {value: op for op in function.walk() for value in op.results}
        for op in function.walk():
            for value in op.operands:
                self.users.setdefault(value, []).append(op)
        for value in function.arguments:
            name = value.name.removeprefix("%")
            if name in self.signature.batch:
                sources = frozenset({name})
                number, gate = (sources if value.is_float else NONE), (sources if value.element == "i1" else NONE)
                self.marks[value] = Mark(sources, number=number, gate=gate)
        self._blocks(function.blocks)
        for pointer in sorted(self.atomics & self.loaded.keys()):
            self._unclear(Reason("atomic_memory", {"pointer": pointer}), self.loaded[pointer])
        return sorted(self.found.values(), key=lambda f: (not f.refutes, f.place.file, f.place.line))

    def _blocks(self, blocks: Sequence[Block]) -> None:
        """Several blocks: an early return. Other jumps are not followed."""
        ends = {b.label for b in blocks if [op.name for op in b.ops] == ["tt.return"]}
        for block in blocks:
            for op in block.ops:
                if op.name == "cf.cond_br":
                    if not ends & set(op.targets):
                        self._unclear(Reason("jump_inside"), op)
                elif op.name == "cf.br":
                    self._unclear(Reason("jump"), op) if op.operands else None
                else:
                    self._op(op)

    def _body(self, region: Sequence[Block]) -> list[Mark]:
        """Marks of what the region yields."""
        for block in region:
            for op in block.ops:
                self._op(op)
        last = region[-1].ops[-1] if region[-1].ops else None
        return [self._of(v) for v in last.operands] if last else []

    def _of(self, value: Value) -> Mark:
        return self.marks.get(value, Mark())

    def _add(self, refutes: bool, why: Reason, op: Operation, rule: Operation | None = None) -> None:
        key = (why, op.place)
        if key not in self.found or refutes:
            self.found[key] = Against(refutes, why, op.place, rule)

    def _refuted(self, why: Reason, op: Operation, rule: Operation | None = None) -> None:
        self._add(True, why, op, rule)

    def _unclear(self, why: Reason, op: Operation) -> None:
        self._add(False, why, op)

    def _op(self, op: Operation) -> None:
        inputs = [self._of(v) for v in op.operands]
        special: Callable[[Operation, list[Mark]], list[Mark]] | None = getattr(
            self, "_" + re.sub(r"\W", "_", op.name), None
        )
        if special:
            made = special(op, inputs)
        elif op.name in BENDING:
            made = [union(inputs).bent()] * len(op.results)
        elif op.name in ("arith.fptosi", "arith.fptoui"):  # a number of the row's, whatever masks it went through
            made = [replace(inputs[0], batch=inputs[0].number, crooked=NONE, data=True, constant=False)]
        elif op.name in LINEAR or op.name.startswith("math."):
            made = self._side_by_side(op, inputs, self._with_numbers(op, inputs))
            made = [replace(made, constant=False)] * len(op.results)
        elif op.name in ("arith.cmpi", "arith.cmpf"):
            made = [self._compared(op, union(inputs).compared())]
        elif op.name in LOGIC:
            whole = union(inputs)
            made = [whole if op.results[0].element == "i1" else whole.bent()]
        elif op.name in SILENT:
            return
        elif op.regions or any(m.batch for m in inputs):
            self._unclear(Reason("unknown_op", {"op": op.name}), op)
            made = [union(inputs).bent()] * len(op.results)
        else:
            self._unclear(Reason("unknown_op", {"op": op.name}), op)
            made = [union(inputs)] * len(op.results)
        for value, mark in zip(op.results, made, strict=False):
            self.marks[value] = mark

    def _side_by_side(self, op: Operation, inputs: list[Mark], made: Mark) -> Mark:
        """Which axes hold rows of the batch. A loop's counter plus a count goes along what is added, and is none of them."""
        if op.name == "arith.addi" and not any(isinstance(axis, Operation) for axis in made.varies):
            a, b = inputs
            apart = (b.varies - a.varies if a.batch else NONE) | (a.varies - b.varies if b.batch else NONE)
            return replace(made, summed=made.summed | apart)
        return replace(made, rows=made.rows | made.summed) if op.name == "arith.muli" else made

    def _compared(self, op: Operation, made: Mark) -> Mark:
        """A comparison that varies is a mask, and one with a program's place a guard; of the batch's size alone it is a switch."""
        arguments = frozenset(n for n in made.batch if not placed(n))
        if arguments and not made.varies and not any(map(placed, made.batch)) and not self._only_assumed(op):
            return replace(made, gate=made.gate | arguments)
        return made

    def _only_assumed(self, op: Operation) -> bool:
        """What is only stated (tl.assume) chooses nothing."""
        return all(user.name in ("llvm.intr.assume", "tt.assert") for user in self.users.get(op.results[0], ()))

    def _switched(self, gate: frozenset[str], why: Reason, op: Operation) -> None:
        if gate:
            self._unclear(why, op)

    @staticmethod
    def _with_numbers(op: Operation, inputs: list[Mark]) -> Mark:
        """A float that is made of an integer, bit by bit, has what the integer has in its number, and the other way round."""
        made = union(inputs)
        if op.name in ("arith.bitcast", "tt.bitcast") and op.operands[0].is_float and not op.results[0].is_float:
            return replace(made, batch=made.number, crooked=NONE, data=True)
        if op.results and op.results[0].is_float:
            for value, mark in zip(op.operands, inputs, strict=True):
                if re.fullmatch(r"[iu]\d+", value.element):
                    made = replace(made, number=made.number | mark.batch)
        return made

    def _source(self, value: Value) -> str:
        """The argument that a pointer comes from."""
        for _ in range(1000):
            if value in self.carried_from:
                value = self.carried_from[value]
            elif value in self.makers and self.makers[value].operands:
                value = self.makers[value].operands[0]
            else:
                break
        return value.name.removeprefix("%")
