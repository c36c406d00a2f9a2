"""Compiling: once, in the cache, for several processes at once, without a cache, without a compiler, and beyond 2**31 elements."""

import ctypes
import os
import subprocess
import sys
import tempfile

import pytest
import torch
import warm
from torch.nn.functional import linear

from detcheck.kernels import matmul
from detcheck.kernels._cpu import build, fallback
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.op import NotInvariantError

CODE = """
import torch
from detcheck import lookup
from detcheck.kernels._cpu import build
from detcheck.kernels._cpu.fallback import bits_equal
print(build.description())
for name in NAMES or lookup.names("kernels"):
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
import detcheck
x = torch.randn(3, 4)
if NAMES:
    raise SystemExit
with detcheck.batch_invariant() as coverage:  # what ours call of torch's is torch's
    within = (x @ x.t()).softmax(-1), torch.nn.functional.layer_norm(x, (4,)), x.sum(0), x.cumsum(1)
assert len(coverage.overridden) == 5 and not coverage.uncovered, coverage
"""


def run(*names, **environment):
    """These ops, or all. In an environment that asks for no level, whatever this one does: without a compiler there is none."""
    plain = {name: value for name, value in os.environ.items() if name != build.VARIABLE}
    code = f"NAMES = {names}" + CODE
    return warm.run([sys.executable, "-c", code], capture_output=True, text=True, env=plain | environment)


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
    code = "from detcheck.kernels._cpu import build; build.library('matmul'); print(build.available())"
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [p.communicate(timeout=120)[0].strip() for p in both] == ["True", "True"]
    assert len(list((tmp_path / "kernels").iterdir())) == 1  # nothing half-made is left


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("matmul", "mean", DETCHECK_CACHE=str(tmp_path / "file"))
    assert done.returncode == 0 and done.stdout.startswith("native"), done.stderr


def test_the_fallback_refuses_a_tile_that_is_not_invariant(monkeypatch):
    """A torch whose matmul treats one row of a tile otherwise."""
    real = torch.Tensor.__matmul__

    def guilty(a, b):
        out = real(a, b)
        if len(a) == fallback.TILE:
            out[7] += 1e-3
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", guilty)
    monkeypatch.setattr(fallback, "_passed", set())
    with pytest.raises(NotInvariantError, match=r"row 7 of a tile differs.*Install a C\+\+ compiler"):
        fallback.matmul(torch.randn(3, 24), torch.randn(5, 24))


OUTPUTS = """
import hashlib, torch
from detcheck import lookup
from detcheck.kernels._cpu import build
from detcheck.kernels.matmul import Packed, linear
made = {}
for name in lookup.names("kernels"):
    op = lookup.find("kernels", name).OP
    for dtype in (torch.float32, torch.bfloat16, torch.float16) if op.batch_invariant else ():
        for shape in op.shapes:
            made[name, shape, dtype] = op.batch_invariant(*op.make(shape, 5, dtype, 0))
generator = torch.Generator().manual_seed(1)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for n, k in ((70, 1091), (12, 4200), (1, 31), (257, 64)):
        for scale in (1.0, 1e-19):  # products below the normal numbers of float32
            x = (torch.randn(37, k, generator=generator) * scale).to(dtype)
            w, bias = (torch.randn(n, k, generator=generator) * scale).to(dtype), torch.randn(n, generator=generator).to(dtype)
            for rows in (1, 2, 11, 37):
                plain, packed = linear(x[:rows], w, bias * scale), linear(x[:rows], Packed(w), bias * scale)
                assert torch.equal(plain.view(torch.uint8), packed.view(torch.uint8)), (dtype, n, k, rows)
                made["linear", n, k, rows, scale, dtype] = plain
for key, value in made.items():
    print(*key, hashlib.sha256(value.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest())
"""


def outputs(level):
    done = warm.run(
        [sys.executable, "-c", OUTPUTS], capture_output=True, text=True, env=os.environ | {build.VARIABLE: level}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bits_do_not_depend_on_the_instruction_set():
    """Every op, at every level that this machine can run and that has the same order: AVX2, AVX-512, and its bfloat16."""
    here = [v for v in build.levels() if v.needs <= build.processor_flags() and v.order == build.PAIRS]
    if len(here) < 2:
        pytest.skip(
            "this machine has one instruction set; the compiler's choices are compared below, ARM in test_aarch64.py"
        )
    first, *others = [outputs(level.name) for level in here]
    assert first.count("\n") > 100
    for other in others:
        assert other == first


def run_library(library, x, w, packed=None):
    """One product by the matmul of a library that was compiled for the test."""
    call = ctypes.CDLL(str(library)).detcheck_matmul
    call.argtypes = build.function("matmul", matmul.CALL).argtypes
    out = torch.empty(len(x), len(w), dtype=x.dtype)
    code = {torch.float32: 0, torch.bfloat16: 1}[x.dtype]
    at, row = (w.data_ptr(), w.stride(0)) if packed is None else (packed.data_ptr(), -1)
    call(x.data_ptr(), x.stride(0), at, row, code, None, out.data_ptr(), len(x), len(w), x.shape[1], 2)
    return out


def compiled(tmp_path, *flags):
    library = os.path.join(tempfile.mkdtemp(dir=tmp_path), "variant.so")
    source = build.SOURCES / "matmul.cpp"
    subprocess.run([build.compiler()[0], *build.FLAGS, *flags, "-o", library, source], check=True)
    return library


def needs(words):
    if build.compiler() is None or not {*words.split()} <= build.processor_flags():
        pytest.skip(f"needs a compiler and a processor with {words}")


def test_bits_do_not_depend_on_the_compilers_choices(tmp_path):
    """The same source tuned otherwise: the same bits."""
    needs("avx2 fma f16c")
    tuned = (["-march=haswell", "-O2"], ["-march=haswell", "-mtune=skylake", "-funroll-loops"])
    libraries = [compiled(tmp_path, *variant) for variant in tuned]
    for dtype in (torch.float32, torch.bfloat16):
        x, w = torch.randn(33, 1091).to(dtype), torch.randn(70, 1091).to(dtype)
        level = next(v for v in build.levels() if v.name == "avx2")
        expected = run_library(build.load("matmul", level)._name, x, w)
        for variant, library in zip(tuned, libraries, strict=True):
            for rows in (1, 2, 33):
                assert bits_equal(run_library(library, x[:rows], w), expected[:rows]), (dtype, variant)


def in_tiles(x, w):
    """The order of _cpu/tiles.h, by torch: blocks of 32, their even and odd elements apart, fused by way of float64."""
    short = -x.shape[1] % 32
    x, w = (torch.nn.functional.pad(t.double(), (0, short)) for t in (x, w))
    total = torch.zeros(len(x), len(w))
    for k in range(0, x.shape[1], 32):
        even, odd = torch.zeros_like(total), torch.zeros_like(total)
        for j in range(k, k + 32, 2):
            even = (even + x[:, None, j] * w[None, :, j]).float()
            odd = (odd + x[:, None, j + 1] * w[None, :, j + 1]).float()
        total = total + (even + odd)
    return total.bfloat16()


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The kernel for AMX with its instructions written in C++: no AMX needed. Where there is AMX, the processor is held against that C++."""
    needs("avx512f avx512bw avx512dq avx512vl")
    wide = next(v for v in build.levels() if v.name == "avx512")
    return compiled(tmp_path_factory.mktemp("emulated"), *wide.flags, "-DTILES_EMULATED")


@pytest.mark.parametrize(("n", "k"), [(33, 67), (130, 1091), (16, 31), (64, 640), (7, 2049)])
def test_the_order_of_tiles_whatever_the_batch_with_the_instructions_emulated(n, k, emulated):
    library = emulated
    x, w = torch.randn(61, k).bfloat16(), torch.randn(n, k).bfloat16()
    expected = in_tiles(x, w)
    panels = torch.nn.functional.pad(w, (0, -k % 32, 0, -n % 16)).unflatten(0, (-1, 16)).unflatten(2, (-1, 32))
    packed, pack = torch.empty_like(panels.transpose(1, 2).contiguous()), ctypes.CDLL(library).detcheck_pack
    pack.argtypes = build.function("pack", "piipiii", "matmul").argtypes
    pack(w.data_ptr(), k, 1, packed.data_ptr(), n, k, 2)
    assert bits_equal(packed, panels.transpose(1, 2))
    for rows in (1, 2, 15, 16, 17, 31, 33, 61):
        assert bits_equal(run_library(library, x[:rows], w), expected[:rows]), rows
        assert bits_equal(run_library(library, x[:rows], w, packed), expected[:rows]), rows


def test_the_sources_compile_for_amx(tmp_path):
    needs("avx2")
    amx = next(v for v in build.levels() if v.name == "amx")
    if subprocess.run([build.compiler()[0], *amx.flags, "-E", "-x", "c++", os.devnull], capture_output=True).returncode:
        pytest.skip("this compiler knows no AMX")
    compiled(tmp_path, *amx.flags)


def test_an_instruction_set_can_be_asked_for_and_what_is_not_there_is_refused(monkeypatch):
    here = [level.name for level in build.levels() if level.needs <= build.processor_flags()]
    for level in here:
        monkeypatch.setenv(build.VARIABLE, level)
        assert build.chosen.__wrapped__()[0].name == level
    done = subprocess.run(
        [sys.executable, "-m", "detcheck", "kernels", "--op", "mean", "-q"],
        capture_output=True, text=True, env=os.environ | {build.VARIABLE: "sse"},
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"DETCHECK_CPU=sse: the kernels can be compiled for {', '.join(here)} here" in " ".join(done.stderr.split())


def test_a_processor_that_adds_otherwise_is_not_used(tmp_path, monkeypatch):
    """Planted: an instruction that adds the even element of a pair first."""
    needs("avx512_bf16")
    monkeypatch.delenv(build.VARIABLE, raising=False)
    for file in build.SOURCES.glob("*.[ch]*"):
        text = file.read_text()
        swapped = text.replace(
            "return (v16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b)",
            "return (v16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)((u16v)a << 16 | (u16v)a >> 16), (__m512bh)((u16v)b << 16 | (u16v)b >> 16))",
        )
        assert (swapped != text) == (file.name == "micro.h")
        (tmp_path / file.name).write_text(swapped)
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    build.load.cache_clear()
    try:
        level, why = build.chosen.__wrapped__()
    finally:
        build.load.cache_clear()
    assert level.name == "avx512" and "avx512_bf16 adds in another order than expected" in why


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
