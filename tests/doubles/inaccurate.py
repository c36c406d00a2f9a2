"""Ops with a fault that no rounding explains, each beside its sound form.

All are batch-invariant (a row at a time) and of length 4096. The faults: one element of 4096 is left out, sums are kept in
bfloat16, a scale is off by a hundredth, a mask is not there.
"""

import torch

LENGTH = 4096


def normal(rows, *shape, dtype, seed):
    made = [torch.randn(shape, generator=torch.Generator().manual_seed(seed + row)) for row in range(rows)]
    return torch.stack(made).to(dtype)


def total(terms):
    return terms.sum(-1)


def without_tail(terms):
    return terms[..., :-1].sum(-1)


def in_bfloat16(terms):
    """32 lanes, then a tree."""
    lanes = terms.bfloat16().unflatten(-1, (-1, 32))
    sums = torch.zeros_like(lanes[..., 0, :])
    for part in lanes.unbind(-2):
        sums = sums + part
    while sums.shape[-1] > 1:
        sums = sums[..., ::2] + sums[..., 1::2]
    return sums[..., 0].to(terms.dtype)


def by_rows(op):
    """The op of float32, or of float64, on one row at a time, rounded once at the end."""

    def each(*arguments):
        wide = [a if a.dtype == torch.float64 else a.float() for a in arguments]
        rows = [op(*(a[i : i + 1] for a in wide)) for i in range(len(wide[0]))]
        return torch.cat(rows).to(arguments[0].dtype)

    return each


def matmul(add=total, scale=1.0):
    weight = torch.randn(16, LENGTH, generator=torch.Generator().manual_seed(9), dtype=torch.float64) / LENGTH**0.5
    return by_rows(lambda x: scale * add(x[:, None] * weight.to(x.dtype)))


def mean(add=total, scale=1.0):
    return by_rows(lambda x: scale * add(x)[:, None] / LENGTH)


def rmsnorm(add=total, scale=1.0):
    return by_rows(lambda x: scale * x * (add(x * x)[:, None] / LENGTH + 1e-6).rsqrt())


def softmax(add=total, scale=1.0):
    def op(x):
        raised = (scale * (x - x.amax(1, keepdim=True))).exp()
        return raised / add(raised)[:, None]

    return by_rows(op)


def attention(add=total, scale=1.0, mask=True):
    """q[B, 4, 32], k and v[B, 4096, 32]: the last query sees every key, the one before it one fewer, and so on."""

    def op(q, k, v):
        scores = scale * 32**-0.5 * (q @ k.mT)
        if mask:
            hidden = torch.arange(LENGTH) > LENGTH - 4 + torch.arange(4)[:, None]
            scores = scores.masked_fill(hidden, float("-inf"))
        raised = (scores - scores.amax(-1, keepdim=True)).exp()
        values = raised @ v if add is total else add(raised[..., None, :] * v.mT[:, None])
        return values / add(raised)[..., None]

    return by_rows(op)


OPS = {op.__name__: op for op in (matmul, mean, rmsnorm, softmax, attention)}
MAKE = {name: lambda rows, dtype, seed: (normal(rows, LENGTH, dtype=dtype, seed=seed),) for name in OPS}
MAKE["attention"] = lambda rows, dtype, seed: (
    normal(rows, 4, 32, dtype=dtype, seed=seed),
    normal(rows, LENGTH, 32, dtype=dtype, seed=seed + 1000),
    normal(rows, LENGTH, 32, dtype=dtype, seed=seed + 2000),
)
FAULTS = {
    (name, fault): op(**how)
    for name, op in OPS.items()
    for fault, how in {
        "sound": {},
        "tail left out": {"add": without_tail},
        "bfloat16 sums": {"add": in_bfloat16},
        "scale": {"scale": 1.01},
    }.items()
} | {("attention", "no mask"): attention(mask=False)}
