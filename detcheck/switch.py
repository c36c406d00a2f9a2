"""The switch: a `with` block in which torch's leaf ops and transformers' attention are ours.

Leaf ops are overridden at aten's CPU key through torch.library, and where there is a GPU at its CUDA key (ROCm's too), so that everything above them (linear, matmul, einsum,
autograd) goes on working, gradients included: a backward pass is made of the same leaf ops. What cannot run batch-invariantly
is refused in words; nothing falls back to stock for an op that is listed here. What else reduces or multiplies is let through
and counted, so that a report can name it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from detcheck import row_alone
from detcheck.coverage import Coverage, active, count, uncounted
from detcheck.errors import UsageError
from detcheck.kernels._cpu import build
from detcheck.kernels._triton import launch
from detcheck.op import Op, every
from detcheck.spec import Kernels

if TYPE_CHECKING:
    import torch

# Ops that reduce or multiply. Where no kernel of ours takes their place they are let through, counted, and named in the report.
UNCOVERED = (
    "convolution", "dot", "vdot", "addbmm", "_addmm_activation", "sum.dim_IntList", "mean.dim", "prod.dim_int", "var.correction",
    "std.correction", "var_mean.correction", "logsumexp", "cumsum", "native_layer_norm", "native_group_norm", "native_batch_norm",
    "linalg_vector_norm", "linalg_solve_triangular", "_embedding_bag", "_fused_rms_norm", "convolution_backward",
    "native_layer_norm_backward", "native_group_norm_backward",
)  # fmt: skip


def check(kernels: Kernels, device: str) -> None:
    """Raises UsageError for arms that cannot run in transformers here."""
    if kernels is Kernels.ENGINE:
        raise UsageError(
            "--kernels engine: transformers has no batch-invariant mode of its own. Use stock, batch-invariant or both, or --engine vllm"
        )
    if kernels is not Kernels.STOCK and device.startswith("cuda") and not launch.available():
        raise UsageError(
            f"--kernels {kernels}: on a GPU the batch-invariant kernels need Triton, which is not installed. Install it, or use --device cpu"
        )


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
            taken = _overrides([known for known in ours if key.lower() in known.devices])
            for name in [*taken, *(name for name in UNCOVERED if name not in taken)]:
                try:
                    stock = torch.library.get_kernel(f"aten::{name}", key)
                except RuntimeError:
                    continue  # composite here: its parts are leaf ops, and those are seen
                call = _counted(name, taken[name], stock) if name in taken else _let_through(name, stock)
                library.impl(name, call, key, with_keyset=True, **anybodys)
    for known in ours:
        if known.elsewhere:
            with contextlib.suppress(ImportError):
                known.elsewhere(undo)


def _overrides(ours: Sequence[Op]) -> dict[str, Callable[..., Any]]:
    """aten overload -> what runs in its place. Overloads that write what the plain ones give are among them."""
    plain = {name: function for known in ours for name, function in known.aten.items()}
    return plain | {
        other: _writing(function, into) for name, function in plain.items() for other, into in _writers(name)
    }


def _writers(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(overload, names of the arguments that it writes into) of all that compute the same: `out=`, and in place."""
    import torch

    base, _, overload = name.partition(".")
    own = [a.name for a in getattr(getattr(torch.ops.aten, base), overload or "default")._schema.arguments]
    for packet in (base, f"{base}_"):
        for other in getattr(torch.ops.aten, packet).overloads() if hasattr(torch.ops.aten, packet) else ():
            given = getattr(getattr(torch.ops.aten, packet), other)._schema.arguments
            written = tuple(a.name for a in given if a.alias_info and a.alias_info.is_write)
            out = tuple(a.name for a in given if a.is_out)
            if written and [a.name for a in given if a.name not in out] == own:
                yield packet + ("" if other == "default" else f".{other}"), written


_here = threading.local()  # whether one of ours runs: what it calls of torch's is torch's


def _counted(name: str, function: Callable[..., Any], stock: Any) -> Callable[..., Any]:
    def call(keys: Any, *arguments: Any, **options: Any) -> Any:
        if getattr(_here, "ours", False) or _exact(arguments[0], options.get("dtype")):
            return stock.call_boxed(keys, *arguments, **options)
        count(f"aten::{name}")
        _here.ours = True
        try:
            with uncounted():
                return function(*arguments, **options)
        finally:
            _here.ours = False

    return call


def _exact(x: torch.Tensor, to: torch.dtype | None) -> bool:
    """Integers, whose sums are exact in any order. What is summed is converted first."""
    dtype = to or x.dtype
    return not (dtype.is_floating_point or dtype.is_complex)


def _let_through(name: str, stock: Any) -> Callable[..., Any]:
    def call(keys: Any, *arguments: Any, **options: Any) -> Any:
        if _exact(arguments[0], options.get("dtype")) or getattr(_here, "ours", False):
            return stock.call_boxed(keys, *arguments, **options)
        count(f"aten::{name}", "uncovered")
        made = stock.call_boxed(keys, *arguments, **options)
        _ask_alone(name, functools.partial(stock.call_boxed, keys), arguments, options, made)
        return made

    return call


ASKED = 4  # calls of one form that are asked: equal bits of one may be luck
_asked: dict[object, tuple[str, int]] = {}  # form of a call -> what was found, and how many were asked, for the process


def _ask_alone(
    name: str, run: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any], made: Any
) -> None:
    """Whether stock gives a row here the bits that it has alone: then the batch does not reach it, though it is not ours."""
    import torch

    if torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return
    form = name, torch.get_num_threads(), tuple(options), row_alone.form_of((*arguments, *options.values()))
    known, times = _asked.get(form, ("", 0))
    if times < ASKED and known != row_alone.UNLIKE:
        _here.ours = True
        try:
            with uncounted():
                known = row_alone.asked(run, arguments, options, made) or known
        finally:
            _here.ours = False
        _asked[form] = known, times + 1
    if known:
        count(f"aten::{name}", known)


def _writing(function: Callable[..., Any], into: tuple[str, ...]) -> Callable[..., Any]:
    """`into`: arguments that are written; of an op in place that is its first one."""

    def call(*arguments: Any, **options: Any) -> Any:
        outs = [options.pop(name) for name in into if name in options] or arguments[:1]
        made = function(*arguments, **options)
        results = made if isinstance(made, tuple) else (made,)
        for out, result in zip(outs, results, strict=True):
            (out if out.shape == result.shape else out.resize_(result.shape)).copy_(result)
        return tuple(outs) if isinstance(made, tuple) else outs[0]

    return call
