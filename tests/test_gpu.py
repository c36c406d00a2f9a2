"""Our kernels on a real device: the same bits of a row whatever is in its batch, over numbers of rows and lengths of keys, and as
right as stock. Skipped where there is no GPU; what is tested without one is in tests/test_triton.py.

Two figures in the kernels wait for what is shown here: SPLIT_SHOWN in _triton_attention.py names the targets on which
test_split_and_one_go_are_the_same_bits has passed, and a tile may follow the number of rows once test_tiles_agree does.
"""

import pytest
import torch

from detcheck.kernels import _triton
from detcheck.kernels._fallback import bits_equal
from detcheck.kernels.attention import attention, causal, paged_attention
from detcheck.kernels.matmul import bmm, linear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device here"),
]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
ROWS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000)


def normal(*size, dtype=torch.float32, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype).cuda()


def as_right_as(ours, stock, exact):
    """Errors against float64, ours at most stock's and a rounding."""
    scale = exact.abs().max()
    errors = [((t.double() - exact).abs().max() / scale).item() for t in (ours, stock)]
    return errors[0] <= errors[1] + 2 * torch.finfo(ours.dtype).eps


@DTYPES
@pytest.mark.parametrize(("n", "k"), [(67, 100), (1024, 1024), (4096, 4096), (32000, 2048)])
def test_matmul(n, k, dtype):
    x, w, bias = normal(1025, k, dtype=dtype), normal(n, k, dtype=dtype, seed=1), normal(n, dtype=dtype, seed=2)
    whole = linear(x, w, bias)
    stock = torch.nn.functional.linear(x, w, bias)
    assert as_right_as(whole, stock, x.double() @ w.double().t() + bias.double())
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
    assert as_right_as(whole, a @ b, a.double() @ b.double())
    for m in (1, 5, 64, 65, 129):
        assert bits_equal(bmm(a[:, :m], b).cpu(), whole[:, :m].cpu()), m


@DTYPES
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_attention_at_one_go_in_chunks_and_token_by_token(dim, dtype):
    keys = 1100
    q, k, v = (normal(1, h, keys, dim, dtype=dtype, seed=h) for h in (8, 2, 3))
    v = v[:, :2]
    whole = attention(q, k, v)
    stock = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    exact = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double().repeat_interleave(4, 1), v.double().repeat_interleave(4, 1), is_causal=True
    )
    assert as_right_as(whole, stock, exact)
    for begin, end in [(0, 512), (512, 1100), (1000, 1001), (255, 256), (256, 257), (257, 258), (900, 1033), (1, 2)]:
        part = attention(q[:, :, begin:end], k[:, :, :end], v[:, :, :end])
        assert bits_equal(part.cpu(), whole[:, :, begin:end].cpu()), (begin, end)
    many = [t.expand(33, *t.shape[1:]) for t in (q[:, :, -1:], k, v)]
    assert bits_equal(attention(*many)[17].cpu(), whole[0, :, -1:].cpu())


@DTYPES
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_split_and_one_go_are_the_same_bits(dim, dtype):
    """Where this passes, the target may be written into SPLIT_SHOWN."""
    from detcheck.kernels import _triton_attention

    for keys in (1, 255, 256, 257, 1000, 4097):
        q, k, v = (normal(3, h, s, dim, dtype=dtype, seed=s) for h, s in ((8, 2), (2, keys), (2, keys)))
        low, high = causal(3, 2, keys, device=q.device)
        at_one_go, split = (_triton_attention.dense(q, k, v, low, high, dim**-0.5, split=s) for s in (False, True))
        assert bits_equal(at_one_go.cpu(), split.cpu()), keys


@DTYPES
@pytest.mark.parametrize("window", [None, 300])
def test_paged_attention_is_the_dense_one_whoever_else_is_there(window, dtype):
    from detcheck.kernels import _triton_attention

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
        alone = _triton_attention.dense(queries, k, v, low, high, dim**-0.5, first=first)[0].transpose(0, 1)
        assert bits_equal(alone.cpu(), part.cpu()), r


@pytest.mark.parametrize("name", ["rmsnorm", "softmax", "log_softmax", "mean", "silu_mul", "gelu_mul"])
@DTYPES
def test_row_ops(name, dtype):
    from detcheck import lookup

    op = lookup.find("kernels", name).OP
    for shape in ("67", "4096", "32000"):
        arguments = [t.cuda() for t in op.make(shape, 257, dtype, 0)]
        whole = op.batch_invariant(*arguments)
        assert as_right_as(whole, op.stock(*arguments), op.reference(*arguments))
        for m in ROWS:
            part = [t[:m] if i in op.batched else t for i, t in enumerate(arguments)]
            assert bits_equal(op.batch_invariant(*part).cpu(), whole[:m].cpu()), (shape, m)


@DTYPES
def test_tiles_agree(dtype):
    """Narrow and wide tiles: where this passes on a target, its tile may follow the number of rows."""
    from detcheck.kernels import _triton_matmul as m

    x, w = normal(200, 2048, dtype=dtype), normal(256, 2048, dtype=dtype, seed=1)
    outs = []
    for sizes, warps in ((m.NARROW, 4), (m.WIDE, 8), (m.BATCHED, 4)):
        chosen = _triton.Tile({**sizes, "BLOCK_K": 32}, warps, 2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(m, "tile", lambda *_, chosen=chosen: chosen)
            outs.append(m.matmul(x, w, None).cpu())
    assert bits_equal(outs[0], outs[1]) and bits_equal(outs[0], outs[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_descriptors_and_pointers_agree(dtype, monkeypatch):
    """Where there are no descriptors it is pointers twice."""
    from detcheck.kernels import _triton_matmul as m

    x, w = normal(200, 2056, dtype=dtype), normal(260, 2056, dtype=dtype, seed=1)
    whole = m.matmul(x, w, None).cpu()
    monkeypatch.setattr(m, "descriptors", lambda *_: False)
    assert bits_equal(m.matmul(x, w, None).cpu(), whole)


def test_one_binary_serves_every_number_of_rows():
    from detcheck.kernels import _triton_matmul

    w = normal(512, 512, dtype=torch.bfloat16)
    linear(normal(1, 512, dtype=torch.bfloat16), w)
    cache = _triton_matmul.matmul_kernel.device_caches[torch.cuda.current_device()][0]
    before = len(cache)
    for m in ROWS:
        linear(normal(m, 512, dtype=torch.bfloat16), w)
    assert len(cache) == before


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
