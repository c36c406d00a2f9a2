"""The knobs of `detcheck matmul`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from detcheck.dtypes import full_dtype
from detcheck.errors import UsageError
from detcheck.harness import device as _device
from detcheck.options import OP, knob, numbers
from detcheck.spec import Kernels, Spec

EXAMPLES = (
    "detcheck matmul --shape 64,1024,1024 --trials 1000  # one product, a thousand times",
    "detcheck matmul --shape 8,4096,4096 --dtype bf16 --device cuda  # on the GPU, in bfloat16",
)


@dataclass(frozen=True)
class Options:
    """One matrix product of the same inputs, a thousand times: are its bits always equal?"""

    shape: tuple[int, ...] = knob(
        (64, 1024, 1024), help="M,N,K of [M, K] times [K, N].", panel=OP, read=numbers("64,1024,1024", what="M,N,K")
    )

    op: ClassVar[str] = "matmul"
    SHARED: ClassVar[dict[str, dict[str, str]]] = {
        "dtype": {"panel": OP, "help": "float32, bf16 ... Default: float32."},
        "device": {"panel": OP},
        "trials": {"help": "How many times to multiply."},
        "seed": {"help": "Seed for the two matrices."},
        "fail_on": {},
    }
    DEFAULTS: ClassVar[dict[str, object]] = {"trials": 1000}


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    shape = spec.options.shape
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(f"--shape wants M,N,K, each at least 1, like 64,1024,1024; got {','.join(map(str, shape))}")
    if spec.kernels is not Kernels.STOCK:
        raise UsageError(f"--kernels {spec.kernels}: matmul runs stock. `detcheck kernels --op matmul` compares")
    if spec.trials < 1:
        raise UsageError(f"--trials must be at least 1; got {spec.trials}")
    _device.check(spec.device)
    full_dtype(spec.dtype)
