"""Attention: chunks, padding, windows, caps, groups, and lengths around the split: a position's bits are its own."""

import pytest
import torch

from detcheck.kernels._cpu import build
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.kernels.attention import attention, causal, differentiable, gradients, seen
from detcheck.op import NotInvariantError

SPLIT = 128  # _cpu/attention.cpp
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def tensors(keys, queries=None, heads=4, kv_heads=2, dim=64, batch=1, dtype=torch.float32):
    g = torch.Generator().manual_seed(keys)
    shapes = [(batch, heads, queries or keys, dim), (batch, kv_heads, keys, dim), (batch, kv_heads, keys, dim)]
    return [torch.randn(s, generator=g).to(dtype) for s in shapes]


def plain(q, k, v, low, high, cap=0.0):
    """In float64, with a mask."""
    q, k, v = q.double(), *(t.double().repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    at = torch.arange(k.shape[2])
    scores = q @ k.transpose(-1, -2) * q.shape[3] ** -0.5
    scores = cap * torch.tanh(scores / cap) if cap else scores
    visible = ((at >= low[..., None]) & (at < high[..., None]))[:, None]
    return torch.nan_to_num(scores.masked_fill(~visible, -torch.inf).softmax(-1)) @ v


@DTYPES
@pytest.mark.parametrize("keys", [1, 2, 7, SPLIT - 1, SPLIT, SPLIT + 1, 2 * SPLIT + 1, 300])
def test_prefill_chunks_and_decode_give_a_position_the_same_bits(keys, dtype):
    q, k, v = tensors(keys, dtype=dtype)
    whole = attention(q, k, v)
    for chunk in (1, 3, 16, 100):
        for begin in range(0, keys, chunk):
            end = min(keys, begin + chunk)
            part = attention(q[:, :, begin:end], k[:, :, :end], v[:, :, :end])
            assert bits_equal(part, whole[:, :, begin:end]), (chunk, begin)
            if chunk == 1 and begin > 20:
                break


@DTYPES
@pytest.mark.parametrize("window", [None, 50])
def test_padding_on_the_left_does_not_matter(window, dtype):
    q, k, v = tensors(150, dtype=dtype)
    low, high = causal(1, 150, 150, window)
    whole = attention(q, k, v, low, high)
    for padding in (1, 5, 127, 128, 131):
        padded = [torch.cat([torch.full((*t.shape[:2], padding, 64), float("nan"), dtype=dtype), t], 2) for t in (k, v)]
        assert bits_equal(attention(q, *padded, low + padding, high + padding), whole), padding


@pytest.mark.parametrize("cap", [0.0, 5.0])
@pytest.mark.parametrize("window", [None, 1, 40])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 64), (6, 2, 40), (8, 1, 128), (2, 2, 5)])
def test_it_is_right(cap, window, heads, kv_heads, dim):
    q, k, v = tensors(200, 70, heads, kv_heads, dim, batch=2)
    low, high = causal(2, 70, 200, window)
    torch.testing.assert_close(
        attention(q, k, v, low, high, soft_cap=cap).double(), plain(q, k, v, low, high, cap), atol=2e-6, rtol=2e-5
    )


def test_no_keys_give_zeros():
    q, k, v = tensors(4, 3)
    none = torch.zeros(1, 3, dtype=torch.int32)
    assert attention(q, k, v, none, none).eq(0).all()
    assert attention(q, k[:, :, :0], v[:, :, :0]).eq(0).all()


def test_keys_that_are_not_seen_are_never_touched():
    q, k, v = tensors(40)
    whole = attention(q, k, v)
    k[:, :, 30:], v[:, :, 30:] = float("nan"), float("inf")
    assert bits_equal(attention(q, k, v)[:, :, :30], whole[:, :, :30])


def test_masks_are_understood_or_refused():
    visible = torch.ones(5, 9, dtype=torch.bool).tril(4)
    low, high = seen(visible[None, None], 2, 5, 9)
    assert (low.tolist(), high.tolist()) == ([[0] * 5] * 2, [[5, 6, 7, 8, 9]] * 2)
    numbers = torch.zeros(5, 9).masked_fill(~visible, torch.finfo(torch.float32).min)
    assert [t.tolist() for t in seen(numbers[None, None], 2, 5, 9)] == [low.tolist(), high.tolist()]
    gaps = visible.clone()
    gaps[4, 2] = False
    with pytest.raises(NotInvariantError, match="gaps"):
        seen(gaps[None, None], 1, 5, 9)
    with pytest.raises(NotInvariantError, match="heads see different keys"):
        seen(torch.stack([visible, ~visible])[None], 1, 5, 9)
    with pytest.raises(NotInvariantError, match="additive bias"):
        seen(torch.randn(1, 1, 5, 9), 1, 5, 9)


def test_shapes_are_checked_in_words():
    with pytest.raises(ValueError, match=r"H a multiple of KH; got \(1, 4, 3, 8\), \(1, 3, 3, 8\)"):
        attention(torch.randn(1, 4, 3, 8), torch.randn(1, 3, 3, 8), torch.randn(1, 3, 3, 8))
    with pytest.raises(ValueError, match="H a multiple of KH"):
        attention(torch.randn(1, 4, 3, 8), torch.randn(1, 0, 3, 8), torch.randn(1, 0, 3, 8))


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("lows", "highs", "says"),
    [
        ((1, 3, 0), (1, 3, 5), r"\(2, 3\); got \(1, 3\) and \(1, 3\)"),
        ((2, 3, 0), (2, 2, 5), r"\(2, 3\); got \(2, 3\) and \(2, 2\)"),
        ((2, 3, 0), (2, 3, 6), "at most 5, the number of keys; got 0 and 6"),
        ((2, 3, -1), (2, 3, 5), "at most 5, the number of keys; got -1 and 5"),
    ],
)
def test_keys_that_are_not_there_are_neither_read_nor_written(monkeypatch, native, lows, highs, says):
    if not native:
        monkeypatch.setattr(build, "available", lambda: False)
    q, k, v = tensors(5, 3, batch=2)
    low, high = (torch.full(shape, number, dtype=torch.int32) for *shape, number in (lows, highs))
    with pytest.raises(ValueError, match=says):
        attention(q, k, v, low, high)
    with pytest.raises(ValueError, match=says):
        gradients(q, q, k, v, low, high)


def test_a_gradient_of_another_shape_is_refused():
    q, k, v = tensors(5, 3, batch=2)
    with pytest.raises(ValueError, match=r"\(2, 4, 3, 64\); got \(1, 4, 3, 64\)"):
        gradients(q[:1], q, k, v, *causal(2, 3, 5))


@pytest.mark.parametrize("cap", [0.0, 3.0])
def test_gradients(cap):
    q, k, v = (t.double().requires_grad_() for t in tensors(20, 11, 4, 2, 16, batch=2))
    low, high = causal(2, 11, 20, 7)
    grad = torch.randn(2, 4, 11, 16).double()
    exact = torch.autograd.grad(plain(q, k, v, low, high, cap), (q, k, v), grad)
    ours = gradients(grad.float(), *(t.detach().float() for t in (q, k, v)), low, high, soft_cap=cap)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_mask_that_is_written_over_is_looked_at_again(mode):
    """As a static cache does it: the same tensor, other contents, in every step."""
    from detcheck.kernels.attention import seen

    with mode():
        mask = torch.zeros(1, 1, 1, 6, dtype=torch.bool)
        for keys in range(1, 6):
            mask[..., :keys] = True
            for _ in range(2):  # layers
                low, high = seen(mask, 1, 1, 6)
                assert (low.item(), high.item()) == (0, keys)


@pytest.mark.parametrize(("dim", "own"), [(48, 16), (16, 24)])
def test_values_of_another_width_than_keys(dim, own):
    """As multi-head latent attention has them (DeepSeek)."""
    q, k, _ = tensors(150, 20, dim=dim)
    v = torch.randn(1, 2, 150, own, generator=torch.Generator().manual_seed(0))
    low, high = causal(1, 20, 150)
    whole = attention(q, k, v)
    assert whole.shape == (1, 4, 20, own) and bits_equal(
        attention(q[:, :, 7:8], k, v, low[:, 7:8], high[:, 7:8]), whole[:, :, 7:8]
    )
    torch.testing.assert_close(whole.double(), plain(q, k, v, low, high), atol=2e-6, rtol=2e-5)
    made = [t.double().requires_grad_() for t in (q, k, v)]
    grad = torch.randn(1, 4, 20, own).double()
    exact = torch.autograd.grad(plain(*made, low, high), made, grad)
    for a, b in zip(gradients(grad.float(), q, k, v, low, high), exact, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-4)


def test_a_second_derivative_is_refused():
    """Kernels that autograd does not see would leave out a part of it."""
    q, k, v = (t.requires_grad_() for t in tensors(5, 3))
    of_q, *_ = torch.autograd.grad(
        differentiable(q, k, v, *causal(1, 3, 5)).square().sum(), (q, k, v), create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        of_q.square().sum().backward()


def test_bounds_of_the_keys_are_given_together():
    q = torch.randn(1, 2, 3, 8)
    with pytest.raises(ValueError, match="low and high together, or neither"):
        attention(q, q, q, high=torch.ones(1, 3, dtype=torch.int32))
