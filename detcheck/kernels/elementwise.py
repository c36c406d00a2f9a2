"""Functions of one number, element by element: exp, log, sin, tanh, erf, powers, reciprocal roots, and activations made of them.

They add nothing up, and yet stock is not invariant on a CPU: what is left of its vectors, and what lies apart in memory, goes through other
programs, whose bits differ for some functions, dtypes and processors. Ours has one program for every element (`_cpu/elementwise.cpp`).
On a GPU every element is computed by the same instructions, and stock stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from detcheck.kernels._cpu import build
from detcheck.kernels._shared import gradients
from detcheck.kernels._shared.rowwise import make_rows
from detcheck.kernels._shared.unreadable import ADDS_NOTHING
from detcheck.op import NAMES, Op, dtype_code

if TYPE_CHECKING:
    import torch

    Number = int | float | complex

# In the order of _cpu/elementwise.cpp's What.
UNARY = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "asinh",
    "acosh", "atanh", "erf", "erfc", "rsqrt",
    "sqrt",
)  # fmt: skip
OTHERS = ("elu", "mish", "log_sigmoid", "pow")
FLOAT64 = len(NAMES)  # its number there


def each(
    name: str,
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    numbers: tuple[float, float, float] = (0, 0, 0),
    *,
    torch_row: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """The function of each element of x[...], laid out as torch lays it out. Raises ValueError for dtypes and devices that it cannot take.

    `torch_row` computes one row with torch, for a CPU without a compiler: the same shape every time, so the same program.
    """
    import torch

    plain = x.dtype == torch.float64 and (y is None or y.dtype == x.dtype) and x.is_cpu
    code = FLOAT64 if plain else dtype_code(name, x, y)
    if x.is_cuda:
        raise ValueError(
            f"{name} has no kernel of ours on cuda, where stock computes every element alike; it has on cpu"
        )
    laid_out = out = torch.empty_like(x if y is None or 0 not in x.stride() else y)
    if any(t is not None and t.stride() != out.stride() for t in (x, y)):
        x, y = x.contiguous(), None if y is None else y.contiguous()
        out = torch.empty(x.shape, dtype=x.dtype)
    if build.available():
        pointers = out.data_ptr(), x.data_ptr(), None if y is None else y.data_ptr()
        run = build.function("elementwise", "iipppidddi")
        run((*UNARY, *OTHERS).index(name), code, *pointers, x.numel(), *numbers, torch.get_num_threads())
    elif x.numel():
        width = x.shape[-1] if x.ndim else 1
        rows = [t.reshape(-1, width) for t in (x, y) if t is not None]
        made = [torch_row(*(t[i][None].clone() for t in rows)) for i in range(len(rows[0]))]
        out.copy_(torch.cat(made).view(x.shape))
    return out if laid_out is out else laid_out.copy_(out)


def unary(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def call(x: torch.Tensor) -> torch.Tensor:
        import torch

        floats = x if x.is_floating_point() or x.is_complex() else x.to(torch.get_default_dtype())
        return each(name, floats, torch_row=getattr(torch, name))

    return call


def power(x: torch.Tensor | Number, exponent: torch.Tensor | Number) -> torch.Tensor:
    """Where torch multiplies, divides or takes a root, so do we, each step rounded as IEEE 754 says (a root by ours: torch's, of MKL, is not on every processor)."""
    import torch

    def root() -> torch.Tensor:
        return each("sqrt", x, torch_row=torch.sqrt)

    dtype = torch.result_type(x, exponent)
    if isinstance(exponent, torch.Tensor):
        pair = [t if isinstance(t, torch.Tensor) else exponent.new_tensor(t, dtype=dtype) for t in (x, exponent)]
        base, by = torch.broadcast_tensors(*(t.to(dtype) for t in pair))
        return each("pow", base, by, torch_row=torch.pow)
    x = x.to(dtype)
    simple = {2: lambda: x * x, 3: lambda: x * x * x, 1: x.clone, 0.5: root, -1: x.reciprocal}
    simple |= {-2: lambda: (x * x).reciprocal(), -0.5: lambda: each("rsqrt", x, torch_row=torch.rsqrt)}
    if exponent in simple:
        return simple[exponent]()
    if isinstance(exponent, complex) or x.is_complex():
        dtype_code("pow", x.to(torch.complex64))  # says that there is none
    return each("pow", x, numbers=(exponent, 0, 0), torch_row=lambda row: row.pow(exponent))


def elu(x: torch.Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> torch.Tensor:
    import torch

    numbers = alpha, scale, input_scale
    return each("elu", x, numbers=numbers, torch_row=lambda row: torch.ops.aten.elu(row, *numbers))


def mish(x: torch.Tensor) -> torch.Tensor:
    import torch

    return each("mish", x, torch_row=torch.nn.functional.mish)


def log_sigmoid(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """And exp(-|x|), which the backward pass is given."""
    import torch

    buffer = each("exp", -x.abs(), torch_row=torch.exp)
    return each("log_sigmoid", x, torch_row=torch.nn.functional.logsigmoid), buffer


tanh = unary("tanh")  # stands for all


def stock(x: torch.Tensor) -> torch.Tensor:
    return x.tanh()


def reference(x: torch.Tensor) -> torch.Tensor:
    return stock(x.double())


ATEN: dict[str, Callable[..., object]] = {name: unary(name) for name in UNARY} | {
    "pow.Tensor_Scalar": power,
    "pow.Tensor_Tensor": power,
    "pow.Scalar": power,
    "elu": elu,
    "mish": mish,
    "log_sigmoid_forward": log_sigmoid,
    "tanh_backward": gradients.elementwise("tanh"),
}
OP = Op("elementwise", ("67", "1024"), make_rows, stock, reference, tanh, order=ADDS_NOTHING, aten=ATEN)
