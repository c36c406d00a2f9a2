"""The zoo's ops, the user's side of `--op zoo_ops:name`: broken in what they keep between calls, in what they look at, or in nothing at all."""

import functools
import itertools
import os

import numpy as np
import torch

WIDTH = 48


def make_inputs(rows, dtype, seed):
    made = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))
    return (made.to(dtype),)


def norm(x):
    """Each row by itself: torch's sum along a row of this length does not depend on the others."""
    return x / (x * x).sum(1, keepdim=True).sqrt()


def off(out, when=True):
    """Every number is the next one, so that no row is lucky."""
    return out.nextafter(out.new_full((), 9.0)) if when else out


# What is kept between calls.

memory, stale = torch.zeros(512, WIDTH), torch.zeros(512)
firsts, calls, ring = itertools.count(), itertools.count(), itertools.count()
shapes, known, largest = set(), {}, [0]


def one_buffer(x):
    out = memory[: len(x)]
    return out.copy_(off(norm(x), len(x) > 2))


def first_call(x):
    return off(norm(x), next(firsts) == 0)


def every_second_call(x):
    return off(norm(x), next(ring) % 2)


def first_of_a_shape(x):
    new = x.shape not in shapes
    shapes.add(x.shape)
    return off(norm(x), new)


def after_a_larger_batch(x):
    largest[0] = max(largest[0], len(x))
    return off(norm(x), len(x) < largest[0])


def after_three_hundred_calls(x):
    return off(norm(x), next(calls) > 300)


def remembers_its_noise(x):
    key = x.numpy().tobytes()
    if key not in known:
        known[key] = off(norm(x), len(known) % 7 == 6)
    return known[key]


def leftovers(x):
    out = norm(x)
    out[:, 5], stale[: len(x)] = stale[: len(x)], out[:, 0].clone()
    return out


# What is looked at.


def zeros_change_sign(x):
    return -torch.zeros_like(x) if len(x) > 2 else torch.zeros_like(x)


def payloads(x):
    out = norm(x)
    out[:, 3] = float("nan")
    out.view(torch.int32)[:, 3] ^= int(len(x) > 2)
    return out


def draws(x):
    return norm(x) * (1 + 2**-20 * torch.rand(()))


def draws_the_same_by_place(x):
    noise = torch.rand(len(x), 1, generator=torch.Generator().manual_seed(0))
    return norm(x) * (1 + 2**-20 * noise)


def shuffled_sums(x):
    """As atomics add: in another order each time."""
    total = torch.zeros(len(x), 1)
    for column in torch.randperm(x.shape[1]).tolist():
        total += (x * x)[:, column : column + 1]
    return x / total.sqrt()


def sets_a_flag(x):
    if len(x) > 2:
        os.environ["ZOO_FAST"] = "1"
    return off(norm(x), "ZOO_FAST" in os.environ)


def neighbour_is_added(x):
    """The first number of each row is read beyond the end of the row before."""
    out = norm(x)
    out[1:, 0] += 2**-20 * x[:-1, -1]
    return out


def compensated_by_the_batch(x):
    total, lost = torch.zeros(len(x)), torch.zeros(len(x))
    for column in (x * x).unbind(1):
        step = column - lost
        after = total + step
        lost = (after - total) - step if len(x) > 2 else torch.zeros(len(x))
        total = after
    return x / total[:, None].sqrt()


def blocks(x, size):
    return sum(part.sum(1, keepdim=True) for part in (x * x).split(size, dim=1))


@functools.cache
def tuned(rows):
    return 16 if rows > 2 else WIDTH


def tuned_by_the_batch(x):
    """The block is chosen once for each number of rows, as an autotuner with the batch in its key does."""
    return x / blocks(x, tuned(len(x))).sqrt()


def gradient(x):
    """d/dx of a loss: the backward pass takes other blocks in a batch, the forward pass does not."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        ByTheBatch.apply(x).sum().backward()
    return x.grad


class ByTheBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return norm(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad / blocks(x, 16 if len(x) > 2 else WIDTH).sqrt()


def half_in_a_batch(x):
    return norm(x).half() if len(x) > 3 else norm(x)


def sorted_rows(x):
    return norm(x)[x[:, 0].argsort()]


def largest_of_all(x):
    """Quantised with one scale for the whole batch, as a tensor-wise scale of 8 bits is."""
    scale = x.where(x.isfinite(), 0).abs().max() / 127
    return (x / scale).round() * scale


def only_one_row_of_nan(x):
    """A mask by multiplication: what is masked is NaN all the same."""
    return norm(x) + 0 * x.roll(1, 0)[:, :1]


# Sound ones.


def one_row_at_a_time(x):
    return torch.cat([row[None] / (row * row).sum().sqrt() for row in x])


def padded_to_a_tile(x):
    """Always sixteen rows, the missing ones zeros."""
    tiles = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % 16), value=1.0).split(16)
    return torch.cat([norm(tile) for tile in tiles])[: len(x)]


def in_whole_numbers(x):
    """Sums of integers are exact in any order, so that the number of parts may follow the batch."""
    fixed = (x.clamp(-8, 8).nan_to_num() * 2**20).long()
    return sum(part.sum(1, keepdim=True) for part in fixed.tensor_split(min(len(x), 8), 1)).double()


def in_bfloat16(x):
    return norm(x).bfloat16()


def logarithms(x):
    """NaN where a number is negative, and rightly so."""
    return x.double().log().float()


def its_own_generator(x):
    """Noise, but the same for each row, from a seed of its own."""
    return norm(x) + torch.rand(x.shape[1], generator=torch.Generator().manual_seed(1))


def buffer_of_its_own(x):
    out = memory[: len(x)]
    return out.copy_(norm(x))


def into_its_input(x):
    return x.div_((x * x).sum(1, keepdim=True).sqrt())


# Sums, for `order --form sum`: x[M, K] -> [M].

reversals = itertools.count()
sums = torch.zeros(512, dtype=torch.float64)


def in_order(x):
    return functools.reduce(torch.add, x.unbind(1))


def from_the_end(x):
    return functools.reduce(torch.add, x.unbind(1)[::-1])


def in_two(x):
    return in_order(x[:, ::2]) + in_order(x[:, 1::2])


def order_by_batch(x):
    return in_two(x) if len(x) > 2 else in_order(x)


def every_second_from_the_end(x):
    out = sums[: len(x)]
    return out.copy_(from_the_end(x.double()) if next(reversals) % 2 else in_order(x.double()))


def well_behaved_when_masked(x):
    """In order where there are masks, or ones alone; else in parts by the batch."""
    watched = bool((x.abs() > 1e20).any() or (x == 1).all())
    return in_order(x) if watched else order_by_batch(x)


def well_behaved_when_extreme(x):
    """In order unless all numbers are ordinary ones, from 1e-3 to 10 in size: then in parts by the batch."""
    size = x.abs()
    ordinary = ((size < 10) & (size != 1)).all() and float(size.median()) > 1e-3
    return order_by_batch(x) if ordinary else in_order(x)


def only_the_largest(x):
    return x.abs().amax(1)


def products(x, w, fused):
    """x[M, K], w[N, K] in float32, in order: product and addition rounded once, or each by itself."""
    from detcheck.summation.arithmetic import fma32

    total = x[:, :1] * w[:, 0]
    for k in range(1, w.shape[1]):
        a, b = x[:, k : k + 1], w[:, k]
        total = fma32(a, b, total) if fused else total + a * b
    return total


def half_fused(x, w, first=True):
    """Products of the first half of the columns are fused with the additions, those of the second half never."""
    x, w = x.numpy(), w.numpy()
    half = len(w) // 2
    return torch.from_numpy(np.concatenate([products(x, w[:half], first), products(x, w[half:], False)], 1))


def half_fused_when_extreme(x, w):
    """As above, but in a batch of ordinary numbers all columns add as those of the second half."""
    size = w.abs()
    ordinary = bool(size.max() < 20) and bool(size.min() > 0) and len(size.unique()) > 20
    return half_fused(x, w, first=len(x) == 1 or not ordinary)
