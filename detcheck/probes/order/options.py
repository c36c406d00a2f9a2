"""The knobs of `detcheck order`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from detcheck.dtypes import full_dtype
from detcheck.errors import UsageError
from detcheck.harness import device as _device
from detcheck.harness import user_op
from detcheck.options import OP, SCHEDULE, knob, numbers
from detcheck.probes.order.forms import FORMS, sizes
from detcheck.probes.order.ops import ALL, PLANTED, form_of, known, unreadable
from detcheck.spec import Kernels, Spec

SIZES = (1, 2, 3, 4, 7, 8, 16, 33, 64)
MOST = 2**31 - 1  # rows of a batch: a condition is stored with 32 bits of it
LAYOUTS = ("strides", "alignment")
EXAMPLES = (
    "detcheck order --shape 4096,1024 --batch-sizes 1,2,4,64  # of torch's linear, at four batch sizes",
    "detcheck order --op my_kernels:norm --form sum --shape 1024  # of your own op, which sums rows of 1024",
)


@dataclass(frozen=True)
class Options:
    """In which order does an op add, at each batch size? The tree itself, revealed, and re-added to the bit."""

    op: str = knob(
        "torch.nn.functional:linear",
        help="A bundled op, all, or any by import path: package.module:function.",
        panel=OP,
        values=lambda: (ALL, *known()),
    )
    form: str | None = knob(
        None, metavar="NAME", panel=OP,
        help="linear, mm, bmm, mv, dot, sum, squares, vector, attention. Default: by its name.",
        values=FORMS,
    )  # fmt: skip
    """how it is called"""
    shape: tuple[int, ...] | None = knob(
        None, help="Like 4096,1024: K,N of a linear; K of a sum.", panel=OP, read=numbers("4096,1024")
    )
    threads: tuple[int, ...] | None = knob(
        None,
        help="Like 1,2. Default: torch's own number.",
        panel=SCHEDULE,
        read=numbers("1,2", 1, "whole numbers from 1 up"),
    )
    layout: str | None = knob(
        None,
        help="strides: rows with room between them; alignment: one element off.",
        panel=SCHEDULE,
        metavar="NAME",
        values=LAYOUTS,
    )
    """None: tensors as torch makes them"""
    prove: bool = knob(False, help="Ask about every pair of summands of a product.", panel=SCHEDULE)

    SHARED: ClassVar[dict[str, dict[str, str]]] = {
        "kernels": {"panel": OP, "help": "stock, batch-invariant, or both side by side."},
        "dtype": {"panel": OP, "help": "float32, bf16 ... Default: float32."},
        "device": {"panel": OP},
        "batch_sizes": {"help": "Like 1,2,4,64. Default: thresholds up to 64."},
        "trials": {"help": "How often each tree is revealed."},
        "seed": {"help": "Seed for data and pivots."},
        "fail_on": {},
    }
    DEFAULTS: ClassVar[dict[str, object]] = {"trials": 2}


def ops(own: Options) -> tuple[str, ...]:
    """What is asked about. `all` leaves the planted one out."""
    return tuple(name for name in known() if name != PLANTED) if own.op == ALL else (own.op,)


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    from detcheck.probes.order import pairs
    from detcheck.summation.arithmetic import MANTISSA

    own: Options = spec.options
    _device.check(spec.device)
    if ":" in own.op:
        user_op.check_path(own.op)
    elif own.op not in (ALL, *known()):
        names = ", ".join((ALL, *known()))
        raise UsageError(f"--op {own.op}: name one of {names}, or your own as package.module:function")
    if (own.op == ALL or unreadable(own.op)) and (own.shape or own.form):
        raise UsageError(f"--op {own.op}: leave out --shape and --form, which are for one op whose order can be read")
    if spec.kernels is Kernels.ENGINE:
        raise UsageError(f"--kernels {spec.kernels}: order takes stock, batch-invariant or both")
    if ":" in own.op and spec.kernels is not Kernels.STOCK:
        raise UsageError(
            f"--kernels {spec.kernels}: is for bundled ops; there is none of ours for {own.op}. Leave it out, or name one of "
            f"{', '.join(known())}"
        )
    if spec.seed < 0:
        raise UsageError(f"--seed must be at least 0; got {spec.seed}")
    if spec.trials < 1:
        raise UsageError(f"--trials must be at least 1; got {spec.trials}")
    if own.layout not in (None, *LAYOUTS):
        raise UsageError(f"--layout {own.layout}: order knows {', '.join(LAYOUTS)}")
    if own.prove and (own.op == ALL or form_of(own.op, own.form) not in pairs.FORMS):
        raise UsageError(
            f"--prove asks about products, of the forms {' and '.join(pairs.FORMS)}. Leave it out with --op {own.op}"
        )
    if own.prove and (full_dtype(spec.dtype) or "float32") not in pairs.DTYPES:
        raise UsageError(f"--prove: {spec.dtype} has no room for the masks; it knows {', '.join(pairs.DTYPES)}")
    if spec.batch_sizes and max(spec.batch_sizes) > MOST:
        raise UsageError(f"--batch-sizes {max(spec.batch_sizes)}: at most {MOST} rows can be told of")
    if own.threads and min(own.threads) < 1:
        raise UsageError("--threads wants whole numbers from 1 up, like 1,2")
    for op in ops(own):
        if form := form_of(op, own.form):
            sizes(form, own.shape)
    if (full_dtype(spec.dtype) or "float32") not in MANTISSA:
        raise UsageError(f"--dtype {spec.dtype}: order knows {', '.join(MANTISSA)}")
