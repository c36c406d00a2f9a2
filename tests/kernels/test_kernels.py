"""One matrix that every op joins by being a file: accuracy, and a row's bits whatever surrounds it."""

import re

import pytest
import torch

from detcheck import lookup
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.op import NoKernelError, Unreadable

OPS = [op for name in lookup.names("kernels") if (op := lookup.find("kernels", name).OP).batch_invariant]
CASES = [(op, shape, dtype) for op in OPS for shape in op.shapes for dtype in ("float32", "bfloat16", "float16")]
MATRIX = pytest.mark.parametrize(("op", "shape", "dtype"), CASES, ids=lambda v: getattr(v, "name", v))
MOST = 40  # at the larger shapes every number of rows below this, and the thresholds; at the smallest all up to 300


def made(op, shape, dtype, rows, seed=0):
    return op.make(shape, rows, getattr(torch, dtype), seed)


def part(op, arguments, rows):
    """The arguments with only these rows of the batch."""
    return tuple(a[rows] if i in op.batched else a for i, a in enumerate(arguments))


@pytest.fixture(autouse=True)
def threads_as_they_were():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@MATRIX
def test_a_row_is_the_same_in_every_number_of_rows(op, shape, dtype):
    rows = 40 if op.name == "attention" else 300
    arguments = made(op, shape, dtype, rows)
    whole = op.batch_invariant(*arguments)
    every = range(1, rows) if shape == op.shapes[0] else [*range(1, MOST), 64, 127, 128, 129, 255, 256, 257, 299]
    for m in every:
        if m < rows:
            assert bits_equal(op.batch_invariant(*part(op, arguments, slice(0, m))), whole[:m]), m
    for place in (0, 1, 7, rows - 1):
        assert bits_equal(op.batch_invariant(*part(op, arguments, slice(place, place + 1)))[0], whole[place])
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(1))
    assert bits_equal(op.batch_invariant(*part(op, arguments, order)), whole[order])


@MATRIX
def test_threads_alignment_strides_and_neighbours_do_not_matter(op, shape, dtype):
    arguments = made(op, shape, dtype, 19)
    whole = op.batch_invariant(*arguments)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert bits_equal(op.batch_invariant(*arguments), whole), threads
    unaligned, strided = [], []
    for a in arguments:
        storage = torch.empty(a.numel() + 1, dtype=a.dtype)[1:].view(a.shape)
        unaligned.append(storage.copy_(a))
        wider = torch.full((*a.shape[:-1], a.shape[-1] + 3), float("nan"), dtype=a.dtype)[..., : a.shape[-1]]
        strided.append(wider.copy_(a))
    assert bits_equal(op.batch_invariant(*unaligned), whole)
    assert bits_equal(op.batch_invariant(*strided), whole)
    for bad in (float("nan"), float("inf"), -float("inf")):
        hostile = [a.clone() for a in arguments]
        for i in op.batched:
            hostile[i][torch.arange(19) != 5] = bad
        assert bits_equal(op.batch_invariant(*hostile)[5], whole[5]), bad


@MATRIX
def test_the_output_has_the_inputs_dtype(op, shape, dtype):
    assert op.batch_invariant(*made(op, shape, dtype, 3)).dtype == getattr(torch, dtype)


@MATRIX
def test_no_rows_give_no_rows(op, shape, dtype):
    arguments = made(op, shape, dtype, 0)
    assert op.batch_invariant(*arguments).shape == op.stock(*arguments).shape


@MATRIX
def test_inputs_are_left_as_they_were(op, shape, dtype):
    arguments = made(op, shape, dtype, 3)
    before = [a.clone() for a in arguments]
    op.batch_invariant(*arguments)
    assert all(bits_equal(a, b) for a, b in zip(arguments, before, strict=True))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_what_it_cannot_take_is_refused_in_words(op):
    arguments = made(op, op.shapes[0], "float32", 2)
    doubles = [a.double() for a in arguments]
    if op.name in ("matmul", "sum", "mean", "elementwise"):
        torch.testing.assert_close(op.batch_invariant(*doubles), op.reference(*doubles), rtol=1e-13, atol=1e-13)
    else:
        with pytest.raises(NoKernelError, match="float64"):
            op.batch_invariant(*doubles)
    with pytest.raises(ValueError, match="meta"):
        op.batch_invariant(*(a.to("meta") for a in arguments))
    if len(arguments) > 1:
        with pytest.raises(ValueError, match="one dtype"):
            op.batch_invariant(arguments[0].bfloat16(), *arguments[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 7, 16, 100, 1003])
def test_a_sum_does_not_see_zeros_behind_it_nor_how_its_numbers_lie(n, dtype):
    """As padding brings them, where a mask is multiplied and tokens are summed."""
    from detcheck.kernels.cumsum import cumsum
    from detcheck.kernels.sum import OP

    sum_of = OP.aten["sum.dim_IntList"]

    tokens = torch.randn(3, n, 5, generator=torch.Generator().manual_seed(n)).to(dtype)
    alone = sum_of(tokens, [1])
    assert bits_equal(sum_of(tokens.transpose(1, 2).contiguous(), [-1]), alone)
    for more in (1, 5, 9, 40):
        zeros = torch.zeros(3, more, 5, dtype=dtype)
        assert bits_equal(sum_of(torch.cat([tokens, zeros], 1), [1]), alone), more
        padded = cumsum(torch.cat([zeros, tokens, zeros], 1).transpose(1, 2))[..., more : more + n]
        assert bits_equal(padded, cumsum(tokens.transpose(1, 2)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("op", [op for op in OPS if isinstance(op.order, Unreadable)], ids=lambda op: op.name)
def test_why_an_order_cannot_be_read_shows_on_stock_and_on_ours(op, dtype):
    for function in (op.stock, op.batch_invariant):
        for rows in (1, 3):
            assert op.order.holds(function, made(op, op.shapes[0], dtype, rows)), rows


def test_reasons_that_do_not_hold_do_not_show():
    wrong = {
        "layer_norm": lambda x, w, b: (x - x.mean(-1, keepdim=True)) * w,
        "cumsum": lambda x: x.flip(-1).cumsum(-1),
        "conv1d": lambda x, w, b: x * 2,
        "solve_triangular": lambda a, b: b * 2,
        "sigmoid": lambda x: x.softmax(-1),
        "rotary": lambda x, cos, sin: x.softmax(-1),
    }
    for op in OPS:
        if op.name in wrong:
            assert not op.order.holds(wrong[op.name], made(op, op.shapes[0], "float32", 2)), op.name


def test_a_layer_norm_whose_order_follows_the_rows_is_caught(detcheck, tmp_path):
    """Few rows are split in two, as libraries do it: the same numbers, other bits."""
    (tmp_path / "theirs_norm.py").write_text(
        "import torch\n"
        "from detcheck.kernels.layer_norm import OP, make\n"
        "reference, BATCHED = OP.reference, OP.batched\n"
        "def make_inputs(rows, dtype, seed):\n"
        "    return make('1024', rows, dtype, seed)\n"
        "def norm(x, weight, bias):\n"
        "    split = lambda t: sum(part.cumsum(-1)[..., -1:] for part in t.tensor_split(2 if len(t) < 8 else 1, -1))\n"
        "    left = x - split(x) / x.shape[-1]\n"
        "    return left * torch.rsqrt(split(left.square()) / x.shape[-1] + 1e-5) * weight + bias\n"
    )
    result = detcheck("kernels", "--op", "theirs_norm:norm", "--batch-sizes", "1,2,7,8,16", "-q")
    assert result.code == 1 and "first in rows-8" in result.out, result.out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rmsnorm_with_a_residual(dtype):
    from detcheck.kernels.rmsnorm import add_rmsnorm, reference

    x, residual, weight = (
        torch.randn(s, generator=torch.Generator().manual_seed(n)).to(dtype)
        for n, s in enumerate([(33, 67), (33, 67), (67,)])
    )
    normed, total = add_rmsnorm(x, residual, weight)
    assert bits_equal(total, x + residual)
    torch.testing.assert_close(
        normed.double(), reference(x + residual, weight), atol=3e-2 if dtype != torch.float32 else 1e-6, rtol=1e-2
    )
    for m in (1, 2, 17, 32):
        part, _ = add_rmsnorm(x[:m], residual[:m], weight)
        assert bits_equal(part, normed[:m])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 5])
def test_halves_of_a_wider_tensor_need_no_copy_and_give_the_same_bits(dtype, rows):
    """As a gate and its product lie side by side in an MLP."""
    from detcheck.kernels.rmsnorm import rmsnorm
    from detcheck.kernels.silu_mul import silu_mul

    wide = torch.randn(rows, 2 * 67, generator=torch.Generator().manual_seed(0)).to(dtype)
    gate, up = wide[:, :67], wide[:, 67:]
    assert torch.equal(silu_mul(gate, up), silu_mul(gate.clone(), up.clone()))
    assert torch.equal(rmsnorm(up, wide[0, :67]), rmsnorm(up.clone(), wide[0, :67].clone()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 9), (66, 33), (130, 1030), (257, 2100)])
def test_a_packed_weight_gives_the_same_bits(dtype, n, k):
    """n: part of a group of 4 rows, of a tile of 64, of one of 128; k: below 8, a tail, a second block."""
    from detcheck.kernels.matmul import Packed, linear

    make = torch.Generator().manual_seed(n * k)
    x, w, bias = (torch.randn(s, generator=make).to(dtype) for s in [(300, k), (n, k), (n,)])
    spread = torch.randn(n, 2 * k, generator=make).to(dtype)[:, :k].copy_(w)  # rows apart
    whole = linear(x, w, bias)
    for rows in (1, 2, 3, 4, 5, 11, 12, 50, 97, 300):
        assert bits_equal(linear(x[:rows], Packed(w), bias), whole[:rows]), rows
        assert bits_equal(linear(x[:rows], Packed(spread), bias), whole[:rows]), rows
    assert bits_equal(linear(x, Packed(w.t().contiguous().t())), linear(x, w))
    assert bits_equal(linear(x, w[:1].expand(n, k)), linear(x, w[:1].repeat(n, 1)))
    with pytest.raises(ValueError, match=re.escape(f"got (300, {k + 1}), ({n}, {k})")):
        linear(torch.zeros(300, k + 1, dtype=dtype), Packed(w))
    with pytest.raises(ValueError, match="one dtype"):
        linear(x.double(), Packed(w))


@pytest.mark.parametrize(("m", "n", "k"), [(3, 0, 16), (0, 5, 16), (3, 5, 0), (0, 0, 0)])
def test_a_packed_weight_of_nothing(m, n, k):
    from detcheck.kernels.matmul import Packed, linear

    out = linear(torch.randn(m, k), Packed(torch.randn(n, k)))
    assert out.shape == (m, n) and not out.any()
