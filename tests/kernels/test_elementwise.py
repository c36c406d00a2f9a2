"""Functions of one number: an element's bits follow its value alone, and are those of the function in float64, rounded."""

import pytest
import torch

import detcheck
from detcheck import stock_ops
from detcheck.kernels import elementwise
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.op import every

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CALLS = {name: getattr(torch, name) for name in elementwise.UNARY} | {
    "pow.Tensor_Tensor": lambda x: x.abs().pow(x),
    "pow.Scalar": lambda x: torch.pow(3.75, x),
    "elu": torch.nn.functional.elu,
    "selu": torch.selu,
    "celu": lambda x: torch.celu(x, 0.7),
    "mish": torch.nn.functional.mish,
    "log_sigmoid_forward": torch.nn.functional.logsigmoid,
    "glu": lambda x: torch.nn.functional.glu(torch.stack([x, -x]), 0)[0],
}
EXPONENTS = (2, 3, 1, 0.5, -0.5, -1, -2, 4, 1.7, -3)
CALLS |= {f"pow {e}": lambda x, e=e: x.abs().pow(e) for e in EXPONENTS}
LOGARITHMIC = ("log", "log2", "log10", "log1p", "acosh", "rsqrt", "sqrt")
BOUNDED = ("asin", "acos", "atanh")


def numbers(name, n=1003):
    x = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    return x.abs() + 1.01 if name in LOGARITHMIC else x / x.abs().max() * 0.99 if name in BOUNDED else x


def pieces(call, x):
    """The call on parts of x of many lengths and places, on every second place, on a transposed and on a repeated x; and what they are of it."""
    for length in (1, 2, 3, 7, 8, 9, 15, 17, 33, 1000):
        for begin in (0, 1, 3):
            part = slice(begin, begin + length)
            yield call(x[part]), part
            yield call(x[part].clone()), part
    yield call(torch.stack([x, x], 1)[:, 0]), slice(None)
    yield call(x.expand(3, -1).t())[:, 1], slice(None)
    yield call(x.repeat(40)).view(40, -1)[-1], slice(None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_an_element_has_the_same_bits_in_every_place(name, dtype):
    x = numbers(name).to(dtype)
    with detcheck.batch_invariant() as coverage:
        whole = CALLS[name](x)
        unlike = [part for found, part in pieces(CALLS[name], x) if not bits_equal(found, whole[part])]
    if name != "glu" or dtype != torch.float64:  # a sigmoid in float64 is stock, and is counted
        assert not unlike and not coverage.uncovered and coverage.overridden
    exact = CALLS[name](x.double())
    off = (whole.double() - exact).abs() / exact.abs().clamp(min=torch.finfo(dtype).tiny)
    steps = 3 if name in ("glu", "pow 3", "pow -2") else 1  # roundings
    assert float(off.nan_to_num(0, 0).max()) <= steps * torch.finfo(dtype).eps * (0.6 if dtype != torch.float64 else 8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_root_is_rounded_as_ieee_754_says_on_every_processor(dtype):
    """torch's own, MKL's in float32, is another number for one element in six on an AMD of Zen 4."""
    x = numbers("sqrt", 20_001).to(dtype)
    with detcheck.batch_invariant():
        assert torch.equal(x.sqrt(), x.double().sqrt().to(dtype)) and torch.equal(x.pow(0.5), x.sqrt())


def test_a_program_of_its_own_for_the_tail_is_seen():
    """Planted: what does not fill a vector of 8 is computed otherwise."""

    def planted(x):
        whole = x.contiguous().tanh()
        tail = len(x) // 8 * 8
        return torch.cat([whole[:tail], whole[tail:].nextafter(whole[tail:] + 1)])

    x = numbers("tanh").float()
    whole = planted(x)
    assert any(not bits_equal(found, whole[part]) for found, part in pieces(planted, x))


def test_layout_and_gradients_are_torchs():
    x = (torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1).requires_grad_()

    def results():
        made = [call(x.transpose(0, 2)) for name, call in CALLS.items() if name not in (*BOUNDED, "acosh")]
        (gradient,) = torch.autograd.grad(sum(each.sum() for each in made), x)
        return [each.detach() for each in made], gradient

    stock, expected = results()
    with detcheck.batch_invariant():
        ours, found = results()
    for name, a, b in zip([n for n in CALLS if n not in (*BOUNDED, "acosh")], ours, stock, strict=True):
        torch.testing.assert_close(a, b)
        assert a.stride() == b.stride() or name not in elementwise.UNARY, name
    torch.testing.assert_close(found, expected)


def test_edges_are_torchs():
    x = torch.tensor([0.0, -0.0, 1, -1, float("inf"), -float("inf"), float("nan"), 1e-40, 100, -100])
    calls = CALLS | {f"signed pow {e}": lambda x, e=e: x.pow(e) for e in EXPONENTS}
    stock = {name: call(x) for name, call in calls.items()}
    with detcheck.batch_invariant():
        for name, call in calls.items():
            torch.testing.assert_close(call(x), stock[name], equal_nan=True, msg=name)
            assert call(x[:0]).shape == (0,) and call(x[2]).shape == ()


def test_numbers_that_stand_for_tensors_are_taken_by_stock_too():
    x = torch.rand(5) + 0.5
    stock = torch.xlogy(2.0, x), torch.xlogy(x, 2), torch.float_power(x, 2.5)
    with detcheck.batch_invariant() as coverage:
        ours = torch.xlogy(2.0, x), torch.xlogy(x, 2), torch.float_power(x, 2.5)
    assert coverage.uncovered == {"aten::xlogy.Tensor": 2} and coverage.overridden
    for a, b in zip(ours, stock, strict=True):
        torch.testing.assert_close(a, b)
        assert a.dtype == b.dtype


def test_integers_become_floats_and_powers_of_integers_stay_torchs():
    n = torch.arange(1, 5)
    with detcheck.batch_invariant() as coverage:
        assert n.exp().dtype == torch.float32 and (n**0.3).dtype == torch.float32
        assert torch.pow(n.float(), n).dtype == torch.float32
        assert torch.equal(n**2, n * n) and torch.equal(2**n, torch.tensor([2, 4, 8, 16]))
        with pytest.raises(RuntimeError, match="can't be cast"):
            n.exp_()
    assert coverage.overridden == {"aten::exp": 1, "aten::pow.Tensor_Scalar": 1, "aten::pow.Tensor_Tensor": 1}


OURS = {name for known in every() for name in known.aten}


@pytest.mark.parametrize("name", [name for name in stock_ops.ON_A_CPU if name not in OURS])
def test_what_is_not_ours_and_is_computed_element_by_element_is_counted(name):
    """By kind, whatever this processor makes of it. Backward passes by way of their own call."""
    base, _, overload = name.partition(".")
    op = getattr(getattr(torch.ops.aten, base), overload or "default")
    x = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    given = {
        "n": 2,
        "dim": 1,
        "alpha": 1.0,
        "scale": 1.0,
        "input_scale": 1.0,
        "is_result": False,
        "beta": 1,
        "threshold": 20,
    }
    required = [a for a in op._schema.arguments if not a.has_default_value() and not a.kwarg_only]
    values = [given.get(a.name, 0.5 if a.type.kind() == "NumberType" else x) for a in required]
    if name == "glu_backward":
        values[0] = x[:, :4]
        values[1] = x[:, :8]
    if name == "polygamma":
        values = [2, x]
    with detcheck.batch_invariant() as coverage:
        op(*values)
    assert coverage.uncovered == {f"aten::{name}": 1}
    assert coverage.alike | coverage.unlike == {f"aten::{name}": 1} or name == "polygamma"
