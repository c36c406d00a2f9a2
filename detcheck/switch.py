"""The switch: a `with` block in which torch's leaf ops and transformers' attention are ours.

Leaf ops are overridden at aten's CPU key through torch.library, and where there is a GPU at its CUDA key (ROCm's too), so that everything above them (linear, matmul, einsum,
autograd) goes on working, gradients included: a backward pass is made of the same leaf ops. What cannot run batch-invariantly
is refused in words, or, where that is an op of which ours has no form (`NoKernelError`: float64, a transposed convolution), runs as it is and
is counted as such. What else may follow the batch (`stock_ops`) is let through, counted, and asked, so that a report can name it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from detcheck import aten, row_alone, stock_ops
from detcheck.coverage import Coverage, active, count, uncounted
from detcheck.errors import UsageError
from detcheck.kernels._cpu import build
from detcheck.kernels._triton import launch
from detcheck.kernels.elementwise import UNARY
from detcheck.op import NoKernelError, Op, every
from detcheck.spec import Kernels
from detcheck.tensors import same_form

if TYPE_CHECKING:
    import torch


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

    Inside, an op that has no batch-invariant form for its arguments (device, mask, bias) raises NotInvariantError; in a dtype that ours does
    not take it runs as it is and is counted under `uncovered`.
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

    library = torch.library.Library("aten", "IMPL")
    undo.callback(library._destroy)
    libraries = Libraries(undo)
    # Ours take the place of somebody else's kernels too. Since torch 2.13 that is what happens unasked.
    anybodys = {"allow_override": True} if "allow_override" in inspect.signature(library.impl).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a kernel is overridden: that is what this is for
        for key in ("CPU", "CUDA") if torch.cuda.is_available() else ("CPU",):
            taken, names = _planned(key.lower(), only)
            for name in names:
                if aten.made_of_others(name, key):
                    continue  # its parts are leaf ops, and those are seen
                try:
                    stock = _stock(name, torch.library.get_kernel(f"aten::{name}", key))
                except RuntimeError:
                    continue  # there is none here
                passed = _let_through(name, stock)
                library.impl(
                    name,
                    _counted(name, taken[name], stock, passed) if name in taken else passed,
                    key,
                    with_keyset=True,
                    **anybodys,
                )
            for space, name in stock_ops.foreign(key):
                full = f"{space}::{name}"
                passed = _let_through(full, torch.library.get_kernel(full, key).call_boxed)
                libraries[space].impl(name, passed, key, with_keyset=True, **anybodys)
    for known in every():
        if known.elsewhere and (only is None or known.name in only):
            with contextlib.suppress(ImportError):
                known.elsewhere(undo)


@functools.cache
def _planned(device: str, only: frozenset[str] | None) -> tuple[Mapping[str, Callable[..., Any]], tuple[str, ...]]:
    """aten overload -> what runs in its place; and the names of all overloads that are replaced or counted there."""
    there = [known for known in every() if device in known.devices]
    taken = _overrides([known for known in there if only is None or known.name in only])
    leaves = (*stock_ops.of(device), *(name for known in there for name in known.aten))
    writers = (other for name in leaves for other, _ in aten.writers(name))
    return taken, tuple(dict.fromkeys((*taken, *leaves, *writers)))


def _overrides(ours: Sequence[Op]) -> dict[str, Callable[..., Any]]:
    """aten overload -> what runs in its place. Overloads that write what the plain ones give are among them."""
    plain = {name: function for known in ours for name, function in known.aten.items()}
    return plain | {
        other: _writing(function, into) for name, function in plain.items() for other, into in aten.writers(name)
    }


_here = threading.local()  # whether one of ours runs: what it calls of torch's is torch's


@contextlib.contextmanager
def torchs_own() -> Iterator[None]:
    """torch's own ops in the block, in this thread, whatever is ours around it."""
    before, _here.ours = getattr(_here, "ours", False), True
    try:
        yield
    finally:
        _here.ours = before


def _stock(name: str, kernel: Any) -> Callable[..., Any]:
    """torch's own. Numbers that stand for tensors arrive here as numbers, and it takes them as tensors alone."""
    import torch

    slots = aten.tensors_of(name)

    def call(keys: Any, *arguments: Any, **options: Any) -> Any:
        if any(not hasattr(arguments[n], "dtype") for n in slots if n < len(arguments)):
            given = [a for a in arguments if hasattr(a, "dtype") or isinstance(a, int | float | complex)]
            dtype = functools.reduce(
                torch.promote_types, (torch.result_type(a, b) for a in given for b in given if hasattr(a, "dtype"))
            )
            arguments = tuple(
                torch.scalar_tensor(a, dtype=dtype) if n in slots and not hasattr(a, "dtype") else a
                for n, a in enumerate(arguments)
            )
        return kernel.call_boxed(keys, *arguments, **options)

    return call


def _counted(name: str, function: Callable[..., Any], stock: Any, passed: Callable[..., Any]) -> Callable[..., Any]:
    """`passed`: what runs where ours has no form for the arguments."""

    def call(keys: Any, *arguments: Any, **options: Any) -> Any:
        if getattr(_here, "ours", False) or _exact(name, arguments, options.get("dtype")):
            return stock(keys, *arguments, **options)
        _here.ours = True
        try:
            with uncounted():
                made = function(*arguments, **options)
        except NoKernelError:
            made = NoKernelError
        finally:
            _here.ours = False
        if made is NoKernelError:
            return passed(keys, *arguments, **options)
        count(f"aten::{name}")
        return made

    return call


def _exact(name: str, arguments: tuple[Any, ...], to: torch.dtype | None) -> bool:
    """Of integers alone, whose sums are exact in any order. What is summed is converted first; a function of integers is no integer."""
    if "::" in name or name in stock_ops.QUANTISED:
        return False
    if to is not None:
        return not (to.is_floating_point or to.is_complex)
    if name.partition(".")[0].removesuffix("_") in UNARY:
        return False
    return not any(_inexact(a) for a in arguments)


def _inexact(argument: Any) -> bool:
    dtype = getattr(argument, "dtype", None)
    return isinstance(argument, float | complex) if dtype is None else dtype.is_floating_point or dtype.is_complex


class Libraries(dict[str, Any]):
    """Namespace -> what puts kernels into it, until it is taken away again."""

    def __init__(self, undo: contextlib.ExitStack) -> None:
        self._undo = undo

    def __missing__(self, space: str) -> Any:
        import torch

        self[space] = torch.library.Library(space, "IMPL")
        self._undo.callback(self[space]._destroy)
        return self[space]


def _let_through(name: str, stock: Any) -> Callable[..., Any]:
    """`name`: of torch's own, or with the namespace of another library."""
    full = name if "::" in name else f"aten::{name}"
    in_place = name.partition(".")[0].endswith("_")

    def call(keys: Any, *arguments: Any, **options: Any) -> Any:
        if getattr(_here, "ours", False) or _exact(name, arguments, options.get("dtype")):
            return stock(keys, *arguments, **options)
        count(full, "uncovered")
        form = _form(name, arguments, options)
        asks = form is not None and _open(form)
        given = (same_form(arguments[0]), *arguments[1:]) if asks and in_place else arguments
        made = stock(keys, *arguments, **options)
        if asks:
            _ask_alone(form, functools.partial(stock, keys), given, options, made)
        if found := _asked.get(form, ("", 0))[0]:
            count(full, found)
        return made

    return call


ASKED = 4  # calls of one form that are asked: equal bits of one may be luck
_asked: dict[object, tuple[str, int]] = {}  # form of a call -> what was found, and how many were asked, for the process


def _form(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> object | None:
    """What calls that are asked together have in common; None where nothing can be asked now."""
    import torch

    if torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return None
    return name, torch.get_num_threads(), tuple(options), row_alone.form_of((*arguments, *options.values()))


def _open(form: object) -> bool:
    """Whether more calls of that form are to be asked."""
    known, times = _asked.get(form, ("", 0))
    return times < ASKED and known != row_alone.UNLIKE


def _ask_alone(
    form: object, run: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any], made: Any
) -> None:
    """Whether stock gives a row here the bits that it has alone: then the batch does not reach it, though it is not ours."""
    known, times = _asked.get(form, ("", 0))
    with uncounted():  # what it is made of runs as it does in the call itself: ours, where there is one
        known = row_alone.asked(run, arguments, options, made) or known
    _asked[form] = known, times + 1


def _writing(function: Callable[..., Any], into: tuple[str, ...]) -> Callable[..., Any]:
    """`into`: arguments that are written; of an op in place that is its first one."""

    def call(*arguments: Any, **options: Any) -> Any:
        import torch

        outs = [options.pop(name) for name in into if name in options] or arguments[:1]
        made = function(*arguments, **options)
        results = made if isinstance(made, tuple) else (made,)
        for out, result in zip(outs, results, strict=True):
            if not torch.can_cast(result.dtype, out.dtype):
                raise RuntimeError(f"result type {result.dtype} can't be cast to the desired output type {out.dtype}")
            (out if out.shape == result.shape else out.resize_(result.shape)).copy_(result)
        return tuple(outs) if isinstance(made, tuple) else outs[0]

    return call
