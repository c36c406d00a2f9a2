"""What samplers have as one op and trainers write out has one definition: the same bits from both."""

import pytest
import torch
from torch.nn.functional import cross_entropy

import detcheck
from detcheck import switch
from detcheck.kernels._cpu import build
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.kernels.rmsnorm import rmsnorm, written_out
from detcheck.kernels.rotary import make, rotary, rotate, stock

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(params=["compiled", "without a compiler"])
def either(request, monkeypatch):
    if request.param != "compiled":
        monkeypatch.setattr(build, "available", lambda: False)
    elif not build.available():
        pytest.skip("there is no compiler")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@DTYPES
@pytest.mark.parametrize("n", [8, 67, 1024])
def test_a_norm_is_what_models_write_out(either, n, dtype):
    x, weight = normal(33, n).to(dtype), normal(n, seed=1).to(dtype)
    wide = 1 + weight.float()  # Gemma's
    with detcheck.batch_invariant() as coverage:
        assert bits_equal(rmsnorm(x, weight), written_out(x, weight))
        assert bits_equal(rmsnorm(x.float(), wide).to(dtype), written_out(x, wide))
    assert {"aten::mean.dim", "aten::rsqrt"} <= set(coverage.overridden)
    if dtype != torch.float32:
        once = (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6) * weight.float()).to(dtype)
        assert not bits_equal(rmsnorm(x, weight), once)  # rounded once less


@DTYPES
def test_rotary_positions_are_what_models_write_out(either, dtype):
    x, cos, sin = make("3x40", 9, dtype, 0)
    assert bits_equal(rotary(x, cos, sin), stock(x, cos, sin))
    if dtype != torch.float32:
        wide = stock(x.float(), cos.float(), sin.float()).to(dtype)
        assert not bits_equal(rotary(x, cos, sin), wide)


@DTYPES
@pytest.mark.parametrize("neighbours", [False, True])
def test_part_of_a_head_is_turned_in_place_whoever_its_neighbours_are(either, dtype, neighbours):
    wide, table = normal(7, 5 * 24).to(dtype), normal(50, 12, seed=1).to(dtype)
    before, places = wide.clone(), torch.tensor([3, 3, 49, 0, 7, 8, 9])
    heads = wide[:, 24:72].view(7, 2, 24)  # as a query lies beside keys and values
    rotate(heads, places, table, neighbours)
    cos, sin = table[places][:, None].chunk(2, -1)
    own = before[:, 24:72].view(7, 2, 24)
    first, second = (own[..., 0:12:2], own[..., 1:12:2]) if neighbours else (own[..., :6], own[..., 6:12])
    turned = first * cos - second * sin, second * cos + first * sin
    expected = torch.stack(turned, -1).flatten(-2) if neighbours else torch.cat(turned, -1)
    assert bits_equal(heads[..., :12].contiguous(), expected) and bits_equal(
        heads[..., 12:].contiguous(), own[..., 12:].contiguous()
    )
    assert bits_equal(wide[:, :24], before[:, :24]) and bits_equal(wide[:, 72:], before[:, 72:])


def test_what_it_cannot_turn_is_refused_and_left_alone(either):
    x, table = normal(2, 1, 8), normal(9, 8)
    before = x.clone()
    for place in (9, -1):
        with pytest.raises(ValueError, match=f"places from 0 to 8; got {place}"):
            rotate(x, torch.tensor([0, place]), table)
    for places, other in ((torch.tensor([0.0, 1.0]), table), (torch.tensor([0, 1]), normal(9, 10))):
        with pytest.raises(ValueError, match="rotate needs x"):
            rotate(x, places, other)
    assert bits_equal(x, before)


@DTYPES
def test_a_log_softmax_is_x_less_its_logsumexp(dtype):
    x, place = (9 * normal(33, 1003)).to(dtype), torch.arange(33)
    with detcheck.batch_invariant() as coverage:
        whole = x.log_softmax(-1)
        assert bits_equal(x[5:6].log_softmax(-1), whole[5:6]) and bits_equal(x.logsumexp(-1)[5:6], x[5:6].logsumexp(-1))
        assert bits_equal(x.logsumexp(0), x.t().contiguous().logsumexp(-1))
        if dtype == torch.float32:
            assert bits_equal(whole, x - x.logsumexp(-1, keepdim=True))
            assert bits_equal(-cross_entropy(x, place, reduction="none"), whole[place, place])
    far = (whole.double() - x.double().log_softmax(-1)).abs().amax()
    assert far <= torch.finfo(dtype).eps * x.abs().amax()
    assert coverage.overridden["aten::logsumexp"] and not coverage.uncovered


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_without_a_finite_largest_are_torchs(dtype):
    low, high, none = float("-inf"), float("inf"), float("nan")
    x = torch.tensor([[low] * 3, [high, 1, 2], [none, 1, 2], [low, 1, 2]], dtype=dtype)
    expected = x.logsumexp(-1), x.float().log_softmax(-1), torch.empty(2, 0, dtype=dtype).logsumexp(-1)
    with detcheck.batch_invariant() as coverage:
        found = x.logsumexp(-1), x.float().log_softmax(-1), torch.empty(2, 0, dtype=dtype).logsumexp(-1)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    assert not coverage.uncovered


def test_torchs_own_inside_of_ours():
    x = normal(5, 67)
    with detcheck.batch_invariant() as coverage:
        with switch.torchs_own():
            x.softmax(-1)
            with switch.torchs_own():
                x.mean(-1)
            x.mean(-1)
        assert not coverage.overridden and not coverage.uncovered
        x.mean(-1)
        assert coverage.overridden == {"aten::mean.dim": 1}
