"""Ops broken on purpose, and innocent ones: the user's side of `--op guilty:name`. Row sums of squares in many ways."""

import itertools

import torch


def make_inputs(rows, dtype, seed):
    made = torch.randn(rows, 300, generator=torch.Generator().manual_seed(seed))
    return (made.to(dtype),)


def reference(x):
    return x / (x * x).sum(1, keepdim=True).sqrt()


def innocent(x):
    return split(x, 1)


def split(x, parts):
    """Torch's sum along a row of this length does not depend on the other rows; the number of parts makes the order."""
    total = sum(part.sum(1, keepdim=True) for part in (x * x).tensor_split(parts, dim=1))
    return x / total.sqrt()


def split_follows_batch(x):
    return split(x, min(len(x), 8))


def split_follows_threads(x):
    return split(x, 1 + torch.get_num_threads())


def padding_leaks(x):
    """Scaled by the largest of the whole padded tile, a neighbour's included: the same number, other bits."""
    tile = x.where(x.isfinite(), 0).abs().amax() * 1.1
    return innocent(x / tile)


def nan_leaks(x):
    return innocent(x) + 0 * x.sum(0)


def one_row_of_257(x):
    out = innocent(x)
    if len(x) == 257:
        out[200, 7] = out[200, 7].nextafter(out.new_tensor(9.0))
    return out


def third_slot(x):
    out = innocent(x)
    if len(x) > 3:
        out[3] = split(x[3:4], 2)
    return out


def unaligned(x):
    return split(x, 1 + (x.data_ptr() % 16 != 0))


def room_between_rows(x):
    return x * (1.5 if x.is_contiguous() else 1.25)


def strided(x):
    return split(x, 1 + (x.stride(0) != x.shape[1]))


def zeros(x):
    return torch.zeros_like(x)


def not_finite(x):
    return torch.full_like(x, float("nan"))


def half_accumulator(x):
    return innocent(x.bfloat16()).to(x.dtype)


calls = itertools.count()


def noise(x):
    """Every fiftieth call is off in each row, so that it does not matter which call, or which row, that is."""
    return innocent(x) * (1 + 2**-22 if next(calls) % 50 == 49 else 1)


def noise_and_zeros(x):
    return -torch.zeros_like(x) if next(calls) % 50 == 49 else torch.zeros_like(x)


def raises(x):
    raise RuntimeError("no kernel image is available")


def raises_when_large(x):
    if len(x) > 8:
        raise RuntimeError("invalid configuration argument")
    return innocent(x)


def leaves(x):
    if len(x) > 8:
        raise SystemExit(0)
    return innocent(x)


def a_row_short(x):
    return x[:-1]


def two_tensors(x):
    return x, x


def nothing(x):
    return x[:, :0]


def nothing_in_a_batch(x):
    return x[:, : int(len(x) < 4) * 300]


def square(x):
    """Each row holds a number for every row of its batch."""
    return x @ x.T


def half_in_a_batch(x):
    return x.half() if len(x) > 3 else x


def whole_numbers(x):
    return x.int()


def in_place(x):
    return x.mul_(2)
