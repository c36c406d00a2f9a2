"""The same row sum twice: once as it is often written, once so that the batch cannot reach its order.

detcheck certify --op triton_sums:before    # refuted: few rows are split over more programs' worth of iterations
detcheck certify --op triton_sums:after     # certified, for GPUs that this machine need not have
"""

import triton
import triton.language as tl

from detcheck import Signature


@triton.jit
def before(x, y, rows, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    # With few rows there is time to spare: sum in smaller steps, which keeps more loads in flight.
    step = tl.where(rows < 64, BLOCK // 2, BLOCK)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(0, n, step):
        c = k + tl.arange(0, BLOCK)
        acc += tl.load(x + row * n + c, mask=(c < n) & (c < k + step), other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(acc, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["rows"])
def after(x, y, rows, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(0, n, BLOCK):
        c = k + tl.arange(0, BLOCK)
        acc += tl.load(x + row * n + c, mask=c < n, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(acc, 0).to(y.dtype.element_ty))


SUM = Signature(
    arguments={"x": "*T", "y": "*T", "rows": "i32", "n": "i32"},
    constexprs={"BLOCK": 1024},
    batch=("rows",),  # what follows the batch
    reduction=("n",),  # a row's own length
    aligned=("x", "y"),  # the launcher copies what is not
    dtypes=("bf16", "fp16"),
)
DETCHECK = {"before": SUM, "after": SUM}
