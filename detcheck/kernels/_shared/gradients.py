"""Gradients of ops on rows by themselves, on the CPU: a row's follows its own numbers alone, as the op's result does.

A GPU's are torch's: NoKernelError says so, and the switch counts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from detcheck.kernels._shared import float64, over_rows
from detcheck.kernels._shared.rowwise import along, rowwise
from detcheck.op import NoKernelError

if TYPE_CHECKING:
    import torch


def on_cpu(op: str, grad: torch.Tensor) -> None:
    if not grad.is_cpu:
        raise NoKernelError(f"the gradient of {op} has no batch-invariant kernel on {grad.device.type}; it has on cpu")


def elementwise(op: str, torch_row: Callable[..., torch.Tensor] | None = None) -> Callable[..., torch.Tensor]:
    """aten's `<op>_backward`, of the gradient and the op's result, or what it was given. `torch_row`: None: torch's own."""

    def call(grad: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        import torch

        on_cpu(op, grad)
        stock = torch_row or getattr(torch.ops.aten, f"{op}_backward")
        first, second = (t if t.ndim else t.view(1) for t in (grad, other))
        return rowwise(f"{op}_backward", first, second, torch_row=stock).view(grad.shape)

    return call


def gelu(grad: torch.Tensor, x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    import torch

    def row(g: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.gelu_backward(g, own, approximate=approximate)

    return elementwise("gelu_tanh" if approximate == "tanh" else "gelu", row)(grad, x)


def softmax(op: str) -> Callable[..., torch.Tensor]:
    """Of `softmax` or `log_softmax`, along any dimension, as aten has it."""

    def call(grad: torch.Tensor, result: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
        import torch

        on_cpu(op, grad)
        stock = getattr(torch.ops.aten, f"_{op}_backward_data")
        moved = (result if result.ndim else result.view(1)).movedim(dim, -1)

        def rows(g: torch.Tensor) -> torch.Tensor:
            return rowwise(f"{op}_backward", g, moved, torch_row=lambda g, y: stock(g, y, -1, y.dtype))

        return along(rows, grad, dim, False).to(dtype)

    return call


def layer_norm(
    grad: torch.Tensor,
    x: torch.Tensor,
    shape: Sequence[int],
    mean: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    needed: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """In float64, each sum over a row in a tree that its length decides; weight's and bias' are sums over rows."""
    on_cpu("layer_norm", grad)
    length = math.prod(shape)
    g, own = (t.reshape(mean.numel(), length).double() for t in (grad, x))
    normed = (own - mean.reshape(-1, 1).double()) * scale.reshape(-1, 1).double()
    weighted = g if weight is None else g * weight.reshape(1, length).double()
    for_x = for_weight = for_bias = None
    if needed[0]:
        of_mean, of_scale = (float64.added(t) / length for t in (weighted, weighted * normed))
        for_x = ((weighted - of_mean - normed * of_scale) * scale.reshape(-1, 1).double()).to(x.dtype).view(x.shape)
    if needed[1] and weight is not None:
        for_weight = over_rows.sums(g * normed).to(weight.dtype).view(weight.shape)
    if needed[2] and bias is not None:
        for_bias = over_rows.sums(g).to(bias.dtype).view(bias.shape)
    return for_x, for_weight, for_bias


def embedding(grad: torch.Tensor, ids: torch.Tensor, rows: int, left_out: int, by_frequency: bool) -> torch.Tensor:
    """Of the table: each of its rows is the sum of the gradients at its places, from first to last."""
    on_cpu("embedding", grad)
    if by_frequency:
        raise NoKernelError("the gradient of an embedding that counts how often a token occurs has the batch in it")
    return over_rows.placed(grad.reshape(ids.numel(), grad.shape[-1]), ids.reshape(-1), rows, left_out)


def scatter_add(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Where nothing is added twice, as behind `gather` of one element: each number is one addition by itself."""
    if not x.is_cpu or x.ndim == 0 or index.shape[dim] != 1:
        raise NoKernelError("scatter_add of more than one element has no batch-invariant kernel")
    part = source[tuple(slice(size) for size in index.shape)]
    return x.scatter(dim, index, x.gather(dim, index) + part)
