"""The knobs of `detcheck kernels`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from detcheck import lookup
from detcheck.dtypes import full_dtype
from detcheck.errors import UsageError
from detcheck.harness import device as _device
from detcheck.harness import user_op
from detcheck.options import OP, knob, words
from detcheck.spec import Kernels, Spec

if TYPE_CHECKING:
    from detcheck.op import Op

ALL, PLANTED = "all", "control"
DTYPES = {True: "float32,bfloat16", False: "float32"}  # default; bundled or the user's own
EXAMPLES = (
    "detcheck kernels --op rmsnorm --kernels both  # a bundled op beside the stock one",
    "detcheck kernels --op my_kernels:norm --batch-sizes 1,8,64  # your own op, alone and among other rows",
)


@dataclass(frozen=True)
class Options:
    """One op, the same row in batches of every kind: always the same bits, the right ones, and how fast?"""

    op: str = knob(
        ALL,
        help="A bundled op, all, or your own: package.module:function.",
        panel=OP,
        values=(ALL, *lookup.names("kernels")),
    )
    shapes: tuple[str, ...] | None = knob(
        None, help="Like 1024,4096. Default: the op's own; its smallest with all.", panel=OP, read=words
    )
    """names that the op knows"""

    SHARED: ClassVar[dict[str, dict[str, str]]] = {
        "kernels": {"panel": OP, "help": "stock, batch-invariant, or both: stock is reported beside ours."},
        "dtype": {"panel": OP, "help": "Like float32,bf16. Default: these two; float32 for your own."},
        "device": {"panel": OP},
        "batch_sizes": {"help": "Like 1,8,64. Default: all thresholds."},
        "trials": {},
        "seed": {"help": "Seed for inputs and places."},
        "fail_on": {},
        "fail_fast": {},
    }
    DEFAULTS: ClassVar[dict[str, object]] = {"kernels": Kernels.BOTH}


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    if spec.kernels is Kernels.ENGINE:
        raise UsageError("--kernels engine: an op has no engine. Use stock, batch-invariant or both")
    if spec.trials < 1:
        raise UsageError(f"--trials must be at least 1; got {spec.trials}")
    _device.check(spec.device)
    dtypes(spec)
    if ":" in own.op:
        user_op.check_path(own.op)
        if own.shapes:
            raise UsageError("--shapes is for bundled ops: the shape of your own op's inputs is what make_inputs makes")
        return
    for op in bundled(own.op):
        if unknown := [shape for shape in own.shapes or () if shape not in op.shapes]:
            raise UsageError(f"--shapes {','.join(unknown)}: {op.name} has {', '.join(op.shapes)}")
        if own.op != ALL and spec.kernels is Kernels.BATCH_INVARIANT and op.batch_invariant is None:
            raise UsageError(
                f"--kernels batch-invariant: {op.name} has no batch-invariant implementation. Use --kernels stock"
            )


def dtypes(spec: Spec) -> tuple[str, ...]:
    default = DTYPES[":" not in spec.options.op]
    return tuple(dict.fromkeys(full_dtype(word.strip()) for word in (spec.dtype or default).split(",")))


def bundled(name: str) -> list[Op]:
    """The ops of that name. `all` leaves the planted one out. Raises UsageError where there is none."""
    names = [n for n in lookup.names("kernels") if n != PLANTED] if name == ALL else [name]
    ops = [lookup.find("kernels", n).OP for n in names]
    if not ops:
        raise UsageError(f"--op all: there is no bundled op but {PLANTED}. Name one, or your own as module:function")
    return ops
