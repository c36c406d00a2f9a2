"""Compiling: once, in the cache, for several processes at once, without a cache, without a compiler, and beyond 2**31 elements."""

import os
import subprocess
import sys
import tempfile

import pytest
import torch
from torch.nn.functional import linear

from detcheck.kernels import _fallback, _native, matmul
from detcheck.kernels._checks import NotInvariantError
from detcheck.kernels._fallback import bits_equal

CODE = """
import torch
from detcheck import lookup
from detcheck.kernels import _native
from detcheck.kernels._fallback import bits_equal
print(_native.description())
for name in lookup.names("kernels"):
    op = lookup.find("kernels", name).OP
    if op.batch_invariant is None:
        continue
    for dtype in (torch.float32, torch.bfloat16):
        arguments = op.make(op.shapes[0], 19, dtype, 0)
        whole = op.batch_invariant(*arguments)
        for rows in (1, 2, 5, 16, 17):
            part = [a[:rows] if i in op.batched else a for i, a in enumerate(arguments)]
            assert bits_equal(op.batch_invariant(*part), whole[:rows]), (name, dtype, rows)
        torch.testing.assert_close(whole.double(), op.reference(*arguments), atol=0.05, rtol=0.05)
"""


def run(**environment):
    return subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=os.environ | environment)


def test_without_a_compiler_torchs_own_in_tiles_of_fixed_size(tmp_path):
    done = run(CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch, tiles of fixed size (no C++ compiler (no-such-compiler) on the PATH)")


def test_a_compiler_that_fails_is_said(tmp_path):
    bad = tmp_path / "bad-compiler"
    bad.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo bad 1.0 && exit 0\necho 'cannot compile today' >&2; exit 1\n"
    )
    bad.chmod(0o755)
    done = run(CXX=str(bad), DETCHECK_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "torch, tiles of fixed size (bad 1.0 does not compile them: cannot compile today)" in done.stdout


def test_two_processes_at_once_share_one_cache(tmp_path):
    environment = os.environ | {"DETCHECK_CACHE": str(tmp_path)}
    code = "from detcheck.kernels import _native; _native.library('matmul'); print(_native.available())"
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [p.communicate(timeout=120)[0].strip() for p in both] == ["True", "True"]
    assert len(list((tmp_path / "kernels").iterdir())) == 1  # nothing half-made is left


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(DETCHECK_CACHE=str(tmp_path / "file"))
    assert done.returncode == 0 and done.stdout.startswith("native"), done.stderr


def test_the_fallback_refuses_a_tile_that_is_not_invariant(monkeypatch):
    """A torch whose matmul treats one row of a tile otherwise."""
    real = torch.Tensor.__matmul__

    def guilty(a, b):
        out = real(a, b)
        if len(a) == _fallback.TILE:
            out[7] += 1e-3
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", guilty)
    monkeypatch.setattr(_fallback, "_passed", set())
    with pytest.raises(NotInvariantError, match=r"row 7 of a tile differs.*Install a C\+\+ compiler"):
        _fallback.matmul(torch.randn(3, 24), torch.randn(5, 24))


def test_bits_do_not_depend_on_the_instructions_of_the_machine(tmp_path):
    """The same source compiled for plain AVX2, tuned otherwise: the same bits. So nothing is left to the compiler's choice."""
    if _native.compiler() is None or "avx2" not in _native.machine():
        pytest.skip("no compiler, or not an x86-64 machine with AVX2")
    x, w = torch.randn(33, 1091), torch.randn(70, 1091)
    expected = matmul.linear(x, w)
    flags = [f for f in _native.FLAGS if f != "-march=native"]
    for variant in (
        ["-march=haswell"],
        ["-march=haswell", "-O2"],
        ["-march=haswell", "-mtune=skylake", "-funroll-loops"],
    ):
        library = os.path.join(tempfile.mkdtemp(dir=tmp_path), "variant.so")
        source = _native.SOURCES / "_cpu_matmul.cpp"
        subprocess.run([_native.compiler()[0], *flags, *variant, "-o", library, source], check=True)
        import ctypes

        call = ctypes.CDLL(library).detcheck_matmul
        call.argtypes = _native.function("matmul", matmul.CALL).argtypes
        for rows in (1, 2, 33):
            out = torch.empty(rows, 70)
            call(x.data_ptr(), 1091, w.data_ptr(), 1091, 0, None, out.data_ptr(), rows, 70, 1091, 2)
            assert bits_equal(out, expected[:rows]), variant


@pytest.mark.parametrize("rows", [1, 2])
def test_more_elements_than_32_bits_can_count(rows):
    """A bfloat16 weight of 2**31 + 2**16 elements: the last output is right."""
    import psutil

    n, k = (1 << 15) + 1, 1 << 16
    if psutil.virtual_memory().available < 3 * n * k * 2:
        pytest.skip("needs 13 GB of free memory")
    w = torch.empty(n, k, dtype=torch.bfloat16)
    w[0], w[-1] = 1.0, 2.0
    x = torch.ones(rows, k, dtype=torch.bfloat16)
    out = matmul.linear(x, w[-1:])
    whole = matmul.linear(x, w)
    assert bits_equal(whole[:, -1:], out) and float(whole[0, -1]) == 2.0 * k and float(whole[0, 0]) == k


def test_products_of_odd_shapes_and_views():
    a, b = torch.randn(5, 96)[:, ::2], torch.randn(48, 10)[:, 3:]
    torch.testing.assert_close(matmul.mm(a, b), a @ b)
    batched = torch.randn(3, 5, 8).transpose(0, 1), torch.randn(5, 8, 6)
    torch.testing.assert_close(matmul.bmm(*batched), torch.bmm(*batched))
    x, w, bias = torch.randn(2, 3, 7), torch.randn(4, 7), torch.randn(8)[::2]
    torch.testing.assert_close(matmul.linear(x, w, bias), linear(x, w, bias))
    assert matmul.linear(torch.randn(2, 0), torch.randn(3, 0)).tolist() == [[0.0] * 3] * 2
    with pytest.raises(ValueError, match=r"linear needs x\[..., K\], w\[N, K\] and bias\[N\]; got \(2, 3\), \(4, 5\)"):
        matmul.linear(torch.randn(2, 3), torch.randn(4, 5))
    with pytest.raises(ValueError, match="bmm needs"):
        matmul.bmm(torch.randn(2, 3, 4), torch.randn(3, 4, 5))
