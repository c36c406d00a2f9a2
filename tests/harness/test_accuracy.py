"""How wrong a result may be: the bound holds for what is sound, and what no rounding explains is beyond it."""

import math

import inaccurate
import pytest
import torch

from detcheck import lookup, runner
from detcheck.harness import accuracy
from detcheck.op import Op
from detcheck.probes.kernels.options import Options
from detcheck.spec import Kernels, Spec
from detcheck.verdict import Role, Verdict

ROWS = 32
DTYPES = ("float32", "bfloat16", "float16", "float64")
SOUND = "sound"
FAULTS = [key for key in inaccurate.FAULTS if key[1] != SOUND]


@pytest.fixture(scope="module")
def exact():
    """(op, dtype) -> what float64 makes of its inputs, as they are and with a heavy tail."""
    made = {}

    def of(name, dtype):
        if (name, dtype) not in made:
            arguments = inaccurate.MAKE[name](ROWS, getattr(torch, dtype), 0)
            batched = range(len(arguments))
            kinds = arguments, accuracy.tail_heavy(arguments, batched)
            made[name, dtype] = [accuracy.Exact.of(inaccurate.FAULTS[name, SOUND], kind, batched) for kind in kinds]
        return made[name, dtype]

    return of


def times_allowed(run, exact, roundings=1.0):
    shares = []
    for kind in exact:
        output = run(*kind.arguments)
        shares.append(kind.error(output, kind.allowed(output.dtype, roundings), range(ROWS))[1])
    return max(shares)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", inaccurate.OPS)
def test_what_is_sound_is_within(name, dtype, exact):
    assert times_allowed(inaccurate.FAULTS[name, SOUND], exact(name, dtype)) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda key: "-".join(key))
def test_what_no_rounding_explains_is_beyond(fault, dtype, exact):
    assert times_allowed(inaccurate.FAULTS[fault], exact(fault[0], dtype)) > 1.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_bundled_ones_are_within(dtype):
    for name in lookup.names("kernels"):
        op = lookup.find("kernels", name).OP
        for shape in op.shapes if op.batch_invariant else ():
            arguments = op.make(shape, ROWS, getattr(torch, dtype), 1)
            kinds = arguments, accuracy.tail_heavy(arguments, op.batched)
            exact = [accuracy.Exact.of(op.reference, kind, op.batched) for kind in kinds]
            assert times_allowed(op.batch_invariant, exact, op.roundings) <= 1, (name, shape)


MODULE = """
import inaccurate
op, reference, make_inputs = inaccurate.FAULTS[{fault!r}], inaccurate.FAULTS[{name!r}, "sound"], inaccurate.MAKE[{name!r}]
BATCHED = (0,)
"""


@pytest.mark.parametrize(
    "fault", [("mean", SOUND), ("mean", "tail left out"), ("rmsnorm", "bfloat16 sums"), ("softmax", "scale")]
)
def test_a_users_op_is_measured_by_the_same(fault, detcheck, tmp_path):
    module = "theirs_" + "_".join(fault).replace(" ", "_")
    (tmp_path / f"{module}.py").write_text(MODULE.format(fault=fault, name=fault[0]))
    dtypes = "float32,bfloat16,float16"
    result = detcheck("kernels", "--op", f"{module}:op", "--dtype", dtypes, "--batch-sizes", "1,4", "-q")
    wrong = result.out.count("the result is wrong: its error against float64, ")
    assert (result.code, wrong) == ((0, 0) if fault[1] == SOUND else (1, 3)), result.out


@pytest.mark.parametrize("fault", [("rmsnorm", SOUND), ("rmsnorm", "tail left out"), ("matmul", "bfloat16 sums")])
def test_a_bundled_op_is_measured_by_the_same(fault, tmp_path, monkeypatch):
    name = fault[0]
    sound, ours = inaccurate.FAULTS[name, SOUND], inaccurate.FAULTS[fault]
    op = Op(name, ("4096",), lambda shape, *how: inaccurate.MAKE[name](*how), sound, sound, ours)
    monkeypatch.setattr("detcheck.probes.kernels.options.bundled", lambda name: [op])
    spec = Spec("kernels", Options(name), batch_sizes=(1, 4), dtype="float32,bfloat16", kernels=Kernels.BOTH)
    ours = [f for f in runner.run(spec, tmp_path / "runs").findings if f.role is Role.GATES]
    expected = Verdict.IDENTICAL if fault[1] == SOUND else Verdict.INACCURATE
    assert [f.verdict for f in ours] == [expected] * 2, [f.note for f in ours]
    assert all((f.metrics["error_share"] > 1) == (fault[1] != SOUND) for f in ours)
    assert all(f.metrics["error_stock"] < 0.01 for f in ours)  # shown, and no part of the rule


def test_the_sensitivity_is_the_norm_of_what_each_input_adds():
    """Of a product: the terms' L2 norm, sqrt(2) of it where both factors move."""
    x, w = torch.randn(4, 1000, dtype=torch.float64), torch.randn(6, 1000, dtype=torch.float64)
    found = accuracy.sensitivity(lambda x, w: x @ w.t(), (x, w), x @ w.t())
    norm = (2 * (x[:, None] * w).square().sum(-1)).sqrt()
    assert float((found / norm).min()) > 0.3 and float((found / norm).max()) < 2
    assert float((found / norm).mean()) == pytest.approx(1, abs=0.2)
    constant = torch.full((4, 3), 1 / 3, dtype=torch.float64)
    assert not accuracy.sensitivity(lambda x: constant, (x,), constant).any()


def test_a_reference_that_takes_nothing_but_its_own_inputs_is_no_failure(detcheck, tmp_path):
    """Shares that must add up to 1: neither changed at random nor with a heavy tail."""
    (tmp_path / "theirs_shares.py").write_text(
        "import torch\n"
        "def make_inputs(rows, dtype, seed):\n"
        "    return (torch.full((rows, 64), 1 / 64, dtype=dtype),)\n"
        "def reference(x):\n"
        "    if not torch.allclose(x.sum(-1), torch.ones(len(x), dtype=x.dtype), atol=1e-9):\n"
        "        raise ValueError('not shares')\n"
        "    return -(x * x.log()).sum(-1, keepdim=True)\n"
        "def op(x): return -(x.double() * x.double().log()).sum(-1, keepdim=True).to(x.dtype)\n"
        "def wrong(x): return op(x) * 1.01\n"
    )
    for op, code in (("op", 0), ("wrong", 1)):
        result = detcheck("kernels", "--op", f"theirs_shares:{op}", "--batch-sizes", "1,4", "-q")
        assert result.code == code, result.out + result.err


INNOCENT = """
import torch
def weight(n, m, dtype): return (torch.randn(n, m, generator=torch.Generator().manual_seed(5), dtype=torch.float64) / n**0.5).to(dtype)
def make_inputs(rows, dtype, seed):
    made = [torch.randn(64, generator=torch.Generator().manual_seed(seed + row)) for row in range(rows)]
    return (torch.stack(made).to(dtype),)
def by_rows(f, x): return torch.cat([f(x[i : i + 1]) for i in range(len(x))])
def product(x, w): return by_rows(lambda row: (row[:, :, None].double() * w.double()).sum(1).to(row.dtype), x)
def two(x): return product(product(x, weight(64, 64, x.dtype)), weight(64, 64, x.dtype))
def wider(x): return product(x, weight(64, 64, x.dtype)).float()
def wider_reference(x): return product(x, weight(64, 64, x.dtype))
def raised(x): return x.double().exp().to(x.dtype)
def raised_reference(x): return x.exp()
def refusing(x):
    if (x.isfinite() & (x.abs() > 20)).any(): raise ValueError("too large")
    return x * 2
def refusing_reference(x): return x * 2
def writing(x): return x * 2
def writing_reference(x):
    x *= 2
    return x
"""


@pytest.mark.parametrize("op", ["two", "wider", "raised", "refusing", "writing"])
def test_innocents_of_many_kinds_pass_in_half_precision(op, detcheck, tmp_path):
    """A rounding on the way, an output wider than its parts, inputs that it was not made for, a reference that writes into its own."""
    reference = "two" if op == "two" else f"{op}_reference"
    (tmp_path / f"theirs_innocent_{op}.py").write_text(f"{INNOCENT}\nreference = {reference}\n")
    arguments = ("--dtype", "bfloat16,float16", "--batch-sizes", "1,4,33", "-q")
    result = detcheck("kernels", "--op", f"theirs_innocent_{op}:{op}", *arguments)
    assert result.code == 0, result.out + result.err


def plain(result):
    """Of a result whose elements may each be off by 1e-3."""
    exact = accuracy.Exact.of(lambda x: x, (result,), (0,))
    return exact, torch.full_like(exact.result, 1e-3)


def test_an_error_is_told_in_units_of_its_rows_scale_and_as_a_share_of_what_is_allowed():
    result = torch.tensor([[1.0, 100.0], [1e-9, 0.0], [2.0, 80.0]], dtype=torch.float64)
    exact, limit = plain(result)
    limit[0, 1] = 50.0
    assert exact.error(result, limit, range(3)) == (0.0, 0.0)
    off = torch.tensor([[1.0, 5.0], [0, 0], [0, 0]])
    assert exact.error(result + off, limit, range(3)) == (pytest.approx(0.05), pytest.approx(1000))
    assert exact.error(result + 8e-9, limit, range(3))[0] == pytest.approx(
        1e-10
    )  # the row that cancels counts by the others
    assert exact.error(result[[2, 0]], limit, [2, 0]) == (0.0, 0.0)


def test_what_is_not_finite_or_nothing_but_zeros_is_infinitely_wrong():
    result = torch.tensor([[1.0, 100.0], [3.0, 80.0]], dtype=torch.float64)
    masked = result.clone()
    masked[0, 0] = -math.inf
    for wrong, right in (
        (torch.zeros_like(result), result),
        (result, masked),
        (-masked, masked),
        (result[:, :1], result),
    ):
        assert plain(right)[0].error(wrong, plain(right)[1], range(2))[0] == math.inf
    assert plain(masked)[0].error(masked, plain(masked)[1], range(2))[0] == 0.0


def test_a_reference_that_rounds_between_its_steps_widens_the_bound_by_as_much():
    x = torch.randn(ROWS, 300).bfloat16()
    once = accuracy.Exact.of(lambda x: x.sigmoid() * x, (x,), (0,))
    assert accuracy.roundings((x.float().sigmoid() * x.float()).bfloat16(), once) == 1.0
    twice = accuracy.roundings(x.sigmoid() * x, once)
    assert 2 < twice <= 4 and times_allowed(lambda x: x.sigmoid() * x, [once]) > 1
    assert times_allowed(lambda x: x.sigmoid() * x, [once], twice) <= 1
    assert accuracy.roundings(torch.zeros_like(x), once) == 4.0
