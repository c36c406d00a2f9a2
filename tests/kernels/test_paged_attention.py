"""A paged cache: the bits of `attention` over the same keys, wherever the blocks are and whoever else is in the call."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detcheck.kernels._cpu import build
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.kernels.attention import attention, causal, paged_attention, torch_attention, write_cache
from detcheck.op import NotInvariantError

SPLIT = 128  # _cpu/attention.cpp
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
# (keys, the last of them that are queries): prefill, decode and chunks, around the split and around blocks
MIXED = [(1, 1), (300, 300), (127, 1), (128, 1), (129, 1), (400, 1), (260, 57), (16, 16), (17, 1), (50, 9), (257, 129)]


def request(keys, count, heads=4, kv_heads=2, dim=32, dtype=torch.float32, seed=0):
    """(q[H, count, D], k, v[KH, keys, D]); with another `count`, the same request at another time."""
    g = torch.Generator().manual_seed(1000 * seed + keys)
    q, k, v = (torch.randn(n, keys, dim, generator=g).to(dtype) for n in (heads, kv_heads, kv_heads))
    return q[:, keys - count :], k, v


def dense(one, window=None, cap=0.0):
    q, k, v = (t[None] for t in one)
    return attention(q, k, v, *causal(1, q.shape[2], k.shape[2], window), soft_cap=cap)[0]


def arguments(requests, size, seed=0, spare=3, padding=0):
    """Written by write_cache to blocks in any order, among blocks and, in a block, behind keys of NaN."""
    g = torch.Generator().manual_seed(seed)
    needs = [-(-k.shape[1] // size) for _, k, _ in requests]
    blocks = sum(needs) + spare
    order = torch.randperm(blocks, generator=g).to(torch.int32)
    first = requests[0][1]
    cache = torch.full((2, blocks, first.shape[0], size, first.shape[2]), torch.nan, dtype=first.dtype)
    table = torch.full((len(requests), max(needs) + 1), -1, dtype=torch.int32)
    used = 0
    for r, ((_, k, v), need) in enumerate(zip(requests, needs, strict=True)):
        table[r, :need] = order[used : used + need]
        used += need
        at = torch.arange(k.shape[1])
        slots = table[r, at // size].long() * size + at % size
        write_cache(k.transpose(0, 1), v.transpose(0, 1), *cache, slots)
    counts = torch.tensor([0] + [q.shape[1] for q, _, _ in requests])
    start = counts.cumsum(0).to(torch.int32)
    lengths = torch.tensor([k.shape[1] for _, k, _ in requests], dtype=torch.int32)
    # q as vLLM has it: a view of what the projection to q, k and v gives
    queries = torch.cat([q for q, _, _ in requests], 1).transpose(0, 1)
    tokens, heads, dim = queries.shape
    wide = torch.full((tokens + padding, heads * dim + 24), torch.nan, dtype=queries.dtype)
    view = wide[:, : heads * dim].view(-1, heads, dim)
    view[:tokens] = queries
    return view, *cache, table, start, lengths


def paged(requests, size=16, seed=0, window=None, cap=0.0):
    """One output [H, count, D] a request."""
    given = arguments(requests, size, seed)
    out = paged_attention(*given, soft_cap=cap, window=window)
    return [t.transpose(0, 1) for t in out.tensor_split(given[4][1:-1].long())]


@DTYPES
@pytest.mark.parametrize("size", [1, 7, 16, 32, 48, 128, 512])
def test_the_bits_of_the_dense_form_for_every_block_size(size, dtype):
    requests = [request(*one, dtype=dtype, seed=n) for n, one in enumerate(MIXED)]
    for one, out in zip(requests, paged(requests, size), strict=True):
        assert bits_equal(out, dense(one)), one[1].shape


@DTYPES
@pytest.mark.parametrize("cap", [0.0, 5.0])
@pytest.mark.parametrize("window", [None, 1, 40, 150])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 64), (6, 2, 40), (8, 1, 128), (14, 2, 64), (2, 2, 5)])
def test_the_bits_of_the_dense_form_with_windows_caps_and_groups(heads, kv_heads, dim, window, cap, dtype):
    """A head of 5 is not a whole number of vectors: a split's keys are copied and filled up."""
    requests = [request(*one, heads, kv_heads, dim, dtype, n) for n, one in enumerate(MIXED[2:8])]
    for size in (16, 48):
        for one, out in zip(requests, paged(requests, size, 0, window, cap), strict=True):
            assert bits_equal(out, dense(one, window, cap)), (size, one[1].shape)


@DTYPES
@pytest.mark.parametrize("window", [None, 70])
def test_neighbours_and_the_order_of_blocks_do_not_matter(window, dtype):
    subject = request(333, 40, dtype=dtype)
    (alone,) = paged([subject], window=window)
    neighbours = [request(*one, dtype=dtype, seed=n + 1) for n, one in enumerate(MIXED * 3)]
    for seed, place in enumerate((0, 1, 15, 33)):
        out = paged([*neighbours[:place], subject, *neighbours[place:]], 16, seed, window)[place]
        assert bits_equal(out, alone), place


@DTYPES
@pytest.mark.parametrize("window", [None, 70])
def test_at_one_go_in_chunks_and_token_by_token(window, dtype):
    """Into one cache, as it fills: what an engine does."""
    keys, size = 280, 16
    q, k, v = request(keys, keys, dtype=dtype)
    whole = dense((q, k, v), window)
    for chunk in (1, 3, 16, 100, 128, keys):
        cache = torch.full((2, 20, 2, size, 32), torch.nan, dtype=dtype)
        table = torch.randperm(20, generator=torch.Generator().manual_seed(chunk)).to(torch.int32)[None]
        for begin in range(0, keys, chunk):
            end = min(keys, begin + chunk)
            at = torch.arange(begin, end)
            slots = table[0, at // size].long() * size + at % size
            write_cache(k[:, begin:end].transpose(0, 1), v[:, begin:end].transpose(0, 1), *cache, slots)
            start, length = torch.tensor([0, end - begin]).int(), torch.tensor([end]).int()
            out = paged_attention(q[:, begin:end].transpose(0, 1), *cache, table, start, length, window=window)
            assert bits_equal(out.transpose(0, 1), whole[:, begin:end]), (chunk, begin)


@DTYPES
def test_the_number_of_threads_does_not_matter(dtype):
    requests = [request(*one, dtype=dtype, seed=n) for n, one in enumerate(MIXED)]
    before = torch.get_num_threads()
    try:
        outs = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            outs += [paged(requests) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    for out in outs[1:]:
        assert all(bits_equal(a, b) for a, b in zip(out, outs[0], strict=True))


@pytest.mark.parametrize("cap", [0.0, 5.0])
@pytest.mark.parametrize("window", [None, 40])
def test_it_is_right(cap, window):
    requests = [request(*one, heads=6, seed=n) for n, one in enumerate(MIXED)]
    for (q, k, v), out in zip(requests, paged(requests, 16, 0, window, cap), strict=True):
        q, k, v = q.double(), *(t.double().repeat_interleave(3, 0) for t in (k, v))
        low, high = (t[0, :, None] for t in causal(1, q.shape[1], k.shape[1], window))
        scores = q @ k.transpose(1, 2) * 32**-0.5
        scores = cap * torch.tanh(scores / cap) if cap else scores
        at = torch.arange(k.shape[1])
        exact = scores.masked_fill((at < low) | (at >= high), -torch.inf).softmax(-1) @ v
        torch.testing.assert_close(out.double(), exact, atol=2e-6, rtol=2e-5)


FAULTS = {
    "split from the sequence's first key": ("SPLIT - c % SPLIT", 150),
    "first split ends with a block": ("SPLIT - c % s.block", 150),
    "splits of whole blocks": ("SPLIT / s.block * s.block", None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_kernel_that_counts_splits_from_elsewhere_is_caught(fault, tmp_path, monkeypatch):
    """The comparisons above see where splits are counted from: the kernel, broken on purpose, is no longer equal."""
    if not build.available():
        pytest.skip("no compiler")
    length, window = FAULTS[fault]
    requests = [request(*one, seed=n) for n, one in enumerate([(400, 1), (260, 57)])]
    expected = [dense(one, window) for one in requests]
    assert all(bits_equal(*pair) for pair in zip(paged(requests, 48, 0, window), expected, strict=True))
    source = (build.SOURCES / "attention.cpp").read_text()
    for sound, broken in (
        ("for (int64_t c = lows[g]; c < last; c += SPLIT)", "for (int64_t c = lows[g], keys; c < last; c += keys)"),
        (
            "int64_t keys = std::min<int64_t>(SPLIT, last - c), parts",
            f"keys = std::min<int64_t>({length}, last - c); int64_t parts",
        ),
    ):
        assert source.count(sound) == 1
        source = source.replace(sound, broken)
    (tmp_path / "broken.cpp").write_text(source)
    flags = [*build.FLAGS, *build.chosen()[0].flags, "-O1", "-I", build.SOURCES]
    subprocess.run([build.compiler()[0], *flags, "-o", tmp_path / "broken.so", tmp_path / "broken.cpp"], check=True)
    call = ctypes.CDLL(str(tmp_path / "broken.so")).detcheck_attention
    call.argtypes, call.restype = build.function("attention", "ppppppppppiddi").argtypes, None
    real = build.function
    monkeypatch.setattr(build, "function", lambda name, *rest: call if name == "attention" else real(name, *rest))
    for out, right in zip(paged(requests, 48, 0, window), expected, strict=True):
        torch.testing.assert_close(out, right, atol=1e-5, rtol=1e-4)  # nothing but the order is wrong
        assert not bits_equal(out, right)


def test_rows_of_no_request_are_left_alone():
    requests = [request(40, 3), request(50, 1, seed=1)]
    given = arguments(requests, 16, padding=5)
    wide = torch.full((9, 4 * 32 + 8), 7.0)
    out = wide[:, : 4 * 32].view(9, 4, 32)
    assert paged_attention(*given, out=out) is out
    assert bits_equal(out[:3].transpose(0, 1), dense(requests[0])) and bits_equal(out[3], dense(requests[1])[:, 0])
    assert out[4:].eq(7).all() and wide[:, 4 * 32 :].eq(7).all()
    assert paged_attention(*given)[4:].eq(0).all()


def test_requests_without_queries_and_no_requests():
    q, keys, values, _, _, _ = arguments([request(40, 3)], 16)
    none = torch.zeros(2, dtype=torch.int32)
    table = torch.full((2, 4), -1, dtype=torch.int32)
    assert paged_attention(q, keys, values, table, torch.zeros(3).int(), none).eq(0).all()
    assert paged_attention(q, keys, values, table[:0], none[:1], none[:0]).eq(0).all()


def test_blocks_that_a_window_left_behind_are_not_looked_into():
    subject = request(333, 40)
    given = arguments([subject], 16)
    given[3][0, : (333 - 40 + 1 - 70) // 16] = -1
    assert bits_equal(paged_attention(*given, window=70).transpose(0, 1), dense(subject, 70))


def test_a_cache_of_other_strides():
    requests = [request(*one, seed=n) for n, one in enumerate(MIXED)]
    q, keys, values, *rest = arguments(requests, 16)
    whole = paged_attention(q, keys, values, *rest)
    both = torch.stack([keys, values], 3).transpose(1, 2).contiguous().transpose(1, 2)  # [blocks, KH, size, 2, D]
    assert bits_equal(paged_attention(q, both[:, :, :, 0], both[:, :, :, 1], *rest), whole)
    table = torch.stack([rest[0], rest[0]], 2)[:, :, 0]
    assert bits_equal(paged_attention(q, keys, values, table, *rest[1:]), whole)


@DTYPES
def test_write_cache_writes_its_slots_and_nothing_else(dtype):
    k, v = (torch.randn(6, 2 * 40).to(dtype).view(6, 2, 40)[:, :, :24] for _ in range(2))
    cache = torch.zeros(2, 5, 2, 16, 24, dtype=dtype)
    expected = cache.clone()
    slots = torch.tensor([79, -1, 0, 17, 16, -5])
    for t, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected[0, slot // 16, :, slot % 16], expected[1, slot // 16, :, slot % 16] = k[t], v[t]
    write_cache(k, v, *cache, slots)
    assert bits_equal(cache, expected)
    before = cache.clone()
    with pytest.raises(ValueError, match=r"slots below 5 blocks \* 16 = 80; token 3 has slot 80"):
        write_cache(k + 1, v, *cache, torch.tensor([1, 2, 3, 80, 4, 5]))
    assert bits_equal(cache, before)


def test_wrong_arguments_are_refused_in_words():
    q, keys, values, table, _, lengths = given = arguments([request(40, 3), request(50, 1)], 16)

    def refused(match, error=ValueError, **changed):
        names = ("q", "keys", "values", "block_table", "query_start", "lengths")
        with pytest.raises(error, match=match):
            paged_attention(**dict(zip(names, given, strict=True)) | changed)

    refused(r"needs q\[T, H, D\].*H a multiple of KH; got \(4, 3, 32\)", q=q[:, :3])
    refused(r"got \(4, 4, 32\), \(10, 2, 16, 24\)", keys=keys[..., :24], values=values[..., :24])
    refused(r"needs block_table\[R, B\].*got \(1, 5\), \(3,\), \(2,\)", block_table=table[:1])
    refused("needs lengths of int32 on cpu; got int64 on cpu", lengths=lengths.long())
    refused("one dtype; got bfloat16, float32", q=q.bfloat16())
    refused("float64", NotInvariantError, q=q.double(), keys=keys.double(), values=values.double())
    refused(r"last dimension is dense; got strides", keys=keys.transpose(2, 3).contiguous().transpose(2, 3))
    refused(r"out of q's shape \(4, 4, 32\); got \(3, 4, 32\)", out=torch.empty(3, 4, 32))
    refused("window of at least 1 key, or None; got 0", window=0)
    refused("request 1 has queries 3 to 5 of 4", query_start=torch.tensor([0, 3, 5]).int())
    refused("request 0 has queries 4 to 3 of 4", query_start=torch.tensor([4, 3, 4]).int())
    refused("request 0 has queries 0 to 3 of 4, 2 keys", lengths=torch.tensor([2, 50]).int())
    refused("request 1 .* 81 keys", lengths=torch.tensor([40, 81]).int())
    refused(r"request 0 .* blocks \[10, 10, 10, 10, 10\] of 16 keys, in a cache of 10", block_table=table * 0 + 10)
    with pytest.raises(ValueError, match=r"write_cache needs k and v\[T, KH, D\].*got \(4, 4, 32\)"):
        write_cache(q, q, keys, values, torch.zeros(4).long())
    with pytest.raises(ValueError, match="slots of int64 on cpu; got int32"):
        write_cache(q[:, :2], q[:, :2], keys, values, torch.zeros(4).int())


def test_without_a_compiler_the_bits_of_the_dense_fallback():
    """In a process of its own, since which kernels run is decided once. All that is said above of refusals holds there too."""
    chosen = "write_cache or wrong or left_alone or without_queries or left_behind or other_strides or in_the_fallback"
    here = Path(__file__)
    plain = {
        name: value for name, value in os.environ.items() if name != "DETCHECK_CPU"
    }  # without a compiler there is no level
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            str(here),
            "-k",
            f"({chosen}) and not compiler",
            "-p",
            "no:cacheprovider",
        ],
        capture_output=True,
        text=True,
        env=plain | {"CXX": "no-such-compiler"},
        cwd=here.parent.parent,
    )
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout


@DTYPES
@pytest.mark.parametrize("window", [None, 40])
def test_a_request_in_the_fallback_has_the_bits_of_the_dense_fallback(window, dtype, monkeypatch):
    monkeypatch.setattr(build, "available", lambda: False)
    requests = [request(*one, dtype=dtype, seed=n) for n, one in enumerate(MIXED[2:])]
    for one, out in zip(requests, paged(requests, 16, 0, window), strict=True):
        q, k, v = (t[None] for t in one)
        expected = torch_attention(q, k, v, *causal(1, q.shape[2], k.shape[2], window), 32**-0.5, 0.0)
        assert bits_equal(out, expected[0])
