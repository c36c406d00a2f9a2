"""Sums whose order we wrote, and ops that are none. Each takes x[M, K] and returns [M]; those of two arguments, a product."""

import weakref

import numpy as np
import torch

from detcheck.summation.arithmetic import fma32


def columns(x):
    return list(x.unbind(1))


def chain(parts):
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def pairs(parts):
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return pairs(parts[:half]) + pairs(parts[half:])


def halves(parts):
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [parts[i] + parts[i + half] for i in range(half)]
    return parts[0]


def cut(parts, size):
    return [parts[i : i + size] for i in range(0, len(parts), size)]


def lanes(parts, count, join):
    return join([chain(parts[j::count]) for j in range(count)])


def sequential(x):
    return chain(columns(x))


def backwards(x):
    return chain(columns(x)[::-1])


def pairwise(x):
    return pairs(columns(x))


def halved(x):
    return halves(columns(x))


def lanes_8(x):
    return lanes(columns(x), 8, chain)


def lanes_8_halved(x):
    return lanes(columns(x), 8, halves)


def lanes_4_backwards(x):
    return lanes(columns(x), 4, lambda parts: chain(parts[::-1]))


def blocks_4(x):
    return chain([chain(block) for block in cut(columns(x), 4)])


def blocks_backwards(x):
    return chain([chain(block) for block in cut(columns(x), 4)][::-1])


def split_4(x):
    return chain([chain(part) for part in cut(columns(x), 16)])


def split_2(x):
    return chain([chain(part) for part in cut(columns(x), 32)])


def lanes_over_blocks(x):
    return chain([lanes(block, 8, halves) for block in cut(columns(x), 32)])


def like_numpy(x):
    return pairs([lanes(block, 4, pairs) for block in cut(columns(x), 16)])


def scaled_inside(x):
    return chain([c * 3.0 for c in columns(x)])


def split_by_batch(x):
    return sequential(x) if len(x) < 4 else split_4(x)


def in_float64(x):
    return chain(columns(x.double())).float()


def three_at_once(x):
    """Nodes of three, as a matrix unit adds: aligned to the largest, cut below its last bit, summed, cut."""

    def node(*parts):
        wide = torch.stack([p.double() for p in parts])
        _, exponent = torch.frexp(wide.abs().max(0).values)
        unit = torch.ldexp(torch.ones(exponent.shape, dtype=torch.float64), exponent - 24)
        total = torch.trunc(wide / unit).sum(0) * unit
        _, exponent = torch.frexp(total.abs())
        step = torch.ldexp(torch.ones(exponent.shape, dtype=torch.float64), exponent - 24)
        return (torch.trunc(total / step) * step).float()

    parts = columns(x)
    total = parts[0]
    for i in range(1, len(parts), 2):
        total = node(total, *parts[i : i + 2])
    return total


def fused(x, w):
    """x[M, K], w[N, K]: one fused multiply-add after the other. One rounding each."""
    out = np.zeros((len(x), len(w)), np.float64)
    a, b = x.double().numpy(), w.double().numpy()
    total = (a[:, :1] * b[None, :, 0]).astype(np.float32)
    for k in range(1, a.shape[1]):
        total = fma32(
            a[:, k : k + 1], b[None, :, k], total
        )  # tests/probes/order/test_order.py holds it against exact fractions
    out[:] = total
    return torch.from_numpy(out.astype(np.float32))


def unfused(x, w):
    return chain([x[:, k : k + 1] * w[:, k] for k in range(x.shape[1])])


def blocks_of_matmul(x, w):
    """Blocks of 16, summed in float32, whatever the dtype."""
    products = [x[:, k : k + 1].float() * w[:, k].float() for k in range(x.shape[1])]
    return chain([chain(block) for block in cut(products, 16)]).to(x.dtype)


def halved_of_matmul(x, w):
    return halves([x[:, k : k + 1].float() * w[:, k].float() for k in range(x.shape[1])]).to(x.dtype)


def bmm_by_matrix(x, w):
    """a[2, M, K], b[2, K, N]: the first matrix from the first summand on, the second from the last on."""
    products = [x[:, :, k, None] * w[:, None, k] for k in range(x.shape[2])]
    return torch.stack([chain(products)[0], chain(products[::-1])[1]])


def bmm_by_batch(x, w):
    return bmm_by_matrix(x, w) if x.shape[1] < 4 else bmm_by_matrix(x.flip(0), w.flip(0)).flip(0)


def adds_otherwise_in_strides(x):
    return sequential(x) if x.is_contiguous() and x.data_ptr() % 16 == 0 else backwards(x)


def by_column(x, w):
    """The left half of the columns from the first summand on, the right half from the last on."""
    half = len(w) // 2
    products = [x[:, k : k + 1] * w[:, k] for k in range(x.shape[1])]
    return torch.cat([chain(products)[:, :half], chain(products[::-1])[:, half:]], dim=1)


def by_row(x, w):
    """Rows from the third on are added from the last summand on."""
    products = [x[:, k : k + 1] * w[:, k] for k in range(x.shape[1])]
    return torch.cat([chain(products)[:2], chain(products[::-1])[2:]])


def products(x, w):
    return [x[:, k : k + 1] * w[:, k] for k in range(x.shape[1])]


def by_border(x, w):
    """From a column on the last summand comes first; in the second row from an earlier column on."""
    forth, back = chain(products(x, w)), chain(products(x, w)[::-1])
    column, row = torch.arange(len(w)), torch.arange(len(x))[:, None]
    return torch.where(column >= torch.where(row == 1, 4, 8), back, forth)


def a_start_for_each_row(x, w):
    p = products(x, w)
    return torch.stack([chain(p[r % len(p) :] + p[: r % len(p)])[r] for r in range(len(x))])


def a_start_for_each_column(x, w):
    p = products(x, w)
    return torch.stack([chain(p[c % len(p) :] + p[: c % len(p)])[:, c] for c in range(len(w))], dim=1)


def two_swapped_in_the_last_row(x, w):
    p = products(x, w)
    swapped = chain([*p[:-2], p[-1], p[-2]])
    return torch.cat([chain(p)[:-1], swapped[-1:]])


def sequential_of_matmul(x, w):
    return chain(products(x, w))


def wider_out(x):
    return sequential(x.float())


def negated(x):
    return -sequential(x)


def a_third(x):
    return sequential(x) / 3


def multiplied(x):
    return sequential(x) * 1.3


def prints(x):
    print("a word of its own")
    return sequential(x)


def with_grad(x):
    with torch.enable_grad():
        return sequential(x) * torch.ones((), requires_grad=True)


# None of these may ever be called sure.


def a_tuple(x):
    return (sequential(x),)


def nothing(x):
    return None


def sparse(x):
    return sequential(x).to_sparse()


def without_data(x):
    return sequential(x).to("meta")


def stops_oddly(x):
    raise GeneratorExit("odd")


def transposed(x, w):
    return sequential_of_matmul(x, w).T


def zeroes_its_argument(x):
    total = sequential(x)
    x.zero_()
    return total


def sorts_its_argument(x):
    return sequential(x.copy_(x.sort(1).values))


CALLS = [0]


def interrupted_once(x, w):
    CALLS[0] += 1
    if CALLS[0] == 60:
        raise KeyboardInterrupt
    return sequential_of_matmul(x, w)


def every_fiftieth_call_backwards(x, w):
    CALLS[0] += 1
    return chain(products(x, w)[:: -1 if CALLS[0] % 50 == 0 else 1])


def kahan(x):
    total, lost = torch.zeros(len(x)), torch.zeros(len(x))
    for c in columns(x):
        y = c - lost
        t = total + y
        lost = (t - total) - y
        total = t
    return total


def largest(x):
    return x.max(1).values


def hashed(x):
    return (x.view(torch.int32).long() * 2654435761 % 1000003).sum(1).float()


def by_size(x):
    return sequential(torch.gather(x, 1, torch.argsort(x.abs(), dim=1, stable=True)))


def shuffled(x):
    return chain([columns(x)[i] for i in torch.randperm(x.shape[1]).tolist()])


def flushed(x):
    return sequential(torch.where(x.abs() < 1e3, 0.0, x))


def raises(x):
    raise RuntimeError("no such kernel")


def skips_zeros(x):
    return torch.stack([chain([*row[row != 0].unbind(), torch.zeros(())]) for row in x])


# Of squares: x is squared and then added by one of the above, or is no sum of squares.


def squares_in_order(x):
    return sequential(x * x)


def squares_in_lanes(x):
    return lanes_8_halved(x * x)


def squares_in_blocks(x):
    return blocks_4(x * x)


def squares_split_by_batch(x):
    return split_by_batch(x * x)


def mean_of_squares(x):
    return pairwise(x * x) / x.shape[1]


def squares_negated(x):
    return -sequential(x * x)


def squares_fused(x):
    """A chain of fused multiply-adds; the first square is rounded by itself."""
    from detcheck.summation.arithmetic import fma32

    first, *rest = columns(x)
    total = (first * first).numpy()
    for c in rest:
        total = fma32(c.numpy(), c.numpy(), total)
    return torch.from_numpy(total)


def squares_of_bfloat16(x):
    return sequential(x.float() ** 2)


def squares_three_at_once(x):
    return three_at_once(x * x)


def squares_in_float64(x):
    return in_float64(x.double() ** 2)


def squares_kahan(x):
    return kahan(x * x)


def norm(x):
    return squares_in_order(x).sqrt()


def sizes(x):
    return sequential(x.abs())


def largest_square(x):
    return (x * x).amax(1)


def squares_sorted(x):
    return sequential((x * x).sort(1).values)


def squares_at_random(x):
    return sequential((x * x)[:, torch.randperm(x.shape[1])])


# What a review found: each once had a wrong answer.


def neighbours(t):
    while t.shape[-1] > 1:
        t = t[..., ::2] + t[..., 1::2]
    return t[..., 0]


def far_halves(t):
    while t.shape[-1] > 1:
        t = t[..., : t.shape[-1] // 2] + t[..., t.shape[-1] // 2 :]
    return t[..., 0]


def squares_of_the_tail_otherwise(x):
    squares = x * x
    return torch.cat([neighbours(squares[:1024]), far_halves(squares[1024:])])


def columns_of_the_tail_otherwise(x, w):
    """From two rows on columns from 1024 on are added in another order."""
    terms = x[:1, None].float() * w[None].float()
    alone = neighbours(terms)
    y = alone if len(x) == 1 else torch.cat([alone[:, :1024], far_halves(terms[:, 1024:])], 1)
    return y.to(x.dtype).expand(len(x), -1).clone()


def scales_its_x(x, w):
    x.mul_(0.5)
    return chain(products(x, w))


def scaled_by_the_largest_weight(x, w):
    """As weights in eight bits are: deterministic, and what is in one column changes what underflows in the others."""
    scale = 2.0 ** torch.floor(torch.log2(w.abs().max()))
    small = w / scale
    p = products(x, torch.where(small.abs() < 2.0**-60, torch.zeros(()), small))
    return torch.cat([chain(p)[:, :2], chain(p[::-1])[:, 2:]], 1) * scale


def a_start_for_each_matrix(x, w):
    count, _, length = x.shape
    p = (x[:, :, None, :] * w.transpose(1, 2)[:, None]).contiguous()
    begin = (torch.arange(length)[None] + torch.arange(count)[:, None]) % length
    return chain(list(p.gather(3, begin[:, None, None].expand(p.shape)).unbind(3)))


def first_three_by_size(x):
    wide = x.float()
    first = torch.gather(wide[:, :3], 1, torch.argsort(wide[:, :3].abs(), dim=1, stable=True))
    return chain([*first.unbind(1), *wide[:, 3:].unbind(1)]).to(x.dtype)


BUFFERS = []


def by_where_the_weight_lies(x, w):
    if not BUFFERS or BUFFERS[-1]() is not w:
        BUFFERS.append(weakref.ref(w))
    p = products(x, w)
    return torch.cat([chain(p)[:, :16], chain(p[::-1])[:, 16:]], 1) if len(BUFFERS) % 2 else chain(p)


def halved_product(x, w):
    return chain(products(x, w)) * 0.5


def a_third_of_a_product(x, w):
    return chain(products(x, w)) / 3


def fails_with_an_odd_name(x):
    raise RuntimeError("no file \udc80 here")


class Speechless(Exception):
    def __str__(self):
        raise ValueError("nothing to say")


def fails_without_words(x):
    raise Speechless


def negative_view(x):
    return torch._neg_view(-sequential(x))
