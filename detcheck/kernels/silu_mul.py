"""silu(gate) * up: the gated activation of Llama-like MLPs.

Elementwise, and yet stock is not invariant where the width is no multiple of its vectors: the elements of the tail take
another exp. Ours fills the tail up to whole vectors, so that an element's bits depend on its value alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.kernels._shared import gradients
from detcheck.kernels._shared.rowwise import make_rows, rowwise
from detcheck.kernels._shared.unreadable import ADDS_NOTHING
from detcheck.op import Op

if TYPE_CHECKING:
    import torch


def stock(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.silu(gate) * up


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gate, up [..., n] -> [..., n]. silu is rounded to the dtype before the product, as two ops would."""
    return rowwise("silu_mul", gate, up, torch_row=stock)


def silu(x: torch.Tensor) -> torch.Tensor:
    """x / (1 + exp(-x)), each element."""
    import torch

    return rowwise("silu", x, torch_row=torch.nn.functional.silu)


def reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return stock(gate.double(), up.double())


def make(shape: str, rows: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """shape "N": gate, up [rows, N]."""
    return make_rows(shape, rows, dtype, seed, operands=2)


TRITON = ("detcheck.kernels._triton.rowwise:gate_kernel",)
OP = Op(
    "silu_mul", ("67", "1024"), make, stock, reference, silu_mul,
    batched=(0, 1), devices=("cpu", "cuda"), roundings=2, triton=TRITON, order=ADDS_NOTHING,
    aten={"silu": silu, "silu_backward": gradients.elementwise("silu")},
)  # fmt: skip
