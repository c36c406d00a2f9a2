"""The switch: a `with` block in which torch's leaf ops and transformers' attention are ours.

Leaf ops are overridden at aten's CPU key through torch.library, and where there is a GPU at its CUDA key (ROCm's too), so that everything above them (linear, matmul, einsum,
autograd) goes on working, gradients included: a backward pass is made of the same leaf ops. What cannot run batch-invariantly
is refused in words; nothing falls back to stock for an op that is listed here. What else reduces or multiplies is let through
and counted, so that a report can name it.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from detcheck.coverage import Coverage, active, count, uncounted
from detcheck.kernels._cpu import build
from detcheck.kernels._triton import launch
from detcheck.op import Op, every

if TYPE_CHECKING:
    import torch

# Ops that reduce or multiply and are not ours: let through, counted, named in the report.
UNCOVERED = (
    "convolution", "dot", "sum.dim_IntList", "prod.dim_int", "var.correction", "std.correction", "var_mean.correction",
    "logsumexp", "cumsum", "native_layer_norm", "native_group_norm", "native_batch_norm", "linalg_vector_norm", "mean",
    "_embedding_bag", "_fused_rms_norm",
)  # fmt: skip


@contextlib.contextmanager
def batch_invariant(only: frozenset[str] | None = None) -> Iterator[Coverage]:
    """Batch-invariant kernels inside the block; the stock ones again behind it, whatever happens. Nests.

    Inside, an op that has no batch-invariant form for its arguments (dtype, device, mask) raises NotInvariantError.
    `only`: names of the ops to replace (`op.replaceable` tells them); None: all. What an outer block replaces stays replaced.
    """
    coverage = Coverage(description())
    active.append(coverage)
    try:
        with contextlib.ExitStack() as undo:
            if len(active) == 1:
                _register(undo, only)
            yield coverage
    finally:
        active.remove(coverage)


def description() -> str:
    """Which implementations there are here."""
    import torch

    own = build.description()
    return f"{own}; on the GPU {launch.description()}" if torch.cuda.is_available() and launch.available() else own


def _register(undo: contextlib.ExitStack, only: frozenset[str] | None = None) -> None:
    """Puts everything in place, and what takes it away again onto the stack."""
    import torch

    ours = [known for known in every() if only is None or known.name in only]
    library = torch.library.Library("aten", "IMPL")
    undo.callback(library._destroy)
    # Ours take the place of somebody else's kernels too. Since torch 2.13 that is what happens unasked.
    anybodys = {"allow_override": True} if "allow_override" in inspect.signature(library.impl).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a kernel is overridden: that is what this is for
        for key in ("CPU", "CUDA") if torch.cuda.is_available() else ("CPU",):
            for name, function in _overrides(ours).items():
                library.impl(name, _counted(name, function), key, **anybodys)
            for name in UNCOVERED:
                try:
                    stock = torch.library.get_kernel(f"aten::{name}", key)
                except RuntimeError:
                    continue  # composite here: its parts are leaf ops, and those are seen
                library.impl(name, _let_through(name, stock), key, with_keyset=True, **anybodys)
    for known in ours:
        if known.elsewhere:
            with contextlib.suppress(ImportError):
                known.elsewhere(undo)


def _overrides(ours: Sequence[Op]) -> dict[str, Callable[..., Any]]:
    """aten overload -> what runs in its place. `.out` overloads write what the plain ones give."""
    import torch

    plain = {name: function for known in ours for name, function in known.aten.items()}
    bases = {name: name.partition(".")[0] for name in plain}
    with_out = [name for name in plain if "out" in getattr(torch.ops.aten, bases[name]).overloads()]
    return plain | {f"{bases[name]}.out": _writing(plain[name]) for name in with_out}


def _counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        count(f"aten::{name}")
        with uncounted():
            return function(*arguments, **options)

    return call


def _let_through(name: str, stock: Any) -> Callable[..., Any]:
    def call(keys: Any, *arguments: Any, **options: Any) -> Any:
        if arguments[0].is_floating_point():  # a sum of integers is exact in any order
            count(f"aten::{name}", "uncovered")
        return stock.call_boxed(keys, *arguments, **options)

    return call


def _writing(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def call(*arguments: Any, out: torch.Tensor, **options: Any) -> torch.Tensor:
        made = function(*arguments, **options)
        return out.resize_(made.shape).copy_(made)

    return call
