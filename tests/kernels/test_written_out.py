"""Attention with a bias, sinks or gaps: right, and a row's bits follow neither its neighbours, nor its padding, nor how it is cut."""

import pytest
import torch

import detcheck
from detcheck.kernels import matmul
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.kernels.attention import written_out as module
from detcheck.kernels.attention.written_out import written_out
from detcheck.kernels.matmul import bmm, linear
from detcheck.kernels.softmax import softmax
from detcheck.op import NotInvariantError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LOW = torch.finfo(torch.float32).min


def tensors(length, keys, dtype=torch.float32, batch=3):
    made = [
        torch.randn(batch, heads, n, 16, generator=torch.Generator().manual_seed(i)).to(dtype)
        for i, (heads, n) in enumerate(((4, length), (2, keys), (2, keys)))
    ]
    causal = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)[None, None]
    bias = torch.randn(1, 4, length, keys, generator=torch.Generator().manual_seed(9))
    return *made, causal, bias, torch.randn(4, generator=torch.Generator().manual_seed(8))


def exact(q, k, v, shown, bias, sinks, cap):
    q, k, v = (t.double().repeat_interleave(4 // t.shape[1], 1) for t in (q, k, v))
    scores = q @ k.transpose(2, 3) * 16**-0.5
    scores = cap * (scores / cap).tanh() if cap else scores
    scores = (scores if bias is None else scores + bias).masked_fill(~shown, float("-inf"))
    if sinks is None:
        return scores.softmax(-1) @ v
    with_sinks = torch.cat([scores, sinks.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
    return with_sinks.softmax(-1)[..., :-1] @ v


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("biased", "sunk", "cap"), [(1, 0, 0.0), (0, 1, 0.0), (1, 1, 2.0), (0, 0, 0.0)])
def test_it_is_right(dtype, biased, sunk, cap):
    q, k, v, shown, bias, sinks = tensors(7, 41, dtype)
    shown = shown & (torch.arange(41) != 11)  # a gap
    bias, sinks = bias if biased else None, sinks if sunk else None
    found = written_out(q, k, v, shown, bias, sinks, soft_cap=cap)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact(q, k, v, shown, bias, sinks, cap), atol=tolerance, rtol=tolerance)


def surroundings(run, q, k, v, shown, bias, sinks):
    """The first row alone; in batches, cut into chunks, and with hidden keys of any kind before and behind it. Whether each is bit for bit the same."""
    own = [t[:1] for t in (q, k, v)]
    alone = run(*own, shown, bias, sinks)
    yield bits_equal(run(q, k, v, shown, bias, sinks)[:1], alone)
    order = torch.tensor([2, 0, 1])
    yield bits_equal(run(q[order], k[order], v[order], shown, bias, sinks)[1:2], alone)
    for cut in (1, 3):
        seen = k.shape[2] - q.shape[2] + cut
        part = run(
            own[0][:, :, :cut],
            *(t[:, :, :seen] for t in own[1:]),
            shown[:, :, :cut, :seen],
            bias[..., :cut, :seen],
            sinks,
        )
        yield bits_equal(part, alone[:, :, :cut])
    for before, behind in ((1, 0), (5, 0), (8, 3), (37, 0), (0, 9), (13, 70)):
        wide = [torch.nn.functional.pad(t, (0, 0, before, behind), value=3.0) for t in own[1:]]
        hidden = torch.nn.functional.pad(shown, (before, behind))
        yield bits_equal(
            run(own[0], *wide, hidden, torch.nn.functional.pad(bias, (before, behind), value=5.0), sinks), alone
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_see_what_is_around_it(dtype):
    assert all(surroundings(written_out, *tensors(5, 1100, dtype)))
    assert all(surroundings(written_out, *tensors(5, 37, dtype)))


def test_products_that_count_from_the_first_place_are_caught(monkeypatch):
    """Planted: the second product as it was, in lanes counted from where the padding begins."""
    monkeypatch.setattr(module, "bmm", lambda a, b: torch.stack([linear(x, y.t()) for x, y in zip(a, b, strict=True)]))
    assert not all(surroundings(written_out, *tensors(5, 37)))


@pytest.mark.parametrize("n", [1, 7, 16, 100, 1003])
def test_a_softmax_does_not_see_what_is_hidden_before_and_behind_its_row(n):
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(n)) * 5
    for function in (softmax, lambda x: x.log_softmax(-1)):
        with detcheck.batch_invariant():
            alone = function(x)
            for before, behind in ((1, 0), (5, 2), (16, 0), (0, 1), (0, 40), (33, 9)):
                for value in (float("-inf"), LOW):
                    wide = torch.nn.functional.pad(x, (before, behind), value=value)
                    assert bits_equal(function(wide)[:, before : before + n], alone), (before, behind)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("keys", [1, 7, 16, 37, 1100, 2100])
def test_a_product_does_not_see_zeros_before_and_behind_its_rows(keys, dtype):
    weights = torch.rand(2, 3, keys, generator=torch.Generator().manual_seed(keys)).to(dtype) + 0.01
    values = torch.randn(2, keys, 19, generator=torch.Generator().manual_seed(0)).to(dtype)
    alone = bmm(weights, values)
    torch.testing.assert_close(alone.double(), weights.double() @ values.double(), atol=0.3, rtol=2e-2)
    for before, behind in ((1, 0), (5, 0), (0, 1), (0, 9), (13, 70), (1000, 900)):
        wide = torch.nn.functional.pad(values, (0, 0, before, behind), value=3.0)
        assert bits_equal(bmm(torch.nn.functional.pad(weights, (before, behind)), wide), alone), (before, behind)


def test_a_product_whose_rows_begin_with_zeros_is_right_and_infinities_are_not_hidden():
    a = torch.randn(2, 6, 30, generator=torch.Generator().manual_seed(0))
    b = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(1))
    a = a * (torch.arange(30) >= torch.tensor([0, 3, 30, 7, 0, 3])[:, None])
    torch.testing.assert_close(bmm(a, b), a @ b)
    b[1, 2, 4] = float("inf")
    assert torch.equal(bmm(a, b).isnan(), (a @ b).isnan()) and bmm(a, b).isnan().any()
    assert bmm(a[:, :, :0], b[:, :0]).eq(0).all()


def test_what_sees_no_key_gives_zeros():
    q, k, v, shown, bias, sinks = tensors(3, 9)
    for sink in (None, sinks):
        found = written_out(q, k, v, shown & (torch.arange(3) != 1)[:, None], bias, sink)
        assert found[:, :, 1].eq(0).all() and found[:, :, ::2].ne(0).all()


def test_gradients_are_refused_in_words():
    q, k, v, shown, bias, _ = tensors(3, 9)
    with pytest.raises(NotInvariantError, match="backward pass of attention with an additive bias"):
        written_out(q.requires_grad_(), k, v, shown, bias)
    k, v = (t.repeat_interleave(2, 1) for t in (k, v))
    made = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    with detcheck.batch_invariant():
        with pytest.raises(NotInvariantError, match="backward pass of attention with an additive bias"):
            torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        with pytest.raises(NotInvariantError, match="backward pass of attention with an additive bias"):
            made.sum().backward()


@pytest.mark.parametrize("heads", [1, 4])
def test_torchs_attention_with_a_bias_runs_on_ours(heads):
    q, k, v, shown, bias, _ = tensors(5, 21)
    k, v = (t.repeat_interleave(2, 1) for t in (k, v))
    mask = bias[:, :heads].masked_fill(~shown, LOW)
    stock = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with detcheck.batch_invariant() as coverage:
        ours = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert coverage.overridden == {"aten::_scaled_dot_product_flash_attention_for_cpu": 1} and not coverage.uncovered
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)


def models():
    import transformers as tf

    small = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": 99,
        "num_attention_heads": 4,
    }
    sinks = tf.GptOssConfig(
        **small, num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=4
    )
    t5 = tf.T5Config(vocab_size=99, d_model=64, d_kv=16, d_ff=64, num_layers=2, num_heads=4)
    return {"sinks": (tf.GptOssForCausalLM, sinks), "position bias": (tf.T5EncoderModel, t5)}


@pytest.mark.parametrize("kind", ["sinks", "position bias"])
def test_models_with_sinks_and_relative_positions(kind):
    """As stock computes them, and padded as alone."""
    torch.manual_seed(0)
    made, config = models()[kind]
    model = made(config).eval()
    ids = torch.randint(5, 99, (1, 9), generator=torch.Generator().manual_seed(0))
    left = kind == "sinks"
    padding, zeros, ones = (
        torch.zeros(1, 4, dtype=torch.long),
        torch.zeros(1, 4, dtype=torch.long),
        torch.ones_like(ids),
    )
    pair = (lambda a, b: torch.cat([b, a], 1)) if left else (lambda a, b: torch.cat([a, b], 1))
    own = slice(4, None) if left else slice(0, 9)

    def result(ids, mask):
        positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if left else {}
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=mask, **positions)[0]

    stock = result(ids, ones)
    with detcheck.batch_invariant() as coverage:
        alone = result(ids, ones)
        several = result(torch.cat([ids, ids.flip(1)]), ones.repeat(2, 1))
        padded = result(pair(ids, padding), pair(ones, zeros))
    torch.testing.assert_close(alone, stock, atol=1e-4, rtol=1e-4)
    assert coverage.overridden["transformers::attention"] == 6 and not coverage.uncovered
    assert bits_equal(several[:1], alone) and bits_equal(padded[:, own], alone)


def test_the_fallback_without_a_compiler_is_right(monkeypatch):
    for name in (
        "detcheck.kernels.matmul.build",
        "detcheck.kernels.elementwise.build",
        "detcheck.kernels._shared.rowwise.build",
    ):
        monkeypatch.setattr(f"{name}.available", lambda: False)
    monkeypatch.setattr(
        matmul.fallback, "_test", lambda row, w: None
    )  # whether torch's tiles hold here is not the question
    q, k, v, shown, bias, sinks = tensors(3, 9)
    torch.testing.assert_close(
        written_out(q, k, v, shown, bias, sinks, soft_cap=2.0).double(),
        exact(q, k, v, shown, bias, sinks, 2.0),
        atol=1e-5,
        rtol=1e-5,
    )


def test_a_position_bias_is_cut_with_the_keys_of_a_static_cache():
    """A prompt that begins one: no mask, more keys than queries, and the bias as wide as the cache."""
    from detcheck.kernels.attention.hugging_face import transformers_attention

    q, k, v, _, bias, _ = tensors(5, 21)
    module = torch.nn.Module()
    whole, _ = transformers_attention(module, q, k, v, None, position_bias=bias, is_causal=True)
    own, _ = transformers_attention(
        module, q, k[:, :, :5], v[:, :, :5], None, position_bias=bias[..., :5], is_causal=True
    )
    assert bits_equal(whole, own)
