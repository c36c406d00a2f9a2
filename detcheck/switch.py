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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detcheck.checks import NotInvariantError
from detcheck.kernels import attention, gelu_mul, log_softmax, matmul, mean, silu_mul, softmax
from detcheck.kernels._cpu import build
from detcheck.kernels._triton import launch

if TYPE_CHECKING:
    import torch

# Ops that reduce or multiply and are not ours: let through, counted, named in the report.
UNCOVERED = (
    "convolution", "dot", "sum.dim_IntList", "prod.dim_int", "var.correction", "std.correction", "var_mean.correction",
    "logsumexp", "cumsum", "native_layer_norm", "native_group_norm", "native_batch_norm", "linalg_vector_norm", "mean",
    "_embedding_bag", "_fused_rms_norm",
)  # fmt: skip


@dataclass
class Coverage:
    """What ran inside a `batch_invariant` block."""

    kernels: str
    """which implementation: compiled, or out of torch's own"""
    overridden: Counter[str] = field(default_factory=Counter)
    """aten op, or transformers' attention -> calls that ran batch-invariant kernels"""
    uncovered: Counter[str] = field(default_factory=Counter)
    """matmul- or reduction-like aten op -> calls that ran as stock"""


# Kinds that can be replaced by themselves -> the aten overloads of each.
KINDS = {
    "matmul": ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv"),
    "softmax": ("_softmax",),
    "log_softmax": ("_log_softmax",),
    "mean": ("mean",),
    "silu": ("silu",),
    "gelu": ("gelu",),
}
ATTENTION = "attention"
# What transformers hands to attention that would change its result.
ADDED_TO_SCORES = ("s_aux", "position_bias", "head_mask")
GROUPED = ("_grouped_mm", "grouped_mm_fallback")  # products made of products

_active: list[Coverage] = []
_silent = 0  # how many `uncounted` blocks we are in


@contextlib.contextmanager
def batch_invariant(only: frozenset[str] | None = None) -> Iterator[Coverage]:
    """Batch-invariant kernels inside the block; the stock ones again behind it, whatever happens. Nests.

    Inside, an op that has no batch-invariant form for its arguments (dtype, device, mask) raises NotInvariantError.
    `only`: kinds to replace (`replaceable` names them); None: all. What an outer block replaces stays replaced.
    """
    coverage = Coverage(description())
    _active.append(coverage)
    try:
        with contextlib.ExitStack() as undo:
            if len(_active) == 1:
                _register(undo, only)
            yield coverage
    finally:
        _active.remove(coverage)


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """What runs inside is not the subject's own: our kernels' inner ops, the measure of an engine."""
    global _silent
    _silent += 1
    try:
        yield
    finally:
        _silent -= 1


def description() -> str:
    """Which implementations there are here."""
    import torch

    own = build.description()
    return f"{own}; on the GPU {launch.description()}" if torch.cuda.is_available() and launch.available() else own


def _count(name: str, kind: str = "overridden") -> None:
    if not _silent:
        for coverage in _active:
            getattr(coverage, kind)[name] += 1


def replaceable(op: str) -> str | None:
    """The kind by whose replacement an op becomes ours; None: there is no kernel of ours for it."""
    name = op.split("::")[-1].split(".")[0]
    if "attention" in name:
        return ATTENTION
    if name in GROUPED:
        return "matmul"
    return next((kind for kind, names in KINDS.items() if name in names), None)


def _register(undo: contextlib.ExitStack, only: frozenset[str] | None = None) -> None:
    """Puts everything in place, and what takes it away again onto the stack."""
    import torch

    library = torch.library.Library("aten", "IMPL")
    undo.callback(library._destroy)
    # Ours take the place of somebody else's kernels too. Since torch 2.13 that is what happens unasked.
    anybodys = {"allow_override": True} if "allow_override" in inspect.signature(library.impl).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a kernel is overridden: that is what this is for
        for key in ("CPU", "CUDA") if torch.cuda.is_available() else ("CPU",):
            for name, function in (_overrides() | (SDPA_CPU if key == "CPU" else SDPA_GPU)).items():
                if only is None or replaceable(name) in only:
                    library.impl(name, _counted(name, function), key, **anybodys)
            for name in UNCOVERED:
                try:
                    stock = torch.library.get_kernel(f"aten::{name}", key)
                except RuntimeError:
                    continue  # composite here: its parts are leaf ops, and those are seen
                library.impl(name, _let_through(name, stock), key, with_keyset=True, **anybodys)
    if only is None or ATTENTION in only:
        with contextlib.suppress(ImportError):
            _register_transformers(undo)


def _counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        _count(f"aten::{name}")
        with uncounted():
            return function(*arguments, **options)

    return call


def _let_through(name: str, stock: Any) -> Callable[..., Any]:
    def call(keys: Any, *arguments: Any, **options: Any) -> Any:
        if arguments[0].is_floating_point():  # a sum of integers is exact in any order
            _count(f"aten::{name}", "uncovered")
        return stock.call_boxed(keys, *arguments, **options)

    return call


def _overrides() -> dict[str, Callable[..., Any]]:
    """aten overload -> what runs in its place. `.out` overloads write what the plain ones give."""
    plain = {
        "mm": matmul.mm,
        "addmm": _addmm,
        "bmm": matmul.bmm,
        "baddbmm": lambda c, a, b, *, beta=1, alpha=1: _added(c, matmul.bmm(a, b), beta, alpha),
        "mv": _mv,
        "addmv": lambda c, a, x, *, beta=1, alpha=1: _added(c, _mv(a, x), beta, alpha),
        "_softmax": lambda x, dim, half_to_float: _along(softmax.softmax, x, dim, half_to_float),
        "_log_softmax": lambda x, dim, half_to_float: _along(log_softmax.log_softmax, x, dim, half_to_float),
        "mean.dim": _mean,
        "silu": silu_mul.silu,
        "gelu": lambda x, *, approximate="none": gelu_mul.gelu(x, approximate),
    }
    outs = {f"{name.split('.')[0]}.out": _writing(function) for name, function in plain.items()}
    return plain | outs


def _writing(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def call(*arguments: Any, out: torch.Tensor, **options: Any) -> torch.Tensor:
        made = function(*arguments, **options)
        return out.resize_(made.shape).copy_(made)

    return call


def _added(c: torch.Tensor, product: torch.Tensor, beta: float, alpha: float) -> torch.Tensor:
    """beta * c + alpha * product, element by element: rounded once more than a fused bias, the same way in every batch."""
    scaled = product if alpha == 1 else product * alpha
    if beta == 0:  # whatever c holds, NaN too, is not read
        return scaled
    return scaled + (c if beta == 1 else c * beta)


def _addmm(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    if c.ndim == 1 and len(c) == b.shape[1] and beta == alpha == 1:
        return matmul.linear(a, b.t(), c)  # a bias is added before the one rounding
    return _added(c, matmul.mm(a, b), beta, alpha)


def _mv(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return matmul.linear(a, x[None])[:, 0]


def _along(op: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    """A row op along any dimension."""
    moved = x.float() if half_to_float else x
    if x.ndim == 0:
        return op(moved.view(1)).view(())
    return op(moved.movedim(dim, -1)).movedim(-1, dim).contiguous()


def _mean(
    x: torch.Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    x = x if dtype is None else x.to(dtype)
    dims = sorted(d % x.ndim for d in dim) if dim else list(range(x.ndim))
    rest = [d for d in range(x.ndim) if d not in dims]
    flat = x.permute(*rest, *dims).reshape(*(x.shape[d] for d in rest), -1)
    result = mean.mean(flat)[..., 0]
    return result.view([1 if d in dims else x.shape[d] for d in range(x.ndim)]) if keepdim else result


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """F.scaled_dot_product_attention's leaf on the CPU: (output, log-sum-exp), the second for a backward pass."""
    import torch

    _refuse_dropout(dropout_p)
    low, high = _seen(query, key, attn_mask, is_causal, from_first=True)
    out = attention.attention(query, key, value, low, high, scale)
    return out, query.new_full(query.shape[:3], float("nan"), dtype=torch.float32)  # read by the stock backward alone


def _sdpa_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _out: torch.Tensor,
    _logsumexp: torch.Tensor,
    _dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, ...]:
    low, high = _seen(query, key, attn_mask, is_causal, from_first=True)
    return attention.gradients(grad, query, key, value, low, high, scale)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """F.scaled_dot_product_attention's leaf on a GPU where there is no mask."""
    out, log_sum = _sdpa(query, key, value, dropout_p, is_causal, scale=scale)
    none = query.new_empty(0)
    seed = query.new_zeros(2).long()
    return out, log_sum, none, none, query.shape[2], key.shape[2], seed, seed[:1], none


def _efficient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_bias: torch.Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor, ...]:
    """F.scaled_dot_product_attention's leaf on a GPU where there is a mask, or a dtype that flash attention does not take."""
    out, log_sum = _sdpa(query, key, value, dropout_p, is_causal, attn_mask=attn_bias, scale=scale)
    seed = query.new_zeros(1).long()
    return out, log_sum, seed, seed


def _cudnn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_bias: torch.Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """cuDNN's, which newer devices take."""
    out, log_sum = _sdpa(query, key, value, dropout_p, is_causal, attn_mask=attn_bias, scale=scale)
    none = query.new_empty(0)
    seed = query.new_zeros(1).long()
    return out, log_sum, none, none, query.shape[2], key.shape[2], seed, seed, none


def _no_backward(*_: Any, **__: Any) -> Any:
    raise NotInvariantError(
        "the backward pass of scaled_dot_product_attention has no batch-invariant kernel on cuda; it has one through transformers, and on cpu"
    )


def _refuse_dropout(dropout: float) -> None:
    if dropout:
        raise NotInvariantError(
            "attention with dropout has no batch-invariant kernel; call model.eval(), or set its dropout to 0"
        )


def _refuse_attention(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotInvariantError(
            f"attention {name} has no batch-invariant kernel; load the model with --attn sdpa (attn_implementation='sdpa')"
        )

    return refuse


def _seen(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    window: int | None = None,
    from_first: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`from_first`: torch's own causal mask, where the first query sees the first key; else the last one sees every key."""
    import torch

    batch, _, length, _ = query.shape
    keys = key.shape[2]
    if mask is not None:
        return attention.seen(mask, batch, length, keys)
    if is_causal and from_first:
        high = torch.arange(1, length + 1, dtype=torch.int32, device=query.device).clamp(max=keys).expand(batch, length)
        return torch.zeros_like(high), high
    if is_causal:
        return attention.causal(batch, length, keys, window, query.device)
    low = torch.zeros(batch, length, dtype=torch.int32, device=query.device)
    return low, torch.full_like(low, keys)


SDPA_CPU: dict[str, Callable[..., Any]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _sdpa,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _sdpa_backward,
}
SDPA_GPU: dict[str, Callable[..., Any]] = {
    "_scaled_dot_product_flash_attention": _flash,
    "_scaled_dot_product_efficient_attention": _efficient,
    "_scaled_dot_product_cudnn_attention": _cudnn,
    "_scaled_dot_product_flash_attention_backward": _no_backward,
    "_scaled_dot_product_efficient_attention_backward": _no_backward,
    "_scaled_dot_product_cudnn_attention_backward": _no_backward,
}


def _register_transformers(undo: contextlib.ExitStack) -> None:
    """Attention of Hugging Face models: ours for those loaded with an implementation that ours is the like of, words for the others."""
    from transformers import modeling_utils

    known = modeling_utils.ALL_ATTENTION_FUNCTIONS
    table = known._local_mapping
    ours = {"sdpa": transformers_attention, "eager": transformers_attention}
    for name in dict.fromkeys([*ours, *known.valid_keys()]):
        before = table.get(name)
        table[name] = ours.get(name) or _refuse_attention(name)
        undo.callback(table.pop, name) if before is None else undo.callback(table.__setitem__, name, before)


def transformers_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: q[B, H, L, D] -> [B, L, H, D]. Without a mask it is causal, as there."""
    _refuse_dropout(dropout)
    if added := [name for name in ADDED_TO_SCORES if others.get(name) is not None]:
        raise NotInvariantError(
            f"attention with {' and '.join(added)}, which {type(module).__name__} asks for, has no batch-invariant kernel"
        )
    _count("transformers::attention")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    with uncounted():
        low, high = _seen(query, key, attention_mask, causal, sliding_window)
        out = attention.differentiable(query, key, value, low, high, scaling, softcap or 0.0)
    return out.transpose(1, 2).contiguous(), None
