"""The switch: on real models the batch does not reach the bits inside it, and does without it; and it leaves no trace."""

import pytest
import torch
from models import llama_like
from torch.nn.functional import group_norm, layer_norm, linear, scaled_dot_product_attention

import detcheck
from detcheck import switch
from detcheck.engine import Row
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.op import NotInvariantError, every, replaceable


def products():
    x, w = (
        torch.randn(5, 96, generator=torch.Generator().manual_seed(0)),
        torch.randn(40, 96, generator=torch.Generator().manual_seed(1)),
    )
    return linear(x, w), x @ w.t()


def test_it_undoes_itself_also_nested_and_under_exceptions():
    from transformers import modeling_utils

    before, table = products(), dict(modeling_utils.ALL_ATTENTION_FUNCTIONS._local_mapping)
    with detcheck.batch_invariant():
        inside = products()
        with detcheck.batch_invariant() as inner:
            assert all(map(bits_equal, products(), inside))
        assert inner.overridden["aten::mm"] == 2
        assert all(map(bits_equal, products(), inside))
    assert all(map(bits_equal, products(), before))
    with pytest.raises(ZeroDivisionError), detcheck.batch_invariant():
        raise ZeroDivisionError
    assert all(map(bits_equal, products(), before))
    assert modeling_utils.ALL_ATTENTION_FUNCTIONS._local_mapping == table


CALLS = {
    "aten::mm": lambda x: x @ x.t(),
    "aten::mm.out": lambda x: torch.mm(x, x.t(), out=torch.empty(len(x), len(x))),
    "aten::addmm": lambda x: torch.addmm(torch.ones(len(x)), x, x.t()),
    "aten::addmm.out": lambda x: torch.addmm(torch.ones(len(x)), x, x.t(), beta=0.5, alpha=2, out=torch.empty(0)),
    "aten::bmm": lambda x: torch.bmm(x[None], x.t()[None])[0],
    "aten::baddbmm": lambda x: torch.baddbmm(torch.ones(1, 1, 1), x[None], x.t()[None])[0],
    "aten::mv": lambda x: torch.mv(x, x[0])[:, None],
    "aten::addmv": lambda x: torch.addmv(torch.ones(len(x)), x, x[0])[:, None],
    "aten::_softmax": lambda x: x.softmax(-1),
    "aten::_log_softmax": lambda x: x.log_softmax(-1),
    "aten::logsumexp": lambda x: x.logsumexp(-1, keepdim=True),
    "aten::mean.dim": lambda x: x.mean(-1, keepdim=True),
    "aten::sum.dim_IntList": lambda x: x.sum(0, keepdim=True),
    "aten::sum.IntList_out": lambda x: torch.sum(x, 1, keepdim=True, out=torch.empty(0)),
    "aten::convolution": lambda x: torch.nn.functional.conv1d(x[None], x[:, None, :4], groups=9)[0],
    "aten::cumsum": lambda x: x.cumsum(0),
    "aten::cumsum_": lambda x: x.clone().cumsum_(1),
    "aten::native_layer_norm": lambda x: layer_norm(x, x.shape, x, 2 * x),
    "aten::native_group_norm": lambda x: group_norm(x.view(3, 6, 12), 2, x[0, :6], x[1, :6]),
    "aten::sigmoid": torch.sigmoid,
    "aten::softplus": lambda x: torch.nn.functional.softplus(30 * x, beta=0.7),
    "aten::silu_": lambda x: torch.nn.functional.silu(x.clone(), inplace=True),
    "aten::silu": torch.nn.functional.silu,
    "aten::gelu": torch.nn.functional.gelu,
    "aten::_scaled_dot_product_flash_attention_for_cpu": lambda x: scaled_dot_product_attention(
        *[x[None, None]] * 3, is_causal=True
    )[0, 0],
}


@pytest.mark.parametrize("name", CALLS)
def test_each_op_is_routed_counted_and_right(name):
    x = torch.randn(9, 24, generator=torch.Generator().manual_seed(0))
    with detcheck.batch_invariant() as coverage:
        ours = CALLS[name](x)
    assert coverage.overridden[name] == 1 and not coverage.uncovered
    torch.testing.assert_close(ours, CALLS[name](x))


def test_what_runs_without_an_override_is_named():
    with detcheck.batch_invariant() as coverage:
        torch.randn(2, 8).var(-1)
        torch.randn(2, 8).cumprod(-1)
        torch.zeros(3, 8).index_add(0, torch.tensor([0, 2, 0]), torch.randn(3, 8))
    assert {"aten::var.correction", "aten::cumprod", "aten::index_add"} <= set(coverage.uncovered)
    assert "aten::index_add" not in coverage.alike | coverage.unlike  # its rows go by places in another's
    with detcheck.batch_invariant(only=frozenset({"matmul"})) as coverage:
        layer_norm(torch.randn(2, 8), (8,))
        torch.randn(2, 8).sum(0)
    assert set(coverage.uncovered) == {"aten::native_layer_norm", "aten::sum.dim_IntList"} and not coverage.overridden


def test_what_is_made_of_ours_is_ours(monkeypatch):
    """torch has no kernel of its own for these on a CPU: an RMS norm, a logarithm of a sum."""
    monkeypatch.setattr(switch, "_asked", {})
    x = torch.randn(5, 37, generator=torch.Generator().manual_seed(0))
    with detcheck.batch_invariant() as coverage:
        for call in (lambda x: torch.nn.functional.rms_norm(x, (37,)), lambda x: torch.special.logsumexp(x, -1)):
            assert bits_equal(call(x)[2:3], call(x[2:3]))
    assert not coverage.uncovered and {"aten::mean.dim", "aten::rsqrt"} <= set(coverage.overridden)


def test_integers_are_torchs_and_not_counted_unless_they_become_floats():
    n = torch.arange(12).view(3, 4)

    def results():
        floats = n.sum(-1, dtype=torch.float32)
        return n.sum(), n.bool().sum(0), n.cumsum(1), n @ n.t(), floats, floats.cumsum(0, dtype=torch.int32)

    stock = results()
    with detcheck.batch_invariant() as coverage:
        ours = results()
    assert all(map(torch.equal, ours, stock))
    assert coverage.overridden == {"aten::sum.dim_IntList": 1} and not coverage.uncovered


def test_every_convolution_is_ours_but_the_transposed():
    """Depthwise by its own kernel; others, of steps, groups, dilations, two and three dimensions, as products."""
    from torch.nn.functional import conv1d, conv2d, conv3d, conv_transpose1d

    def normal(*size):
        return torch.randn(size, generator=torch.Generator().manual_seed(0))

    x, y, z = normal(3, 6, 13), normal(3, 6, 9, 11), normal(3, 4, 5, 6, 7)

    def results(rows=slice(None)):
        return [
            conv1d(x[rows], normal(6, 1, 4), normal(6), padding=3, groups=6),
            conv1d(x[rows].transpose(1, 2).contiguous().transpose(1, 2), normal(6, 1, 4), normal(6), groups=6),
            conv1d(x[rows, :, :4], normal(6, 1, 4), groups=6),
            conv1d(x[rows], normal(6, 1, 3), groups=6, padding=7),
            conv1d(x[rows], normal(8, 6, 3), normal(8), stride=2, padding=1),
            conv1d(x[rows], normal(9, 2, 3), normal(9), groups=3, dilation=2, padding="same"),
            conv2d(y[rows], normal(8, 6, 3, 2), normal(8), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
            conv2d(y[rows], normal(6, 1, 3, 3), groups=6, padding=1),
            conv3d(z[rows], normal(3, 4, 2, 3, 3), normal(3), stride=(2, 3, 1)),
        ]

    stock = results()
    with detcheck.batch_invariant() as coverage:
        ours = results()
        alone = results(slice(1, 2))
        assert conv2d(y[:0], normal(8, 6, 3, 2)).shape == (0, 8, 7, 10)
        with pytest.raises(ValueError, match="no smaller than its filters"):
            conv1d(x, normal(6, 1, 14), groups=6)
    assert set(coverage.overridden) == {"aten::convolution"} and not coverage.uncovered
    for a, b, one in zip(ours, stock, alone, strict=True):
        torch.testing.assert_close(a, b)
        assert bits_equal(a[1:2], one)
    transposed = conv_transpose1d(x, normal(6, 2, 3))
    with detcheck.batch_invariant() as coverage:
        assert bits_equal(conv_transpose1d(x, normal(6, 2, 3)), transposed)
    assert coverage.uncovered["aten::convolution"] == 1 and "aten::convolution" not in coverage.overridden


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_triangular_systems_of_all_kinds(upper, left):
    a = torch.randn(2, 1, 7, 7, generator=torch.Generator().manual_seed(0)) + 4 * torch.eye(7)
    b = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(1))
    for unit in (False, True):
        matrix = a / 8 if unit else a
        stock = torch.linalg.solve_triangular(matrix, b, upper=upper, left=left, unitriangular=unit)
        with detcheck.batch_invariant() as coverage:
            ours = torch.linalg.solve_triangular(matrix, b, upper=upper, left=left, unitriangular=unit)
        assert coverage.overridden == {"aten::linalg_solve_triangular": 1}
        torch.testing.assert_close(ours, stock)


def test_a_depthwise_convolution_does_not_see_zeros_in_front_and_carries_on_token_by_token():
    from detcheck.kernels.conv1d import conv1d, depthwise, make

    x, weight, bias = make("6x13x4", 3, torch.float32, 0)
    whole = conv1d(x, weight, bias)
    zeros = torch.zeros(3, 6, 5)
    assert bits_equal(conv1d(torch.cat([zeros, x, zeros], -1), weight, bias)[..., 5:18], whole)
    for token in range(4, 13):
        assert bits_equal(depthwise(x[..., token - 3 : token + 1], weight, bias, 0, 1), whole[..., token : token + 1])


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_norms_hand_the_backward_pass_what_torch_does(parameters):
    """Half-precision inputs with float32 parameters too. Shapes, dtypes, and gradients."""
    x, weight, bias = (torch.randn(*s, generator=torch.Generator().manual_seed(0)) for s in ((3, 4, 10), (10,), (10,)))
    made = [x.bfloat16().requires_grad_(), *(t.to(parameters).requires_grad_() for t in (weight, bias))]

    def results():
        x, weight, bias = made
        layer = torch.native_layer_norm(x, (10,), weight, bias, 1e-5)
        group = torch.native_group_norm(x, weight[:4], bias[:4], 3, 4, 10, 2, 1e-5)
        whole = layer_norm(x, (4, 10)).float().square() + layer[0].float().pow(3) + group[0].float()
        gradients = torch.autograd.grad((whole * torch.arange(10)).sum(), made)
        return *layer, *group, *gradients

    stock = results()
    with detcheck.batch_invariant():
        ours = results()
    for a, b in zip(ours, stock, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        torch.testing.assert_close(a, b, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: torch.randn(2, 2) @ torch.randn(2, 2).double(), "one dtype"),
        (
            lambda: (
                scaled_dot_product_attention(
                    *[torch.randn(1, 1, 4, 8, requires_grad=True)] * 3, attn_mask=torch.randn(4, 4)
                )
                .sum()
                .backward()
            ),
            "additive bias",
        ),
    ],
)
def test_what_it_cannot_run_invariantly_is_refused_in_words(call, says):
    with detcheck.batch_invariant(), pytest.raises(ValueError, match=says):
        call()


def test_sums_and_products_in_float64_are_ours():
    """In an order that the length alone decides: zeros behind, other rows, threads and strides change nothing."""
    x = torch.randn(9, 1003, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = torch.randn(70, 1003, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def results(x):
        return (
            linear(x, w, w[:, 0]),
            x @ w.t(),
            torch.bmm(x[:, None], w.t().expand(len(x), -1, -1)),
            x.sum(-1),
            x.mean(-1),
        )

    stock = results(x)
    with detcheck.batch_invariant() as coverage:
        ours, longer = results(x), torch.cat([x, torch.zeros(9, 70, dtype=x.dtype)], 1).t().contiguous().t()
        assert bits_equal(longer.sum(-1), ours[3])
        assert bits_equal(longer @ torch.cat([w, w[:, :70]], 1).t(), ours[1])
        for rows in (slice(1), slice(8, 9), slice(2, 7)):
            assert all(bits_equal(part, whole[rows]) for part, whole in zip(results(x[rows]), ours, strict=True))
        assert not x[:, :0].sum(-1).any() and (x[:, :0] @ w[:, :0].t()).shape == (9, 70)
    assert {"aten::mm", "aten::addmm", "aten::bmm", "aten::sum.dim_IntList", "aten::mean.dim"} == set(
        coverage.overridden
    )
    assert not coverage.uncovered
    for a, b in zip(ours, stock, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_what_ours_does_not_take_in_float64_or_complex_runs_stock_and_is_counted_and_asked(monkeypatch):
    """A small part of a model in float64, a loss or a table, stops nothing; and it is not counted as ours."""
    monkeypatch.setattr(switch, "_asked", {})
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    calls = {
        "aten::_softmax": lambda: x.softmax(-1),
        "aten::_log_softmax": lambda: x.log_softmax(-1),
        "aten::native_layer_norm": lambda: layer_norm(x, (24,)),
        "aten::native_group_norm": lambda: group_norm(x, 3),
        "aten::cumsum": lambda: x.cumsum(-1),
        "aten::cumsum_": lambda: x.clone().cumsum_(-1),
        "aten::sigmoid": lambda: x.sigmoid(),
        "aten::convolution": lambda: torch.nn.functional.conv1d(x[None], x[:, None, :4], groups=5),
        "aten::linalg_solve_triangular": lambda: torch.linalg.solve_triangular(x[:, :5], x, upper=True),
        "aten::mm": lambda: x.to(torch.complex128) @ x.t().to(torch.complex128),
        "aten::_scaled_dot_product_flash_attention_for_cpu": lambda: scaled_dot_product_attention(
            *[x[:, None, None]] * 3
        ),
    }
    stock = {name: call() for name, call in calls.items()}
    for name, call in calls.items():
        with detcheck.batch_invariant() as coverage:
            found = call()
        assert torch.equal(found, stock[name]) and coverage.uncovered == {name: 1} and not coverage.overridden, name
        unaskable = "aten::native_group_norm", "aten::convolution", "aten::linalg_solve_triangular"  # no rows, or one
        assert (coverage.alike | coverage.unlike) == ({} if name in unaskable else {name: 1}), name


def test_an_op_in_place_that_is_let_through_is_asked_about_what_it_was_given(monkeypatch):
    monkeypatch.setattr(switch, "_asked", {})
    x = torch.rand(4, 16, generator=torch.Generator().manual_seed(0)) + 1
    with detcheck.batch_invariant() as coverage:
        found = x.clone().addcmul_(x, x)
    assert torch.equal(found, x.addcmul(x, x)) and coverage.alike == {"aten::addcmul_": 1} == coverage.uncovered


def test_every_overload_that_is_replaced_is_known_by_its_bundled_op():
    """What `bisect --apply` would replace is what the switch replaces: in place and `out=` too."""
    ops = [op for op in every() if op.name != "control"]
    for op in ops:
        for name in switch._overrides([op]):
            assert replaceable(f"aten::{name}") == op.name, name
    assert replaceable("aten::silu_") == "silu_mul" and replaceable("aten::add_") is None


def test_reductions_along_other_dimensions():
    x = torch.randn(3, 4, 5)

    def results():
        means = x.mean((0, 2)), x.mean(1, keepdim=True), x.mean(dim=(0, 1, 2)), x.mean()
        sums = (
            x.sum((0, -1), keepdim=True),
            x.sum(),
            x[0, 0, 0].sum(),
            x[:, :0].sum(1),
            x.cumsum(1),
            x[0, 0, 0].cumsum(0),
        )
        return x.softmax(1), x.log_softmax(0), *means, *sums

    with detcheck.batch_invariant():
        found = results()
    for ours, stock in zip(found, results(), strict=True):
        torch.testing.assert_close(ours, stock)


@pytest.fixture(scope="module", params=["amplifier", "llama"])
def models(request, tmp_path_factory):
    """float32 and bfloat16 engines of one architecture."""
    folder = None if request.param == "amplifier" else str(llama_like(tmp_path_factory.mktemp("llama")))
    engines = [TransformersEngine(folder, dtype) for dtype in ("float32", "bfloat16")]
    for engine in engines:
        engine.load()
    return engines


def batches(ids, engine):
    """The prompt alone, in copies, and padded among ragged neighbours."""
    made = engine.ordinary_tokens()[: len(ids) + 70].tolist()
    short, long = Row(tuple(made[:9]), tuple(made[:32])), Row(tuple(made), tuple(made[:32]))
    return [
        [Row(ids)],
        [Row(ids)] * 2,
        [Row(ids)] * 5,
        [short, Row(ids), short],
        [long, Row(ids), short, Row(ids), long],
    ]


@pytest.mark.parametrize("dtype", [0, 1], ids=["float32", "bfloat16"])
def test_completions_are_bit_equal_over_batches_and_padding_with_ours_and_not_with_stock(models, dtype, reacting):
    engine = models[dtype]
    ids = engine.encode(
        "Tell me about Richard Feynman, who liked to take things apart, and about what he found inside them."
    )

    def outcomes():
        found = set()
        for rows in batches(ids, engine):
            for completion in engine.complete(rows, 12, True).completions.values():
                found.add((completion.tokens, completion.logprobs.tobytes(), completion.margins.tobytes()))
        return found

    with detcheck.batch_invariant() as coverage:
        assert len(outcomes()) == 1
    assert coverage.overridden["transformers::attention"] and coverage.overridden["aten::mm"]
    assert len(outcomes()) > 1


@pytest.mark.parametrize("dtype", [0, 1], ids=["float32", "bfloat16"])
def test_prefill_in_chunks_and_decode_give_the_same_logits(models, dtype):
    model = models[dtype]._model
    ids = torch.tensor([models[dtype].encode("Tell me about Richard Feynman, who liked to take things apart.")])

    def logits(cuts):
        cache, found = None, []
        for begin, end in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True):
            out = model(input_ids=ids[:, begin:end], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits)
        return torch.cat(found, 1)

    with detcheck.batch_invariant(), torch.inference_mode():
        whole = logits([])
        for cuts in ([ids.shape[1] - 1], [7], [3, 20, 21], list(range(1, ids.shape[1]))):
            assert bits_equal(logits(cuts), whole), cuts


def test_attention_that_ours_is_not_the_like_of_is_refused_in_words():
    """A result that is wrong and invariant would be a pass: implementations of other names."""
    import transformers

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 99}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    model.set_attn_implementation("flex_attention")
    says = "attention flex_attention has no batch-invariant kernel"
    with detcheck.batch_invariant(), torch.no_grad(), pytest.raises(NotInvariantError, match=says):
        model.eval()(torch.tensor([[1, 2, 3]]))


def test_gradients_of_a_training_step(tmp_path):
    """As close to float64's as stock's are, whichever attention the model was loaded with."""
    from transformers import AutoModelForCausalLM

    folder = llama_like(tmp_path)
    ids = torch.randint(600, 2000, (2, 21), generator=torch.Generator().manual_seed(0))

    def step(attention, dtype=torch.float32):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=dtype)
        model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.double().flatten() for p in model.parameters()])

    exact = step("eager", torch.float64)
    for attention in ("eager", "sdpa"):
        stock = step(attention)
        with detcheck.batch_invariant() as coverage:
            ours = step(attention)
        assert coverage.overridden["transformers::attention"] == 2
        error, allowed = (ours - exact).norm(), (stock - exact).norm()
        assert error <= 2 * allowed + 1e-7 * exact.norm(), (error, allowed)


@pytest.mark.parametrize(("queries", "keys"), [(5, 9), (9, 5), (7, 7), (1, 6)])
def test_causal_attention_of_unlike_lengths_is_torchs(queries, keys):
    """torch's is_causal counts from the first query and the first key."""
    q, k, v = (
        torch.randn(2, 4, n, 16, generator=torch.Generator().manual_seed(i))
        for i, n in enumerate((queries, keys, keys))
    )
    stock = scaled_dot_product_attention(q, k, v, is_causal=True)
    with detcheck.batch_invariant():
        ours = scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)


def test_gradients_through_fused_attention():
    q, k, v = (
        torch.randn(2, 4, 7, 16, generator=torch.Generator().manual_seed(n), requires_grad=True) for n in range(3)
    )

    def gradients():
        out = scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.autograd.grad((out * torch.arange(16)).sum(), (q, k, v))

    stock = gradients()
    with detcheck.batch_invariant():
        ours = gradients()
    for a, b in zip(ours, stock, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
