"""The forms in which an op can be called, so that what it adds up is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detcheck.errors import UsageError

# form -> (sizes of its shape, what they are called)
FORMS = {
    "linear": ((1024, 1024), "K,N of x[M, K], w[N, K]"),
    "mm": ((1024, 1024), "K,N of a[M, K], b[K, N]"),
    "bmm": ((2, 1024, 256), "B,K,N of a[B, M, K], b[B, K, N]"),
    "mv": ((1024, 1024), "K,N of A[N, K], x[K]"),
    "dot": ((1024,), "K of a[K], b[K]"),
    "sum": ((1024,), "K of x[M, K], over the last dimension"),
    "squares": ((1024,), "K of x[M, K], each squared, over the last dimension"),
    "vector": ((1024,), "K of x[K]"),
    "attention": ((2, 1, 256, 64), "H,KH,S,D of q[M, H, 1, D], k and v[M, KH, S, D]"),
}
WITHOUT_BATCH = ("mv", "dot", "vector")  # one vector, so there are no other rows
# An op's own name -> its form.
NAMES = {
    "linear": "linear", "mm": "mm", "matmul": "mm", "bmm": "bmm", "mv": "mv", "dot": "dot", "vdot": "dot", "inner": "dot",
    "sum": "sum", "mean": "sum", "scaled_dot_product_attention": "attention",
}  # fmt: skip


def sizes(form: str, shape: Sequence[int] | None) -> tuple[int, ...]:
    """The shape, checked. Raises UsageError."""
    default, said = FORMS[form]
    if shape is None:
        return default
    if len(shape) != len(default) or min(shape) < 1 or math.prod(shape) > 1 << 31:
        raise UsageError(
            f"--shape {','.join(map(str, shape))}: {form} wants {said}, like {','.join(map(str, default))}"
        )
    return tuple(shape)
