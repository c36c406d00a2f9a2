"""Attention's rule: iterations in which a row sees no key must leave its sums as they were, bit by bit.

How far a loop over keys goes then does not matter, and neither does what is masked inside an iteration. Shown by algebra on the
intermediate code: every comparison of a key's place with the row's own is taken to be false, what the loop carries is taken as
symbols, and each must come out as itself: max(m, -inf) is m, m - m is 0, exp(0) is 1, exp(-inf) is 0, l * 1 + 0 is l, 0 times a
key's value adds nothing. It needs what is carried, and what is loaded, to be finite; a certificate says so.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detcheck.probes.certify.taint.control import whole_steps
from detcheck.probes.certify.taint.lattice import Mark, listed, placed
from detcheck.probes.certify.taint.reductions import accumulates
from detcheck.probes.certify.ttir import Block, Operation, Value
from detcheck.reason import Reason

Known = float | bool | tuple | None
"""a number, a truth value, a finite number that is only known by name, or nothing"""
SAME = {
    "tt.splat", "tt.broadcast", "tt.expand_dims", "tt.reshape", "tt.trans", "arith.extf", "ttg.convert_layout", "tt.unsplat",
}  # fmt: skip
COMPARED = {"eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b}  # fmt: skip


@dataclass(frozen=True)
class Objection:
    """Why the rule does not hold. `refutes`: it is broken; otherwise it is not shown."""

    refutes: bool
    why: Reason


def objection(loop: Operation, marks: Mapping[Value, Mark], everything: Sequence[Operation]) -> Objection | None:
    """What is against the rule for a loop over keys; None: it holds."""
    start, end, step = loop.operands[:3]
    makers = {value: op for op in everything for value in op.results}
    at_start, at_end = marks.get(start, Mark()), marks.get(end, Mark())
    if marks.get(step, Mark()).batch:
        return Objection(True, Reason("keys_step"))
    if not whole_steps(start, step, makers, marks):
        return Objection(True, Reason("keys_from_elsewhere"))
    for mark, why in ((at_start, Reason("keys_start")), (at_end, Reason("keys_end"))):
        if mark.batch and not any(map(placed, mark.batch)):
            return Objection(True, why)
    if any(op.name in ("tt.store", "tt.descriptor_store") or "atomic" in op.name for op in loop.walk()):
        return Objection(False, Reason("keys_write"))
    loops = {op for op in loop.walk() if op.name == "scf.for"}
    masks = [op for op in loop.walk() if op.name == "arith.cmpi" and marks.get(op.results[0], Mark()).pattern & loops]
    if not masks:
        return Objection(False, Reason("keys_unmasked"))
    if any(marks.get(v, Mark()).pattern & loops for op in masks for v in op.operands):
        return Objection(True, Reason("keys_order"))
    constants = {op.results[0]: constant(op.text) for op in everything if op.name == "arith.constant"}
    floats = [
        (v, init) for v, init in zip(loop.regions[0][0].arguments[1:], loop.operands[3:], strict=True) if v.is_float
    ]
    worlds = [(True, {value: ("carried", value.name) for value, _ in floats})]  # beyond the last key that a row sees
    if at_start.batch:  # and before the first
        worlds.append((False, {value: constants.get(init) for value, init in floats}))
    for beyond, world in worlds:
        symbols = dict.fromkeys(loop.regions[0][0].arguments) | constants | world
        yielded = Algebra(marks, loop, beyond).body(loop.regions[0], symbols)
        for value, after in zip(loop.regions[0][0].arguments[1:], yielded, strict=False):
            if value.is_float and (after is None or after != world[value]):
                name = re.sub(r"_\d+$", "", value.name.removeprefix("%"))
                return Objection(False, Reason("keys_leave", {"carried": name}))
    return None


def crooked(loop: Operation, marks: Mapping[Value, Mark]) -> str:
    """Arguments, listed, that reach what a row sees in a way that is no plain offset; "" if none does."""
    inside = [op for op in loop.walk() if op.name == "arith.cmpi"]
    loops = {op for op in loop.walk() if op.name == "scf.for"}
    masks = [marks.get(op.results[0], Mark()) for op in inside]
    return listed({name for mark in masks if mark.pattern & loops for name in mark.crooked})


def outermost(loop: Operation, everything: Sequence[Operation]) -> Operation:
    """The loop over keys that holds it: splits hold blocks of keys."""
    for op in everything:
        if op.name == "scf.for" and accumulates(op) and any(inner is loop for inner in op.walk()):
            return op
    return loop


class Algebra:
    """What values are where no key is seen: all of them `beyond` a row's own, or all before."""

    def __init__(self, marks: Mapping[Value, Mark], loop: Operation, beyond: bool) -> None:
        self._marks, self._beyond = marks, beyond
        self._loops = {op for op in loop.walk() if op.name == "scf.for"}
        self.known: dict[Value, Known] = {}

    def body(self, region: Sequence[Block], symbols: Mapping[Value, Known]) -> list[Known]:
        self.known.update(symbols)
        last: list[Known] = []
        for block in region:
            for op in block.ops:
                if op.name == "scf.yield":
                    last = [self._of(v) for v in op.operands]
                else:
                    for value, known in zip(op.results, self._op(op), strict=False):
                        self.known[value] = known
        return last

    def _of(self, value: Value) -> Known:
        return self.known.get(value, ("given", value.name) if value.is_float else None)

    def _op(self, op: Operation) -> list[Known]:
        inputs = [self._of(v) for v in op.operands]
        if op.name == "arith.cmpi":
            return [self._own_keys(op)]
        if op.name == "arith.constant":
            return [constant(op.text)]
        if op.name in SAME:  # a number is the same everywhere; of what only has a name, which element is which matters
            known = inputs[0]
            return [(op.name, re.sub(r"%\S+", "", op.text), known) if isinstance(known, tuple) else known]
        if op.name == "scf.for":
            return self._loop(op)
        if op.name == "scf.if":
            arms = [self.body(region, {}) for region in op.regions]
            return [a if a == b else None for a, b in zip(*arms, strict=False)] if len(arms) == 2 else []
        if op.name == "tt.load" and op.results[0].is_float:
            if len(inputs) > 1 and inputs[1] is False:
                return [inputs[2] if len(inputs) > 2 else None]
            return [("loaded", op.results[0].name)]
        if op.name in ("tt.reduce", "tt.scan"):
            return [self._reduced(op, inputs[0])] * len(op.results)
        if op.name == "tt.dot":
            return [inputs[2] if 0.0 in (number(inputs[0]), number(inputs[1])) else unknown(op, inputs)]
        if op.name == "arith.select":
            return [inputs[1] if inputs[0] is True else inputs[2] if inputs[0] is False else self._either(inputs)]
        if op.name in ("arith.andi", "arith.ori"):
            whole = {"arith.andi": False, "arith.ori": True}[op.name]
            if whole in [v for v in inputs if isinstance(v, bool)]:
                return [whole]
            return [inputs[0] if inputs[0] == inputs[1] else None]
        if op.name == "arith.cmpf":
            return [compare(op.text, *inputs)]
        if not op.results or not op.results[0].is_float:
            return [None] * len(op.results)
        return [calculate(op.name, inputs) if op.name in RULES else unknown(op, inputs)]

    def _own_keys(self, op: Operation) -> bool | None:
        """A comparison of a key's place with a row's own: known, since all keys are on one side of it."""
        if not self._marks.get(op.results[0], Mark()).pattern & self._loops:
            return None
        first, second = (bool(self._marks.get(v, Mark()).varies & self._loops) for v in op.operands)
        how = re.match(r"arith\.cmpi [su]?(\w\w)\b", op.text).group(1)
        if first == second or how in ("eq", "ne"):
            return None
        return ((how in ("gt", "ge")) == first) == self._beyond

    @staticmethod
    def _either(inputs: Sequence[Known]) -> Known:
        return inputs[1] if inputs[1] == inputs[2] else None

    def _reduced(self, op: Operation, value: Known) -> Known:
        how = {o.name for region in op.regions for block in region for o in block.ops} - {
            "tt.reduce.return",
            "tt.scan.return",
        }
        if len(how) != 1:
            return None
        if number(value) is not None and how & {"arith.maximumf", "arith.maxnumf", "arith.minimumf", "arith.minnumf"}:
            return value
        if number(value) == 0.0 and "arith.addf" in how:
            return 0.0
        return unknown(op, [value])

    def _loop(self, op: Operation) -> list[Known]:
        """An inner loop, run as often as it likes: what it starts with, where that is what it yields."""
        counter, *carried = op.regions[0][0].arguments
        state = [self._of(v) for v in op.operands[3:]]
        after = self.body(op.regions[0], {counter: None, **dict(zip(carried, state, strict=True))})
        return [a if a == b else None for a, b in zip(state, after, strict=False)]


def unknown(op: Operation, inputs: Sequence[Known]) -> Known:
    """A finite number that is only known by how it was made; nothing where that is not sure."""
    if any(v is None or (isinstance(v, float) and not math.isfinite(v)) for v in inputs):
        return None
    return (op.name, id(op))


def number(value: Known) -> float | None:
    return value if isinstance(value, float) and not isinstance(value, bool) else None


def finite(value: Known) -> bool:
    return isinstance(value, tuple) or (isinstance(value, float) and math.isfinite(value))


def calculate(name: str, inputs: Sequence[Known]) -> Known:
    """Sums, products and the like of what is known."""
    if all(number(v) is not None for v in inputs):
        try:
            return float(RULES[name](*inputs))
        except (ValueError, OverflowError, ZeroDivisionError):
            return None
    if name in ("arith.addf", "arith.maximumf", "arith.maxnumf", "arith.mulf"):
        a, b = inputs if number(inputs[0]) is None else reversed(inputs)
        neutral = {"arith.addf": 0.0, "arith.mulf": 1.0}.get(name, -math.inf)
        if number(b) == neutral and finite(a):
            return a
        if name == "arith.mulf" and number(b) == 0.0 and finite(a):
            return 0.0
        if name == "arith.addf" and number(b) is not None and math.isinf(b) and finite(a):
            return b
        if name == "arith.mulf" and number(b) is not None and math.isinf(b):
            return None
    if name == "arith.subf":
        a, b = inputs
        if a == b and finite(a):
            return 0.0
        if number(b) == 0.0 and finite(a):
            return a
        if number(a) is not None and math.isinf(a) and finite(b):
            return a
    if name == "arith.divf" and number(inputs[1]) == 1.0 and finite(inputs[0]):
        return inputs[0]
    return (name, *inputs) if all(finite(v) for v in inputs) else None


RULES = {
    "arith.addf": lambda a, b: a + b, "arith.subf": lambda a, b: a - b, "arith.mulf": lambda a, b: a * b, "arith.divf": lambda a, b: a / b,
    "arith.maximumf": max, "arith.maxnumf": max, "arith.minimumf": min, "arith.minnumf": min, "arith.negf": lambda a: -a,
    "math.exp": math.exp, "math.exp2": lambda a: 2.0**a, "math.log": math.log, "math.log2": math.log2, "arith.truncf": lambda a: a,
}  # fmt: skip


def compare(text: str, a: Known, b: Known) -> bool | None:
    """cmpf. What is finite is not infinite."""
    how = re.match(r"arith\.cmpf [ou]?(\w\w)\b", text)
    if how is None or how.group(1) not in COMPARED:
        return None
    if number(a) is not None and number(b) is not None:
        return COMPARED[how.group(1)](a, b)
    for one, other in ((a, b), (b, a)):
        if isinstance(one, tuple) and number(other) is not None and math.isinf(other):
            return COMPARED[how.group(1)](*((0.0, other) if one is a else (other, 0.0)))
    return None


def constant(text: str) -> Known:
    """`arith.constant dense<0xFF800000> : tensor<64xf32>`, floats and truth values only."""
    kind = re.search(r"(b?f\d+|i1)>?$", text)
    written = re.search(r"arith\.constant (?:dense<)?([^>:\s]+)", text).group(1)
    if written in ("true", "false"):
        return written == "true"
    if kind is None or kind.group(1) == "i1":
        return None
    if not written.startswith("0x"):
        return float(written)
    pattern, width = int(written, 16), {"f64": 8, "f32": 4}.get(kind.group(1), 2)
    if kind.group(1) == "bf16":
        pattern, width = pattern << 16, 4
    return struct.unpack({8: "<d", 4: "<f", 2: "<e"}[width], pattern.to_bytes(width, "little"))[0]
