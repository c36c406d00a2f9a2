"""Gradients inside the switch: those of one sample's loss have the same bits alone and among others, and are the right ones."""

import pytest
import torch
import torch.nn.functional as F
from models import llama_like

from detcheck.kernels._cpu import build
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.kernels._shared import over_rows
from detcheck.op import NoKernelError
from detcheck.switch import batch_invariant

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LENGTH, WIDTH = 9, 37  # tokens of a sample, and channels: no multiple of a tile or of a vector


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def attention(x, written_out=False):
    q, k, v = (x[..., i : i + 8].unsqueeze(1) for i in (0, 8, 16))
    hidden = torch.arange(x.shape[1])[None] > torch.arange(x.shape[1])[:, None]
    seen = ~(hidden | (x.detach() == 0).all(-1)[:, None])[:, None]  # a padded token is all zeros
    if not written_out:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)[:, 0]
    scores = (q[:, 0] @ k[:, 0].mT).masked_fill(~seen[:, 0], torch.finfo(x.dtype).min)
    return scores.softmax(-1) @ v[:, 0]


# name -> (shapes of the parameters, what is made of x[B, L, WIDTH] and them)
MADE = {
    "linear": ([(20, WIDTH)], lambda x, w: F.linear(x, w)),
    "linear with a bias": ([(20, WIDTH), (20,)], F.linear),
    "a weight that lies the other way": ([(WIDTH, 20)], lambda x, w: x @ w),
    "addmm": (
        [(20,), (WIDTH, 20)],
        lambda x, b, w: torch.addmm(b, x.flatten(0, 1), w, beta=0.5, alpha=2).view(*x.shape[:2], 20),
    ),
    "a value head": ([(WIDTH,)], lambda x, w: x @ w),
    "addmv": (
        [(1,), (WIDTH,)],
        lambda x, b, w: torch.addmv(b, x.flatten(0, 1), w, beta=0.5, alpha=2).view(x.shape[:2]),
    ),
    "addmm_": (
        [(20,), (WIDTH, 20)],
        lambda x, b, w: (b * x[..., :20]).flatten(0, 1).addmm_(x.flatten(0, 1), w).view(*x.shape[:2], 20),
    ),
    "baddbmm_": ([(WIDTH, 20)], lambda x, w: (2 * x[..., :20]).baddbmm_(x, w.expand(len(x), -1, -1), alpha=2)),
    "addmv_": ([(WIDTH,)], lambda x, w: (2 * x[..., 0]).flatten().addmv_(x.flatten(0, 1), w).view(x.shape[:2])),
    "layer_norm": ([(WIDTH,), (WIDTH,)], lambda x, w, b: F.layer_norm(x, (WIDTH,), w, b)),
    "rms_norm": ([(WIDTH,)], lambda x, w: F.rms_norm(x, (WIDTH,), w, 1e-6)),
    "silu": ([(WIDTH,)], lambda x, w: F.silu(x * w)),
    "gelu": ([(WIDTH,)], lambda x, w: F.gelu(x * w)),
    "gelu, tanh": ([(WIDTH,)], lambda x, w: F.gelu(x * w, approximate="tanh")),
    "sigmoid, tanh": ([(WIDTH,)], lambda x, w: torch.sigmoid(x * w) + torch.tanh(x * w)),
    "log_softmax": ([(WIDTH,)], lambda x, w: torch.log_softmax(x * w, -1)),
    "attention": ([(24, WIDTH)], lambda x, w: attention(F.linear(x, w))),
    "attention, written out": ([(24, WIDTH)], lambda x, w: attention(F.linear(x, w), written_out=True)),
    "a token's probability": (
        [(20, WIDTH)],
        lambda x, w: torch.log_softmax(F.linear(x, w).float(), -1).gather(-1, torch.full((*x.shape[:2], 1), 3)),
    ),
}


def of_one_sample(name, dtype, place, rows, before, behind):
    """Gradients of the sample at that place among `rows`, with so many tokens of padding: of its own inputs, and of the parameters."""
    shapes, make = MADE[name]
    own = numbers(1, LENGTH, WIDTH, dtype=dtype)
    parameters = [numbers(*shape, seed=10 + n, dtype=dtype).requires_grad_() for n, shape in enumerate(shapes)]
    x = numbers(rows, before + LENGTH + behind, WIDTH, seed=5 + rows, dtype=dtype)
    x[place] = F.pad(own, (0, 0, before, behind))[0]
    x.requires_grad_()
    made = make(x, *parameters)
    mine = slice(before, before + LENGTH)
    weights = torch.zeros_like(made)
    weights[place, mine] = numbers(*made.shape[2:], seed=3).to(made.dtype)
    (made * weights).sum().backward()
    return x.grad[place, mine], *(p.grad for p in parameters)


AMONG = [(0, 1, 5, 0), (0, 1, 0, 7), (0, 2, 0, 0), (1, 2, 0, 0), (2, 5, 0, 0), (3, 4, 6, 2)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MADE)
def test_gradients_of_one_sample_are_the_same_alone_and_among_others(name, dtype):
    with batch_invariant() as coverage:
        alone = of_one_sample(name, dtype, 0, 1, 0, 0)
        assert all(bool((gradient != 0).any()) for gradient in alone)
        for among in AMONG:
            unlike = [
                n
                for n, (a, b) in enumerate(zip(alone, of_one_sample(name, dtype, *among), strict=True))
                if not bits_equal(a, b)
            ]
            assert not unlike, among
    assert not coverage.uncovered


def test_a_weights_gradient_added_as_a_product_of_its_length_is_seen(monkeypatch):
    """As it was: in the order of a product, a sample at another place gets another tree of additions."""
    from detcheck.kernels.matmul import mm

    monkeypatch.setattr(over_rows, "products", lambda a, g: mm(a.t(), g))
    with batch_invariant():
        alone = of_one_sample("linear", torch.float32, 0, 1, 0, 0)
        among = of_one_sample("linear", torch.float32, 1, 2, 0, 0)
    assert bits_equal(alone[0], among[0]) and not bits_equal(alone[1], among[1])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_rows_of_zeros_change_no_sum_over_rows(dtype, threads):
    """Wherever they lie, also between the others, and -0.0 too. The order of the others counts."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows, p, q in ((1, 1, 1), (150, 97, 19), (70, 3, 530)):
            a, g = numbers(rows, p, dtype=dtype), numbers(rows, q, seed=1, dtype=dtype)
            places = torch.randperm(3 * rows, generator=torch.Generator().manual_seed(2))[:rows].sort().values
            wide_a, wide_g = numbers(3 * rows, p, seed=4, dtype=dtype), torch.full((3 * rows, q), -0.0, dtype=dtype)
            wide_a[places], wide_g[places] = a, g
            assert bits_equal(over_rows.products(a, g), over_rows.products(wide_a, wide_g))
            assert bits_equal(over_rows.products(g, a), over_rows.products(a, g).t())
            assert bits_equal(over_rows.sums(g), over_rows.sums(wide_g))
            if dtype != torch.float64:
                ids = torch.arange(3 * rows) % 5
                assert bits_equal(over_rows.placed(g, ids[places], 5), over_rows.placed(wide_g, ids, 5))
    finally:
        torch.set_num_threads(before)
    if dtype in (torch.float32, torch.float64):
        assert not bits_equal(over_rows.products(a, g), over_rows.products(a.flip(0), g.flip(0)))


@pytest.mark.parametrize("native", [True, False])
def test_sums_over_rows_are_the_right_ones(monkeypatch, native):
    if not native:
        monkeypatch.setattr(build, "available", lambda: False)
    for dtype in (*DTYPES, torch.float64):
        a, g = numbers(70, 13, dtype=dtype), numbers(70, 9, seed=1, dtype=dtype)
        near = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 40 * torch.finfo(dtype).eps}
        torch.testing.assert_close(over_rows.products(a, g).double(), a.double().t() @ g.double(), **near)
        torch.testing.assert_close(over_rows.sums(g).double(), g.double().sum(0), **near)
        if dtype == torch.float64:
            continue
        ids = torch.arange(70) % 4
        exact = torch.zeros(5, 9, dtype=torch.float64).index_add(0, ids[ids != 2], g.double()[ids != 2])
        torch.testing.assert_close(over_rows.placed(g, ids, 5, left_out=2).double(), exact, **near)
    with pytest.raises(ValueError, match="within the table of 2 rows; got 0 to 3"):
        over_rows.placed(g.float(), ids, 2)
    with pytest.raises(NoKernelError, match="on meta; it has on cpu"):
        over_rows.sums(g.to("meta"))


@pytest.mark.parametrize("name", MADE)
def test_gradients_are_those_of_float64(name):
    """Of float32, within roundings of stock's own error."""
    exact = of_one_sample(name, torch.float64, 2, 3, 1, 0)
    stock = of_one_sample(name, torch.float32, 2, 3, 1, 0)
    with batch_invariant():
        ours = of_one_sample(name, torch.float32, 2, 3, 1, 0)
    for own, torchs, right in zip(ours, stock, exact, strict=True):
        assert own.dtype == torchs.dtype and own.shape == torchs.shape
        assert (own - right).norm() <= 4 * (torchs - right).norm() + 1e-6 * right.norm()


def test_an_embeddings_gradient_and_what_is_left_out_of_it():
    ids = torch.tensor([[1, 2, 1], [0, 3, 1]])
    table = numbers(5, 11).requires_grad_()
    with batch_invariant() as coverage:
        (ours,) = torch.autograd.grad((F.embedding(ids, table, padding_idx=0) * numbers(2, 3, 11, seed=1)).sum(), table)
        (counted,) = torch.autograd.grad(F.embedding(ids, table, scale_grad_by_freq=True).sum(), table)
    (stock,) = torch.autograd.grad((F.embedding(ids, table, padding_idx=0) * numbers(2, 3, 11, seed=1)).sum(), table)
    torch.testing.assert_close(ours, stock)
    assert not ours[0].any() and torch.equal(counted[1], torch.ones(11))
    assert (
        coverage.overridden["aten::embedding_dense_backward"]
        == coverage.uncovered["aten::embedding_dense_backward"]
        == 1
    )


def test_gradients_of_gradients_and_of_everything_that_a_product_takes():
    double = torch.float64
    x, w, b = (numbers(*s, seed=n, dtype=double).requires_grad_() for n, s in enumerate(((3, 4), (5, 4), (5,))))
    c, q, k = (
        numbers(*s, seed=n, dtype=double).requires_grad_() for n, s in enumerate(((2, 3, 5), (2, 3, 4), (2, 4, 5)))
    )
    with batch_invariant():
        assert torch.autograd.gradgradcheck(lambda x, w, b: F.linear(x, w, b) ** 2, (x, w, b))
        assert torch.autograd.gradcheck(lambda c, q, k: torch.baddbmm(c, q, k, beta=0.5, alpha=2), (c, q, k))
        assert torch.autograd.gradgradcheck(lambda q, k: torch.bmm(q, k) ** 2, (q, k))


def test_transforms_and_compiled_models_are_torchs():
    """They trace what they are given: a kernel of ours would see no numbers."""
    x, w = numbers(3, 7, 4), numbers(5, 4)

    def loss(w, x):
        return F.linear(x, w).square().sum()

    expected = torch.autograd.functional.jacobian(lambda w: loss(w, x), w)
    with batch_invariant():
        each = torch.func.vmap(torch.func.grad(loss), (None, 0))(w, x)
        torch.testing.assert_close(each.sum(0), expected)
        wanted = w.clone().requires_grad_()
        torch.compile(loss, backend="aot_eager")(wanted, x).backward()
        torch.testing.assert_close(wanted.grad, expected)


def test_a_models_backward_pass_is_ours_alone(tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama_like(tmp_path), attn_implementation="sdpa", dtype=torch.bfloat16)
    ids = torch.randint(600, 2000, (2, 21), generator=torch.Generator().manual_seed(0))
    with batch_invariant() as coverage:
        logits = model(input_ids=ids).logits[:, :-1]
        torch.log_softmax(logits.float(), -1).gather(-1, ids[:, 1:, None]).sum().backward()
    assert not coverage.uncovered
    assert (
        coverage.overridden["detcheck::products_over_rows"] == sum(p.ndim == 2 for p in model.parameters()) - 1
    )  # a table
    assert {"aten::silu_backward", "aten::embedding_dense_backward"} <= set(coverage.overridden)


def test_without_gradients_a_product_is_as_it_was():
    x, w = numbers(3, 4), numbers(5, 4).requires_grad_()
    with batch_invariant():
        with torch.no_grad():
            assert not F.linear(x, w).requires_grad
        with torch.inference_mode():
            assert F.linear(x, w).is_inference()
        assert bits_equal(F.linear(x, w), F.linear(x, w.detach()))
    assert type(F.linear(x, w).grad_fn).__name__ == "MmBackward0"  # torch's own again


@pytest.mark.parametrize("op", ["softmax", "silu", "layer_norm", "embedding"])
def test_gradients_of_rows_without_numbers_are_empty(op):
    x = numbers(3, 0).requires_grad_()
    made = {
        "softmax": lambda x: x.softmax(-1),
        "silu": F.silu,
        "layer_norm": lambda x: F.layer_norm(x, (0,)),
        "embedding": lambda x: F.embedding(torch.tensor([1, 2]), x),
    }
    with batch_invariant():
        made[op](x).sum().backward()
    assert x.grad.shape == (3, 0)
