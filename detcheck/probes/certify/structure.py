"""How a kernel adds, without what it adds: its loops that accumulate, with their bounds, and the lengths of dots and reductions.

Two forms of a kernel with unlike skeletons add in unlike orders. With the same one they may still differ in what the compiler
made of them, which only the binary can tell.
"""

from __future__ import annotations

import re

from detcheck.probes.certify.taint.reductions import accumulates
from detcheck.probes.certify.ttir import Block, Function, Operation, Value

DEPTH = 12  # of an expression of a loop's bound


def skeleton(function: Function) -> tuple[object, ...]:
    makers = {value: op for op in function.walk() for value in op.results}
    return tuple(entry for block in function.blocks for entry in entries(block, makers))


def entries(block: Block, makers: dict[Value, Operation]) -> list[object]:
    found: list[object] = []
    for op in block.ops:
        inner = tuple(e for region in op.regions for b in region for e in entries(b, makers))
        if op.name == "scf.for" and accumulates(op):
            found.append(("loop", *(expression(v, makers) for v in op.operands[:3]), inner))
        elif op.name in ("tt.dot", "tt.dot_scaled"):
            length = re.findall(r"(\d+)x", op.operands[0].type)[-1]
            found.append(("dot", int(length), re.sub(r"%\S+,? ?", "", op.text.split(" : ")[0])))
        elif op.name in ("tt.reduce", "tt.scan"):
            length = re.findall(r"(\d+)x", op.operands[0].type)[int(op.attribute("axis"))]
            how = tuple(o.name for region in op.regions for b in region for o in b.ops)
            found.append((op.name, int(length), how))
        elif inner:
            found.extend(inner)
    return found


def expression(value: Value, makers: dict[Value, Operation], depth: int = DEPTH) -> str:
    op = makers.get(value)
    if op is None or depth == 0:
        return re.sub(r"_\d+$", "", value.name)
    if op.name == "arith.constant":
        return re.search(r"arith\.constant (?:dense<)?([^>:\s]+)", op.text).group(1)
    operands = ", ".join(expression(v, makers, depth - 1) for v in op.operands)
    kind = re.match(r"[\w.]+(?: [a-z]+(?=,))?", op.text.replace('"', "")).group()
    return f"{kind}({operands})"
