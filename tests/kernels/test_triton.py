"""The Triton kernels without a GPU: their order, masks and indices in Triton's interpreter, and what compilers make of them.

The interpreter adds k after k (tests/doubles/interpreted.py), so equal bits here say that the same numbers are added in the same order
of blocks. What it cannot say is what a matrix unit does inside a block: tests/gpu/test_gpu.py asks a real one.
"""

import re
from pathlib import Path

import interpreted
import pytest
import torch
from interpreted import interpreter  # noqa: F401
from test_attention import plain
from test_paged_attention import arguments, request

from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.kernels._triton import launch as _triton
from detcheck.kernels.attention import causal

pytestmark = [
    pytest.mark.skipif(not _triton.available(), reason="Triton is not installed: it does not exist for this platform"),
    pytest.mark.usefixtures("interpreter"),
]
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
DTYPES = pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=["fp32", "bf16", "fp16"])
CLOSE = {
    torch.float32: 2e-6,
    torch.bfloat16: 8e-3,
    torch.float16: 1e-3,
}  # of the largest element: roundings of the output
SPLIT = 32  # in place of 256, so that short requests have several


@pytest.fixture(scope="module")
def matmul():
    return interpreted.load("matmul")


@pytest.fixture(scope="module")
def rowwise():
    return interpreted.load("rowwise")


@pytest.fixture(scope="module")
def attention():
    return small(interpreted.load("attention"))


def small(module):
    """With short splits and small tiles, of the same proportions."""
    module.attention_tiles.SPLIT = SPLIT
    module.attention_splits.MANY = 2  # requests for which splits are compared: the interpreter is slow, and tests/kernels/test_triton_tiles.py looks at that
    module.attention_tiles.tile = lambda dim, dtype, target: _triton.Tile(
        {"BLOCK_M": 32, "BLOCK_N": 16, "BLOCK_D": max(16, dim)}, 4, 1
    )
    return module


def normal(*size, dtype=torch.float32, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(out, exact):
    return ((out.double() - exact).abs().max() / exact.abs().max()).item()


def unaligned(t):
    return torch.empty(t.numel() + 1, dtype=t.dtype)[1:].view(t.shape).copy_(t)


def apart(t):
    """The same rows in a wider tensor of NaN."""
    wide = torch.full((*t.shape[:-1], t.shape[-1] + 3), torch.nan, dtype=t.dtype)[..., : t.shape[-1]]
    return wide.copy_(t)


@DTYPES
@pytest.mark.parametrize(("n", "k"), [(67, 100), (64, 256)], ids=["ragged", "whole"])
def test_matmul_rows_have_their_own_bits(matmul, n, k, dtype):
    """In every tile and place of it, among NaN, out of any memory."""
    x, w, bias = normal(150, k, dtype=dtype), normal(n, k, dtype=dtype, seed=1), normal(n, dtype=dtype, seed=2)
    whole = matmul.matmul(x, w, bias)
    assert error(whole, x.double() @ w.double().t() + bias.double()) <= CLOSE[dtype]
    for m in (1, 2, 63, 64, 65, 129):
        assert bits_equal(matmul.matmul(x[:m], w, bias), whole[:m]), m
    for place in (7, 64, 149):
        assert bits_equal(matmul.matmul(x[place : place + 1], w, bias)[0], whole[place]), place
    among = x.clone()
    among[torch.arange(150) != 70] = torch.nan
    assert bits_equal(matmul.matmul(among, w, bias)[70], whole[70])
    for feed in (unaligned, apart):
        assert bits_equal(matmul.matmul(feed(x), feed(w), feed(bias)), whole)
    assert bits_equal(matmul.matmul(x, w.t().contiguous().t(), bias), whole)
    plainly = matmul.matmul(x, w, None)
    assert error(plainly, x.double() @ w.double().t()) <= CLOSE[dtype]


def test_matmul_whichever_program_computes_a_tile(matmul, monkeypatch):
    n = 130
    x, w = normal(300, 40), normal(n, 40, seed=1)
    whole = matmul.matmul(x, w, None)
    for programs in (1, 2, 1000):
        monkeypatch.setattr(matmul, "processors", lambda programs=programs: programs)
        assert bits_equal(matmul.matmul(x, w, None), whole), programs
    assert matmul.matmul(x[:0], w, None).shape == (0, n)
    assert matmul.matmul(x[:, :0], w[:, :0], w[:, 0].contiguous()).eq(w[:, 0]).all()


class Watched:
    """A kernel that writes down whether it was launched with descriptors."""

    def __init__(self, kernel):
        self.kernel, self.seen = kernel, []

    def __getitem__(self, grid):
        def launch(*args, **constants):
            self.seen.append(constants["DESCRIPTORS"])
            return self.kernel[grid](*args, **constants)

        return launch


@pytest.mark.parametrize("dtype", [BF16, F16], ids=["bf16", "fp16"])
def test_descriptors_add_what_pointers_add(matmul, dtype, monkeypatch):
    """M, N and K all ragged. And the weight alone says which of the two it is: never the rows, or how they lie."""
    n, k = 67, 264
    x, w, bias = normal(130, k, dtype=dtype), normal(n, k, dtype=dtype, seed=1), normal(n, dtype=dtype, seed=2)
    watched = Watched(matmul.matmul_kernel)
    monkeypatch.setattr(matmul, "matmul_kernel", watched)
    whole = matmul.matmul(x, w, bias)
    for m in (1, 2, 64, 65):
        assert bits_equal(matmul.matmul(x[:m], w, bias), whole[:m]), m
    for feed in (unaligned, apart):
        assert bits_equal(matmul.matmul(feed(x), feed(w), bias), whole)
        assert bits_equal(matmul.matmul(feed(x[:1]), feed(w[:1]), bias[:1]), whole[:1, :1]), "strides of a single row"
    assert bits_equal(matmul.matmul(x.t().contiguous().t(), w, bias), whole)
    expanded = x[5].expand(3, k)
    assert bits_equal(matmul.matmul(expanded, w, bias), whole[5].expand(3, n))
    assert matmul.fit_tiles(expanded, 8).stride() == (k, 1), "hardware, unlike the interpreter, may want rows apart"
    among = x.clone()
    among[torch.arange(130) != 70] = torch.nan
    assert bits_equal(matmul.matmul(among, w, bias)[70], whole[70])
    assert all(watched.seen) and len(watched.seen) >= 12
    watched.seen.clear()
    turned = w.t().contiguous().t()
    for m in (1, 130):
        assert bits_equal(matmul.matmul(x[:m], turned, bias), whole[:m]), m
    for target, length in (("sm_80", k), ("sm_120", k), ("gfx942", k), ("sm_90", k - 4)):
        assert not matmul.descriptors(length, _triton.type_of(x), target), (target, length)
    monkeypatch.setattr(matmul, "descriptors", lambda *_: False)
    assert bits_equal(matmul.matmul(x, w, bias), whole)
    assert watched.seen == [False] * 3


def test_the_users_allocator_stays(matmul):
    """Triton keeps one a context; a launch with descriptors needs its own."""
    from triton.runtime import _allocation

    before = _allocation._allocator.get()
    matmul.matmul(normal(2, 16, dtype=BF16), normal(3, 16, dtype=BF16), None)
    assert _allocation._allocator.get() is before


@DTYPES
def test_bmm(matmul, dtype):
    a, b = normal(3, 70, 50, dtype=dtype), normal(3, 50, 40, dtype=dtype, seed=1)
    whole = matmul.bmm(a, b)
    assert error(whole, a.double() @ b.double()) <= CLOSE[dtype]
    for m in (1, 5, 64, 65):
        assert bits_equal(matmul.bmm(a[:, :m], b), whole[:, :m]), m
    assert bits_equal(matmul.bmm(a[1:2], b[1:2]), whole[1:2])
    for feed in (unaligned, apart):
        assert bits_equal(matmul.bmm(feed(a), feed(b)), whole)
    longer = torch.cat([a, torch.zeros(3, 70, 9, dtype=dtype)], 2), torch.cat([b, normal(3, 9, 40, dtype=dtype)], 1)
    assert bits_equal(matmul.bmm(*longer), whole), "zeros past a row's own length, as a longer neighbour brings them"


def reference(op, x, second):
    x, second = x.double(), None if second is None else second.double()
    gate = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda t: torch.nn.functional.gelu(t, approximate="tanh"),
    }
    if op == "rmsnorm":
        return torch.nn.functional.rms_norm(x, x.shape[-1:], second[0], 1e-6)
    if op in gate:
        return gate[op](x)
    if op.endswith("_mul"):
        return gate[op[:-4]](x) * second
    over_rows = {"softmax": x.softmax(-1), "log_softmax": x.log_softmax(-1)}
    over_rows |= {"logsumexp": x.logsumexp(-1, keepdim=True)}
    return {**over_rows, "mean": x.mean(-1, keepdim=True), "sum": x.sum(-1, keepdim=True)}[op]


@DTYPES
@pytest.mark.parametrize("n", [67, 5000])
@pytest.mark.parametrize(
    "op",
    [
        "rmsnorm",
        "softmax",
        "log_softmax",
        "logsumexp",
        "mean",
        "sum",
        "silu",
        "gelu",
        "gelu_tanh",
        "silu_mul",
        "gelu_mul",
        "gelu_tanh_mul",
    ],
)
def test_row_ops(rowwise, op, n, dtype):
    """n: a tail; more than one step, of softmaxes and of gates."""
    x = normal(9, n, dtype=dtype)
    second = (
        normal(1, n, dtype=dtype) if op == "rmsnorm" else normal(9, n, dtype=dtype, seed=3) if "_mul" in op else None
    )

    def run(rows, feed=lambda t: t):
        operand = second if second is None or len(second) == 1 else second[rows]
        return rowwise.rowwise(
            op,
            feed(x[rows]),
            None if operand is None else feed(operand),
            1e-6,
            1 if op in ("mean", "sum", "logsumexp") else n,
        )

    whole = run(slice(None))
    assert error(whole, reference(op, x, second)) <= 2 * CLOSE[dtype]
    for rows in (slice(0, 1), slice(4, 5), slice(2, 9)):
        assert bits_equal(run(rows), whole[rows])
    for feed in (unaligned, apart):
        assert bits_equal(run(slice(None), feed), whole)
    x[torch.arange(9) != 5] = torch.nan
    assert bits_equal(run(slice(None))[5], whole[5])
    assert run(slice(0)).shape == (0, whole.shape[1])


@DTYPES
@pytest.mark.parametrize(("groups", "channels", "span"), [(1, 67, 1), (1, 5000, 1), (3, 12, 17)])
def test_norms(groups, channels, span, dtype):
    """A layer norm with a tail, and of two steps; a group norm, whose rows have unlike weights."""
    norm = interpreted.load("norm").norm
    x, weight, bias = (normal(*size, dtype=dtype) for size in ((9, channels, span), (channels,), (channels,)))

    def run(samples, feed=lambda t: t, affine=(weight, bias)):
        flat = samples.reshape(len(samples) * groups, channels // groups * span)
        out, mean, scale = norm(feed(flat), *(t if t is None else feed(t) for t in affine), span, groups, 1e-5)
        return torch.cat([out.view(len(samples), -1).float(), mean.view(-1, groups), scale.view(-1, groups)], 1)

    whole = run(x)
    exact = torch.native_group_norm(x.double(), weight.double(), bias.double(), 9, channels, span, groups, 1e-5)
    assert error(whole[:, : channels * span], exact[0].view(9, -1)) <= 2 * CLOSE[dtype]
    torch.testing.assert_close(whole[:, channels * span :].double(), torch.cat(exact[1:], 1), rtol=1e-5, atol=1e-5)
    for rows in (slice(0, 1), slice(4, 5), slice(2, 9)):
        assert bits_equal(run(x[rows]), whole[rows])
    for feed in (unaligned, apart):
        assert bits_equal(run(x, feed), whole)
    ones = run(x, affine=(torch.ones_like(weight), torch.zeros_like(bias)))
    assert bits_equal(run(x, affine=(None, None)), ones)
    x[torch.arange(9) != 5] = torch.nan
    assert bits_equal(run(x)[5], whole[5])
    assert len(norm(x[:0].reshape(0, 67), weight[:67], bias[:67], 1, 1, 1e-5)[0]) == 0


def test_softmax_of_masked_and_of_nan(rowwise):
    x = normal(3, 300)
    x[0, 40:], x[1, 7] = -torch.inf, torch.nan
    out = rowwise.rowwise("softmax", x, None, 0.0, 300)
    assert out[0, 40:].eq(0).all() and out[1].isnan().all() and not out[2].isnan().any()
    torch.testing.assert_close(out[0], x[0].softmax(-1))


def dense(module, one, window=None, cap=0.0, first=None, **more):
    q, k, v = (t[None] for t in one)
    low, high = causal(1, q.shape[2], k.shape[2], window)
    return module.dense(q, k, v, low, high, q.shape[3] ** -0.5, cap, first, **more)[0]


def paged(module, requests, size=16, window=None, cap=0.0, seed=0, **more):
    """One output [H, count, D] a request."""
    given = arguments(requests, size, seed)
    out = given[0].new_zeros(given[0].shape)
    module.paged(*given, given[0].shape[2] ** -0.5, cap, window, out, **more)
    return [t.transpose(0, 1) for t in out.tensor_split(given[4][1:-1].long())]


MIXED = [(1, 1), (40, 40), (SPLIT, 1), (SPLIT + 1, 1), (75, 11)]
ZERO = torch.zeros(1, dtype=torch.int32)


@pytest.mark.parametrize(
    ("window", "cap", "dtype"),
    [
        (None, 0.0, F32),
        (1, 0.0, F32),
        (20, 5.0, F32),
        (None, 5.0, BF16),
        (50, 0.0, BF16),
        (None, 0.0, F16),
        (20, 5.0, F16),
    ],
    ids=["fp32", "window-1-fp32", "window-20-cap-fp32", "cap-bf16", "window-50-bf16", "fp16", "window-20-cap-fp16"],
)
def test_attention_is_right_over_either_cache_with_the_same_bits(attention, window, cap, dtype):
    """Three heads share keys, so that a query's lie in two tiles. A window counts from the request's first key here."""
    heads = (6, 2) if window or cap else (3, 1)
    requests = [request(*one, *heads, 12, dtype, n) for n, one in enumerate(MIXED)]
    outs = paged(attention, requests, 16, window, cap)
    for one, out in zip(requests, outs, strict=True):
        q, k, v = (t[None] for t in one)
        low, high = causal(1, q.shape[2], k.shape[2], window)
        assert error(out[None], plain(q, k, v, low, high, cap)) <= 2 * CLOSE[dtype]
        assert bits_equal(dense(attention, one, window, cap, ZERO), out), one[1].shape
        if window is None:
            assert bits_equal(dense(attention, one, cap=cap), out)


@pytest.mark.parametrize(("window", "dtype"), [(None, F32), (40, BF16)])
def test_at_one_go_in_chunks_token_by_token_and_split(attention, window, dtype):
    keys = 75
    q, k, v = request(keys, keys, 2, 1, 16, dtype)
    whole = dense(attention, (q, k, v), window, 0.0, ZERO)
    own = whole if window is None else dense(attention, (q, k, v), window)
    assert error(own, whole.double()) <= 4 * CLOSE[dtype]
    for begin, end in [(0, 30), (30, 75), (74, 75), (31, 32), (32, 33), (65, 66)]:
        one = q[:, begin:end], k[:, :end], v[:, :end]
        for split in (False, True):
            assert bits_equal(dense(attention, one, window, 0.0, ZERO, split=split), whole[:, begin:end]), begin
            if window is None or end - begin == 1:
                assert bits_equal(dense(attention, one, window, split=split), own[:, begin:end]), begin
            assert bits_equal(paged(attention, [one], 16, window, split=split)[0], whole[:, begin:end]), begin


@pytest.mark.parametrize("size", [7])
def test_any_block_size_any_order_any_neighbours(attention, size):
    subject = request(75, 11, 2, 1, 16)
    alone = dense(attention, subject)
    neighbours = [request(*one, 2, 1, 16, seed=n + 1) for n, one in enumerate(MIXED)]
    for seed, place in enumerate((0, 3)):
        asked = [*neighbours[:place], subject, *neighbours[place:]]
        assert bits_equal(paged(attention, asked, size, seed=seed)[place], alone), place
        assert bits_equal(paged(attention, asked, size, seed=seed, split=True)[place], alone), place


@pytest.mark.parametrize("window", [None, 20])
def test_padding_on_the_left_does_not_matter(attention, window):
    q, k, v = request(40, 40, 2, 1, 16)
    low, high = causal(1, 40, 40, window)
    whole = dense(attention, (q, k, v), window)
    for padding in (31,):
        nothing = torch.full((1, padding, 16), torch.nan)
        wide = [torch.cat([nothing, t], 1)[None] for t in (k, v)]
        given = low + padding, high + padding
        assert bits_equal(attention.dense(q[None], *wide, *given, 16**-0.5)[0], whole), padding
        first = torch.tensor([padding], dtype=torch.int32)
        counted = attention.dense(q[None], *wide, *given, 16**-0.5, first=first)[0]
        assert bits_equal(counted, dense(attention, (q, k, v), window, 0.0, ZERO)), padding


def test_queries_that_see_nothing_and_padded_queries(attention):
    q, k, v = (t[None] for t in request(40, 40, 2, 1, 16))
    low, high = causal(1, 40, 40)
    whole = attention.dense(q, k, v, low, high, 0.2)
    low, high = low.clone(), high.clone()
    low[:, :5], high[:, :5] = 0, 0
    low[:, 5:] = 3
    out = attention.dense(q, k, v, low, high, 0.2)
    assert out[:, :, :5].eq(0).all() and not out.isnan().any()
    assert not bits_equal(out[:, :, 20:], whole[:, :, 20:])
    shifted = attention.dense(q[:, :, 5:], k[:, :, 3:], v[:, :, 3:], low[:, 5:] - 3, high[:, 5:] - 3, 0.2)
    assert bits_equal(out[:, :, 5:], shifted)


def test_many_heads_share_keys_and_memory_is_as_it_comes(attention):
    """40 heads: more than a tile has rows. And a q whose heads lie as a projection leaves them, keys not aligned."""
    q, k, v = request(40, 3, 40, 1, 16)
    whole = dense(attention, (q, k, v), 20)
    exact = plain(q[None], k[None], v[None], *causal(1, 3, 40, 20))[0]
    assert error(whole, exact) <= CLOSE[torch.float32]
    for i in range(3):
        one = q[:, i : i + 1], k[:, : 38 + i], v[:, : 38 + i]
        assert bits_equal(dense(attention, one, 20), whole[:, i : i + 1]), i
    crossed = q.transpose(0, 1).contiguous().transpose(0, 1)
    assert bits_equal(dense(attention, (unaligned(crossed), apart(k), unaligned(v)), 20), whole)
    with pytest.raises(ValueError, match="up to 256 elements; got 257"):
        dense(attention, request(5, 5, 1, 1, 257))


def broken(name, path, *changes):
    source = (Path(_triton.__file__).parent / f"{name}.py").read_text()
    for sound, wrong in changes:
        assert sound in source, sound
        source = source.replace(sound, wrong)
    (path / f"{name}_broken.py").write_text(source)
    return interpreted.load(name, path / f"{name}_broken.py")


def test_a_matmul_whose_order_follows_the_rows_is_caught(tmp_path):
    """Split in two along k where there are few rows, as libraries do it: the same numbers, other bits."""
    sound = (
        "total = accumulate(x, w, K, x_rows, w_rows, w_k, row < M, column < N, BLOCK_M, BLOCK_N, BLOCK_K)\n        if"
    )
    cut = "total = accumulate(x, w, tl.where(M < 8, K // 2, K), x_rows, w_rows, w_k, row < M, column < N, BLOCK_M, BLOCK_N, BLOCK_K)\n"
    rest = (
        "            total += accumulate(x + K // 2, w + K // 2 * w_k, tl.where(M < 8, K - K // 2, 0), x_rows, w_rows, w_k, row < M,"
        " column < N, BLOCK_M, BLOCK_N, BLOCK_K)\n        if"
    )
    module = broken("matmul", tmp_path, (sound, cut + rest))
    x, w = normal(20, 200), normal(40, 200, seed=1)
    whole = module.matmul(x, w, None)
    assert error(whole[:4], x[:4].double() @ w.double().t()) <= CLOSE[torch.float32]
    assert bits_equal(module.matmul(x[:9], w, None), whole[:9])
    few = module.matmul(x[:4], w, None)
    assert not bits_equal(few, whole[:4])
    assert error(few, whole[:4].double()) <= CLOSE[torch.float32]  # nothing but the order is wrong


FAULTS = {  # how the splits are gone through, and how long one is
    "splits follow the queries": ("range(begin, end, tl.where(L < 8, 16, SPLIT))", "tl.where(L < 8, 16, SPLIT)"),
    "splits count from the last key": ("range(end % SPLIT - SPLIT, end, SPLIT)", "SPLIT"),
    "a fixed number of splits": ("range(begin, end, tl.cdiv(end, 2))", "tl.cdiv(end, 2)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_attention_whose_splits_follow_the_batch_is_caught(fault, tmp_path):
    splits, length = FAULTS[fault]
    changes = [
        ("for split in range(begin, end, SPLIT)", f"for split in {splits}"),
        ("tl.minimum(split + SPLIT, end), limit,", f"tl.minimum(split + {length}, end), limit,"),
        ("there = key < limit", "there = (key < end) & (key >= 0)"),
        ("(key[None, :] < high[:, None])", "(key[None, :] < high[:, None]) & there[None, :]"),
    ]
    module = small(broken("attention", tmp_path, *changes))
    q, k, v = request(75, 75, 2, 1, 16)
    whole = dense(module, (q, k, v))
    assert error(whole[None], plain(q[None], k[None], v[None], *causal(1, 75, 75))) <= CLOSE[torch.float32]
    apart = [dense(module, (q[:, i : i + 1], k[:, : i + 1], v[:, : i + 1]))[:, 0] for i in (60, 65, 73)]
    assert not all(bits_equal(one, whole[:, i]) for one, i in zip(apart, (60, 65, 73), strict=True))


@pytest.fixture(scope="module")
def benchmark():
    import compiled  # here, since it imports Triton

    return compiled


def declared():
    if not _triton.available():
        return []
    from detcheck.kernels._triton import attention as triton_attention
    from detcheck.kernels._triton import matmul as triton_matmul
    from detcheck.kernels._triton import norm as triton_norm
    from detcheck.kernels._triton import rowwise as triton_rowwise

    modules = (triton_matmul, triton_attention, triton_rowwise, triton_norm)
    return [(m, name, of) for m in modules for name, of in m.DETCHECK.items()]


@pytest.mark.parametrize(("module", "name", "of"), declared(), ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_declared_is_what_there_is(module, name, of):
    """And every integer that follows the batch is one that Triton does not make another binary for."""
    kernel = getattr(module, name)
    signature = of("bf16", "sm_90")
    assert sorted([*signature.arguments, *signature.constexprs]) == sorted(kernel.arg_names)
    assert {p.name for p in kernel.params if p.is_constexpr} == set(signature.constexprs)
    assert signature.options["enable_fp_fusion"] is False
    for parameter in kernel.params:
        if parameter.name in signature.batch and signature.arguments[parameter.name] == "i32":
            assert parameter.do_not_specialize, parameter.name
        if signature.arguments.get(parameter.name, "").startswith("*"):
            assert parameter.name in signature.aligned


def test_what_makes_the_bits_is_told_by_tritons_old_and_new(monkeypatch):
    """CUDA builds of torch bring Triton 3.6 and 3.7, which do not tell what the environment makes of an option."""
    import triton

    assert "multiply-add but where written" in _triton.description()
    monkeypatch.delattr(type(triton.knobs.language), "fp_fusion_enabled", raising=False)
    assert _triton.description().endswith(", no fused multiply-add but where written")


def test_every_kernel_is_declared_and_belongs_to_an_op():
    from triton.runtime.jit import JITFunction

    from detcheck import lookup

    known = {f"{module.__name__}:{name}" for module, name, _ in declared()}
    kernels = {
        f"{module.__name__}:{name}"
        for module, _, _ in declared()
        for name, value in vars(module).items()
        if isinstance(value, JITFunction) and name.endswith("_kernel")
    }
    assert kernels == known
    ops = [lookup.find("kernels", name).OP for name in lookup.names("kernels")]
    assert {kernel for op in ops for kernel in op.triton} == known
    assert all(bool(op.triton) == ("cuda" in op.devices) for op in ops)


UNITS = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "v_mfma"}


@pytest.mark.parametrize("target", UNITS)
@pytest.mark.parametrize("name", ["matmul 4096x4096", "matmul 4096x4096, pointers", "attention 128, paged"])
def test_compiled_without_a_gpu_nothing_spills_and_matrix_units_multiply(benchmark, name, target):
    """These; benchmarks/compiled.py does it for everything, and takes minutes."""
    tiles = target in ("sm_90", "sm_100")  # TMA loads them
    if name.endswith("pointers") and not tiles:
        pytest.skip(f"{target} has nothing else, so that they are not named")
    (subject,) = [s for s in benchmark.subjects("bf16", target) if s[0] == name]
    _, kernel, signature, changes = subject
    made = benchmark.compiled(kernel, signature, "bf16", target, **changes)
    found = benchmark.measured(made)
    assert found.spills == 0 and found.matrix.startswith(UNITS[target]), found
    assert bool(found.tma) == (tiles and name == "matmul 4096x4096"), found
    text = made.asm.get("ptx", "")
    assert "fma.rn.f32" not in text, "a product fused into a sum, which nobody wrote"
    assert not re.search(r"\b(atom|red)\.", text)


def test_float32_is_exactly_rounded(benchmark):
    """tf32 and its like are matrix instructions on NVIDIA; ieee is none."""
    (subject,) = [s for s in benchmark.subjects("fp32", "sm_90") if s[0] == "matmul 4096x4096"]
    made = benchmark.compiled(subject[1], subject[2], "fp32", "sm_90")
    assert benchmark.measured(made).matrix == "" and "fma.rn" in made.asm["ptx"]


def test_what_is_not_aligned_is_copied_and_nothing_else():
    whole = torch.arange(64.0).view(4, 16)
    assert _triton.fit(whole, 4) is whole
    for other, step in ((unaligned(whole), 4), (apart(whole), 4), (whole[:, 1:], 1), (whole.t(), 1)):
        copy = _triton.fit(other, step)
        assert copy is not other and bits_equal(copy, other) and copy.data_ptr() % 16 == 0
        assert all(s % step == 0 for s in copy.stride()[:-1])
