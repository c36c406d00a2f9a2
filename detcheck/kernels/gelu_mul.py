"""gelu(gate) * up: the gated activation of Gemma-like MLPs (the tanh form), and of those that use the error function.

Elementwise, and yet stock is not invariant where the width is no multiple of its vectors (see silu_mul). Ours computes each
element by itself in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._shared import gradients
from detcheck.kernels._shared.rowwise import make_rows, rowwise
from detcheck.kernels._shared.unreadable import ADDS_NOTHING
from detcheck.op import Op

if TYPE_CHECKING:
    import torch


def stock(gate: torch.Tensor, up: torch.Tensor, approximate: str = "tanh") -> torch.Tensor:
    import torch

    return torch.nn.functional.gelu(gate, approximate=approximate) * up


def gelu_mul(gate: torch.Tensor, up: torch.Tensor, approximate: str = "tanh") -> torch.Tensor:
    """gate, up [..., n] -> [..., n]. gelu is rounded to the dtype before the product, as two ops would."""
    name = "gelu_tanh_mul" if approximate == "tanh" else "gelu_mul"
    return rowwise(name, gate, up, torch_row=lambda a, b: stock(a, b, approximate))


def gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    """Each element, with the error function ("none") or its "tanh" approximation."""
    import torch

    name = "gelu_tanh" if approximate == "tanh" else "gelu"
    return rowwise(name, x, torch_row=lambda row: torch.nn.functional.gelu(row, approximate=approximate))


def reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return stock(gate.double(), up.double())


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """shape "N": gate, up [rows, N]."""
    return make_rows(shape, rows, dtype, seed, operands=2)


TRITON = ("detcheck.kernels._triton.rowwise:gate_kernel",)
OP = Op(
    "gelu_mul", ("67", "1024"), make, stock, reference, gelu_mul,
    batched=(0, 1), devices=("cpu", "cuda"), roundings=2, triton=TRITON, order=ADDS_NOTHING,
    aten={"gelu": lambda x, *, approximate="none": gelu(x, approximate), "gelu_backward": gradients.gelu},
)  # fmt: skip
