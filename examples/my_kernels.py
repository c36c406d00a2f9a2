"""Two ops of a user, checked from the command line in this folder:

    detcheck kernels --op my_kernels:norm          # exit code 0
    detcheck kernels --op my_kernels:split_sum     # exit code 1, and why
    detcheck order --op my_kernels:sums --form sum --shape 256    # exit code 1: it adds in another order in each batch

An op takes the tensors that `make_inputs` returns; row i of its output belongs to row i of the batched ones.
"""

import torch

BATCHED = (0,)  # which arguments have a row per request; the weight has none


def make_inputs(rows, dtype, seed):
    """x[rows, 256] and a weight [256]; row i is the same for every number of rows."""
    x = [torch.randn(256, generator=torch.Generator().manual_seed(seed + row)) for row in range(rows)]
    weight = torch.randn(256, generator=torch.Generator().manual_seed(seed - 1))
    return torch.stack(x).to(dtype), weight.to(dtype)


def reference(x, weight):
    """What is right, in float64. Optional: without it only bits are compared."""
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight


def norm(x, weight):
    """RMSNorm, one row at a time: how many there are cannot matter."""
    return torch.stack([row * torch.rsqrt((row * row).mean() + 1e-6) * weight for row in x])


def split_sum(x, weight):
    """RMSNorm whose sum of squares is cut into as many parts as there are rows: the classic mistake."""
    squares = sum(part.sum(-1, keepdim=True) for part in (x * x).tensor_split(min(len(x), 8), dim=1))
    return x * torch.rsqrt(squares / x.shape[1] + 1e-6) * weight


def sums(x):
    """The sum of each row, in as many parts as there are rows. `order --form sum` shows in which order it adds."""
    return sum(part.sum(-1) for part in x.tensor_split(min(len(x), 8), dim=1))
