"""Our kernels on a real device: the same bits of a row whatever is in its batch, over numbers of rows and lengths of keys, and as
right as rounding allows. Skipped where there is no GPU; what is tested without one is in tests/kernels/test_triton.py and test_triton_tiles.py.
"""

import pytest
import torch

from detcheck.harness import accuracy
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.kernels._triton import launch
from detcheck.kernels.attention import attention, causal, paged_attention
from detcheck.kernels.matmul import bmm, linear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device here"),
]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
FEW = 8  # rows that are compared with float64
ROWS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000)


def normal(*size, dtype=torch.float32, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype).cuda()


def share_of_bound(out, reference, arguments, batched=(0,), roundings=1):
    """The error of the first rows, by what the lengths of its sums allow (harness/accuracy.py): at most 1 where it is right."""
    few = tuple(t[:FEW].cpu() if n in batched else t.cpu() for n, t in enumerate(arguments))
    exact = accuracy.Exact.of(reference, few, batched)
    allowed = exact.allowed(out.dtype, roundings)
    return exact.error(out[:FEW].cpu(), allowed, range(len(exact.result)))[1]


@DTYPES
@pytest.mark.parametrize(("n", "k"), [(67, 100), (1024, 1024), (4096, 4096), (32000, 2048)])
def test_matmul(n, k, dtype):
    x, w, bias = normal(1025, k, dtype=dtype), normal(n, k, dtype=dtype, seed=1), normal(n, dtype=dtype, seed=2)
    whole = linear(x, w, bias)
    assert share_of_bound(whole, lambda x, w, bias: x @ w.t() + bias, (x, w, bias)) <= 1
    for m in ROWS:
        assert bits_equal(linear(x[:m], w, bias).cpu(), whole[:m].cpu()), m
    for place in (1, 63, 64, 700, 1024):
        assert bits_equal(linear(x[place : place + 1], w, bias).cpu(), whole[place : place + 1].cpu()), place
    among = torch.full_like(x, torch.nan)
    among[5] = x[5]
    assert bits_equal(linear(among, w, bias)[5].cpu(), whole[5].cpu())
    shifted = torch.empty(x.numel() + 1, dtype=dtype, device="cuda")[1:].view(x.shape).copy_(x)
    assert bits_equal(linear(shifted, w, bias).cpu(), whole.cpu())


@DTYPES
def test_bmm(dtype):
    a, b = normal(12, 130, 100, dtype=dtype), normal(12, 100, 77, dtype=dtype, seed=1)
    whole = bmm(a, b)
    assert share_of_bound(whole, torch.matmul, (a, b), (0, 1)) <= 1
    for m in (1, 5, 64, 65, 129):
        assert bits_equal(bmm(a[:, :m], b).cpu(), whole[:, :m].cpu()), m


@DTYPES
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_attention_at_one_go_in_chunks_and_token_by_token(dim, dtype):
    keys = 1100
    q, k, v = (normal(1, h, keys, dim, dtype=dtype, seed=h) for h in (8, 2, 3))
    v = v[:, :2]
    whole = attention(q, k, v)

    def exact(q, k, v):
        k, v = (t.repeat_interleave(4, 1) for t in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    assert share_of_bound(whole, exact, (q, k, v), (0, 1, 2), roundings=2) <= 1
    for begin, end in [(0, 512), (512, 1100), (1000, 1001), (255, 256), (256, 257), (257, 258), (900, 1033), (1, 2)]:
        part = attention(q[:, :, begin:end], k[:, :, :end], v[:, :, :end])
        assert bits_equal(part.cpu(), whole[:, :, begin:end].cpu()), (begin, end)
    many = [t.expand(33, *t.shape[1:]) for t in (q[:, :, -1:], k, v)]
    assert bits_equal(attention(*many)[17].cpu(), whole[0, :, -1:].cpu())


@DTYPES
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_split_and_one_go_are_the_same_bits(dim, dtype):
    from detcheck.kernels._triton import attention_launch

    for keys in (1, 255, 256, 257, 1000, 4097):
        q, k, v = (normal(3, h, s, dim, dtype=dtype, seed=s) for h, s in ((8, 2), (2, keys), (2, keys)))
        low, high = causal(3, 2, keys, device=q.device)
        at_one_go, split = (attention_launch.dense(q, k, v, low, high, dim**-0.5, split=s) for s in (False, True))
        assert bits_equal(at_one_go.cpu(), split.cpu()), keys


@DTYPES
@pytest.mark.parametrize("window", [None, 300])
def test_paged_attention_is_the_dense_one_whoever_else_is_there(window, dtype):
    from detcheck.kernels._triton import attention_launch

    lengths, counts, size, dim = [700, 1, 257, 1024, 90], [1, 1, 200, 1024, 3], 16, 128
    blocks = [-(-n // size) for n in lengths]
    keys, values = (normal(sum(blocks) + 3, 2, size, dim, dtype=dtype, seed=s) for s in (1, 2))
    order = torch.randperm(sum(blocks), generator=torch.Generator().manual_seed(0)).int()
    table = torch.zeros(5, max(blocks), dtype=torch.int32)
    for row, part in zip(table, order.split(blocks), strict=True):
        row[: len(part)] = part
    q = normal(sum(counts), 8, dim, dtype=dtype, seed=3)
    start = torch.tensor([0, *counts]).cumsum(0).int()
    given = table.cuda(), start.cuda(), torch.tensor(lengths).int().cuda()
    out = paged_attention(q, keys, values, *given, window=window)
    for r, part in enumerate(out.split(counts)):
        own = table[r, : blocks[r]].long().cuda()
        k, v = (t[own].transpose(0, 1).flatten(1, 2)[None, :, : lengths[r]] for t in (keys, values))
        queries = q.split(counts)[r].transpose(0, 1)[None]
        low, high = causal(1, counts[r], lengths[r], window, q.device)
        first = torch.zeros(1, dtype=torch.int32, device="cuda")
        alone = attention_launch.dense(queries, k, v, low, high, dim**-0.5, first=first)[0].transpose(0, 1)
        assert bits_equal(alone.cpu(), part.cpu()), r


@pytest.mark.parametrize("name", ["rmsnorm", "softmax", "log_softmax", "mean", "silu_mul", "gelu_mul"])
@DTYPES
def test_row_ops(name, dtype):
    from detcheck import lookup

    op = lookup.find("kernels", name).OP
    for shape in ("67", "4096", "32000"):
        arguments = [t.cuda() for t in op.make(shape, 257, dtype, 0)]
        whole = op.batch_invariant(*arguments)
        assert share_of_bound(whole, op.reference, arguments, op.batched, op.roundings) <= 1
        for m in ROWS:
            part = [t[:m] if i in op.batched else t for i, t in enumerate(arguments)]
            assert bits_equal(op.batch_invariant(*part).cpu(), whole[:m].cpu()), (shape, m)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_tiles_by_rows_give_the_defining_bits(dtype):
    """Those of the table: where one does not, the launcher does without it, and this says which."""
    from detcheck.kernels._triton import matmul as m
    from detcheck.kernels._triton import tiles

    target, (n, k) = launch.target_of_device(), (4096, 4096)
    defining = m.tile(n, launch.TYPES[str(dtype)[6:]], target)
    for rows, _, tile in tiles.BY_ROWS.get(launch.family(target), ()):
        multiply = lambda x, w, chosen: m.matmul(x, w, None, chosen)  # noqa: E731
        assert tiles.agree(tile, defining, n, k, dtype, torch.device("cuda"), multiply), (rows, tile)


@DTYPES
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_the_launcher_may_split(dim, dtype):
    from detcheck.kernels._triton import attention_launch

    q = torch.empty(1, 8, 1, dim, dtype=dtype, device="cuda")
    assert all(
        attention_launch.splits_agree(q, 4, 2, cap, page, window)
        for cap in (False, True)
        for page, window in ((0, 0), (16, 0), (16, 300))
    )


def test_captured_into_a_graph():
    """Every launcher that decode needs, replayed on other inputs: the bits of a plain call."""
    from detcheck.kernels.rmsnorm import OP as RMSNORM

    x, w = normal(16, 1024, dtype=torch.bfloat16), normal(2048, 1024, dtype=torch.bfloat16, seed=1)
    other, weight = normal(16, 1024, dtype=torch.bfloat16, seed=2), normal(1024, dtype=torch.bfloat16, seed=3)
    keys, values = (normal(9, 2, 16, 128, dtype=torch.bfloat16, seed=s) for s in (4, 5))
    table = torch.arange(8, device="cuda", dtype=torch.int32).view(2, 4)
    start, lengths = torch.tensor([0, 1, 2], device="cuda").int(), torch.tensor([50, 64], device="cuda").int()

    def run(x):
        y = linear(RMSNORM.batch_invariant(x, weight), w)
        return paged_attention(
            y.view(-1, 8, 128)[:2].contiguous(), keys, values, table, start, lengths, longest=(1, 64)
        )

    with torch.inference_mode():
        run(x), run(other)
        plain, still = run(other), x.clone()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = run(still)
        still.copy_(other)
        graph.replay()
        assert bits_equal(out.cpu(), plain.cpu())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_descriptors_and_pointers_agree(dtype, monkeypatch):
    """Where there are no descriptors it is pointers twice."""
    from detcheck.kernels._triton import matmul as m

    x, w = normal(200, 2056, dtype=dtype), normal(260, 2056, dtype=dtype, seed=1)
    whole = m.matmul(x, w, None).cpu()
    monkeypatch.setattr(m, "descriptors", lambda *_: False)
    assert bits_equal(m.matmul(x, w, None).cpu(), whole)


def test_numbers_of_rows_bring_no_binaries_but_their_tiles():
    from detcheck.kernels._triton import matmul as triton_matmul

    w = normal(512, 512, dtype=torch.bfloat16)
    found = []
    for _ in range(2):
        for m in ROWS:
            linear(normal(m, 512, dtype=torch.bfloat16), w)
        found.append(len(triton_matmul.matmul_kernel.device_caches[torch.cuda.current_device()][0]))
    assert found[0] == found[1]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device here")
def test_another_device_than_the_current_one():
    x, w = normal(5, 256, dtype=torch.bfloat16), normal(64, 256, dtype=torch.bfloat16, seed=1)
    there = linear(x.to("cuda:1"), w.to("cuda:1"))
    assert there.device.index == 1 and bits_equal(there.cpu(), linear(x, w).cpu())


def test_the_switch():
    import detcheck

    x, w = normal(300, 512), normal(256, 512, seed=1)
    q, k, v = (normal(2, h, 40, 64, dtype=torch.bfloat16, seed=h) for h in (4, 5, 6))
    k, v = k[:, :4], v[:, :4]
    with torch.inference_mode(), detcheck.batch_invariant() as coverage:
        whole = torch.nn.functional.linear(x, w).log_softmax(-1)
        assert bits_equal(torch.nn.functional.linear(x[7:8], w).log_softmax(-1).cpu(), whole[7:8].cpu())
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert {"aten::mm", "aten::_log_softmax"} <= set(coverage.overridden)
    assert any("scaled_dot_product" in name for name in coverage.overridden)
