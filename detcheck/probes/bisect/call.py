"""One call as a trace keeps it, and what is particular to some: attention, and ops with indices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from detcheck.probes.bisect.rows import SAME, Layout, Part, explanations
from detcheck.probes.bisect.tensor import SeenTensor

Key = tuple[Any, ...]
MOVES = {
    f"aten::{name}"
    for name in ("cat", "stack", "repeat", "repeat_interleave", "flip", "roll", "rot90", "constant_pad_nd")
}


@dataclass(slots=True)
class TracedCall:
    """One call of an op, or of a module, as a trace keeps it."""

    key: Key
    order: int
    """in which order calls ended: what is inside a module comes before it"""
    op: str
    path: str
    step: int
    """which forward pass: 0 is the prefill"""
    inputs: dict[int, SeenTensor] = field(default_factory=dict)
    """by place among the arguments, flattened"""
    outputs: dict[int, SeenTensor] = field(default_factory=dict)
    plain: dict[int, str] = field(default_factory=dict)
    """arguments that are no tensors, written out"""
    before: int | None = None
    """hash of all that went in; None: the prompt's own part of it is not known"""
    after: int | None = None
    """hash of the floating-point numbers that came out; None: there are none, or their own part is not known"""

    @property
    def attention(self) -> bool:
        """Of query, key and value by heads: masks and causality may be said in another way where there is padding."""
        first = [len(seen.shape) for seen in self.inputs.values()][:3]
        return "attention" in self.op and not self.module and first == [4, 4, 4]

    @property
    def moves(self) -> bool:
        """Whether it computes nothing. Its bits are those that went in, and where it puts whose rows, sizes do not tell."""
        return self.op in MOVES

    @property
    def module(self) -> bool:
        return self.op.startswith("module ")


def of_attention(call: TracedCall, alone: TracedCall, layout: Layout) -> None:
    """query, key, value [batch, heads, length, width] and a mask over lengths. The mask is not there alone; and where it is, keys
    and values may come a head each instead of a group each."""
    (query, key, value, *others), before = call.inputs.values(), list(alone.inputs.values())
    if query.part is None or not query.part.dims or query.part.picked or len(query.shape) != 4:
        return
    rows, _, length, _ = query.part.dims
    keys = next((dim for dim in explanations(before[1].shape[2], key.shape[2], layout) if not dim.block), None)
    for seen in (key, value):
        seen.part = None if keys is None else Part((rows, SAME, keys, SAME), layout.slot)
    for seen in others:
        if len(seen.shape) == 4 and keys is not None:
            sized = zip(
                seen.shape,
                (query.shape[0], 0, query.shape[2], key.shape[2]),
                (rows, SAME, length, keys),
                strict=True,
            )
            seen.part = Part(tuple(dim if size == whole else SAME for size, whole, dim in sized), layout.slot)


def points_into_the_batch(call: TracedCall) -> bool:
    """Whether it has indices, and numbers of the batch that they may point to: other rows than the prompt's, whatever they say."""
    whole = [s for s in call.inputs.values() if not s.weight]
    indices = any(s.dtype.startswith(("int", "uint")) and s.shape for s in whole)
    return indices and any(s.floats for s in whole) and "grouped_mm" not in call.op and not call.attention
