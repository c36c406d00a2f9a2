"""Gradients of products on the CPU: for the rows each by itself, for what all rows share a sum over rows (`over_rows`).

torch's own backward pass calls `mm` for both, where a sum over rows looks like a row's own: one would have the order of
the other. So inside the switch a product that needs gradients is an autograd function of ours. Its own gradients are products again.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from detcheck.coverage import count, uncounted
from detcheck.kernels._shared import over_rows

if TYPE_CHECKING:
    import torch


def rows_shared(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """a[..., M, P], g[..., M, Q] -> [..., P, Q]: the sum of the rows' outer products, one row after the other."""
    import torch

    if a.ndim == 2:
        return over_rows.products(a, g)
    made = [over_rows.products(x, y) for x, y in zip(a, g, strict=True)]
    return torch.stack(made) if made else a.new_zeros(0, a.shape[2], g.shape[2])


@functools.cache
def functions() -> tuple[Any, Any]:
    """(product, product that is added to something) as autograd functions."""
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return below(torch.ops.aten.mm.default if a.ndim == 2 else torch.ops.aten.bmm.default, a, b)

        @staticmethod
        def setup_context(context: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            context.save_for_backward(*inputs)

        @staticmethod
        def backward(context: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            return of_both(*context.saved_tensors, grad, context.needs_input_grad)

    class OverRows(torch.autograd.Function):
        @staticmethod
        def forward(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            count("detcheck::products_over_rows")
            with uncounted():
                return rows_shared(a, g)

        @staticmethod
        def setup_context(context: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            context.save_for_backward(*inputs)

        @staticmethod
        def backward(context: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            (a, g), (for_a, for_g) = context.saved_tensors, context.needs_input_grad
            return Product.apply(g, grad.mT) if for_a else None, Product.apply(a, grad) if for_g else None

    class Added(torch.autograd.Function):
        @staticmethod
        def forward(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, beta: float, alpha: float) -> torch.Tensor:
            op = torch.ops.aten.addmm.default if a.ndim == 2 else torch.ops.aten.baddbmm.default
            return below(op, c, a, b, beta=beta, alpha=alpha)

        @staticmethod
        def setup_context(context: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            c, a, b, context.beta, context.alpha = inputs
            context.shape = c.shape
            context.save_for_backward(a, b)

        @staticmethod
        def backward(context: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            for_c, *needed = context.needs_input_grad
            scaled = grad if context.beta == 1 else grad * context.beta
            of_c = scaled.sum_to_size(context.shape) if for_c else None
            of_product = grad if context.alpha == 1 else grad * context.alpha
            return of_c, *of_both(*context.saved_tensors, of_product, needed), None, None

    def of_both(
        a: torch.Tensor, b: torch.Tensor, grad: torch.Tensor, needed: Sequence[bool]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Of a @ b: b's is dense as b is, so that a weight that was turned around gets it turned around, with nothing to copy."""
        of_a = Product.apply(grad, b.mT) if needed[0] else None
        if not needed[1]:
            return of_a, None
        turned = b.stride(-2) == 1 and b.stride(-1) != 1
        return of_a, OverRows.apply(grad, a).mT if turned else OverRows.apply(a, grad)

    return Product, Added


def below(op: Any, *arguments: Any, **options: Any) -> torch.Tensor:
    """The op itself, of which autograd takes no note."""
    import torch

    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments, **options)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return functions()[0].apply(a, b)


def added(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    return functions()[1].apply(c, a, b, beta, alpha)


def mv(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return product(a, x[:, None])[:, 0]


def addmv(c: torch.Tensor, a: torch.Tensor, x: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    return added(c.expand(len(a))[:, None], a, x[:, None], beta=beta, alpha=alpha)[:, 0]


def into(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """In place: autograd knows what a copy is."""

    def call(c: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        return c.copy_(function(c, *arguments, **options))

    return call


OURS: dict[str, Callable[..., torch.Tensor]] = {
    "mm": product, "bmm": product, "mv": mv, "addmm": added, "baddbmm": added, "addmv": addmv,
    "addmm_": into(added), "baddbmm_": into(added), "addmv_": into(addmv),
}  # fmt: skip


def put(undo: contextlib.ExitStack) -> None:
    """In the place of torch's gradients, and what takes them away again onto the stack."""
    import torch

    library = torch.library.Library("aten", "IMPL")
    undo.callback(library._destroy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a kernel is overridden: that is what this is for
        for name, function in OURS.items():
            stock = torch.library.get_kernel(f"aten::{name}", "AutogradCPU")
            library.impl(name, where_needed(function, stock), "AutogradCPU", with_keyset=True)


def where_needed(function: Callable[..., Any], stock: Any) -> Callable[..., Any]:
    """Subclasses of tensors, as a compiler traces them, are torch's, and so is what torch.func transforms."""
    import torch

    plain = torch.Tensor, torch.nn.Parameter

    def call(keys: Any, *arguments: Any, **options: Any) -> Any:
        tensors = [a for a in arguments if hasattr(a, "requires_grad")]
        needed = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        traced = torch._C._are_functorch_transforms_active()
        if needed and not traced and all(type(t) in plain and t.is_floating_point() for t in tensors):
            return function(*arguments, **options)
        return stock.call_boxed(keys, *arguments, **options)

    return call
