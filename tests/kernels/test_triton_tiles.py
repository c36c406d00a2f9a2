"""Tiles that follow the number of rows, and attention with a program a split: only where the device gave equal bits for both."""

import interpreted
import pytest
import torch
from interpreted import interpreter  # noqa: F401
from test_paged_attention import request
from test_triton import SPLIT, benchmark, broken, dense, normal, paged, small  # noqa: F401

from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.kernels._triton import launch as triton
from detcheck.kernels._triton import tiles as triton_tiles

pytestmark = [
    pytest.mark.skipif(not triton.available(), reason="Triton is not installed: it does not exist for this platform"),
    pytest.mark.usefixtures("interpreter"),
]
BF16 = torch.bfloat16
N, K = 67, 264  # ragged; a row is a multiple of 16 bytes, so descriptors load it


@pytest.fixture(autouse=True)
def nothing_agreed(monkeypatch):
    monkeypatch.setattr(triton_tiles, "_agreed", {})


class Watched:
    """A kernel that writes down which tiles it was launched with."""

    def __init__(self, kernel):
        self.kernel, self.tiles = kernel, []

    def __getitem__(self, grid):
        def launch(*args, **constants):
            self.tiles.append((constants["BLOCK_M"], constants["BLOCK_N"], constants["SWAP"]))
            return self.kernel[grid](*args, **constants)

        return launch


def last_tiles(module, monkeypatch, rows):
    """rows -> the tile that the product itself was made with, after what was compared; and bits are those of all rows together."""
    x, w, bias = normal(300, K, dtype=BF16), normal(N, K, dtype=BF16, seed=1), normal(N, dtype=BF16, seed=2)
    whole = module.matmul(x, w, bias, module.tile(N, "bf16", "sm_90"))
    watched, found = Watched(module.matmul_kernel), {}
    monkeypatch.setattr(module, "matmul_kernel", watched)
    for m in rows:
        assert bits_equal(module.matmul(x[:m], w, bias), whole[:m]), m
        found[m] = watched.tiles[-1]
    before = len(watched.tiles)
    module.matmul(x[: rows[-1]], w, bias)
    assert len(watched.tiles) == before + 1, "what agreed once is not compared again"
    return found


def test_the_tile_follows_the_rows_with_the_same_bits(monkeypatch):
    found = last_tiles(interpreted.load("matmul"), monkeypatch, (1, 16, 17, 33, 65, 257))
    wanted = {1: (16, 32, False), 16: (16, 32, False), 17: (32, 64, True), 33: (64, 64, True), 65: (128, 64, False)}
    assert found == wanted | {257: (128, 256, False)}
    assert len(triton_tiles._agreed) == 5 and all(triton_tiles._agreed.values())


def test_a_tile_that_adds_in_another_order_is_never_used(tmp_path, monkeypatch):
    sound = "total = tl.dot(b, a.T, total) if SWAP"
    module = broken("matmul", tmp_path, (sound, "total = total + tl.dot(b, a.T, tl.zeros_like(total)) if SWAP"))
    found = last_tiles(module, monkeypatch, (17, 33, 65))
    defining = (64, 64, False)
    assert found == {17: defining, 33: defining, 65: (128, 64, False)}
    assert sorted(triton_tiles._agreed.values()) == [False, False, True]


def test_a_tile_that_the_device_cannot_run_is_never_used():
    """Too much shared memory is an error of Triton's. Where there is no memory to compare, the question stays open."""
    x, defining = normal(20, K, dtype=BF16), triton.Tile({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 128}, 4, 4)

    def fails(error):
        def multiply(a, b, tile):
            if tile is not defining:
                raise error
            return a @ b.t()

        return multiply

    no_memory = fails(torch.OutOfMemoryError("no memory"))
    assert triton_tiles.by_rows(x, N, "sm_90", defining, no_memory) is defining
    assert not triton_tiles._agreed
    assert triton_tiles.by_rows(x, N, "sm_90", defining, fails(RuntimeError("out of resource"))) is defining
    assert list(triton_tiles._agreed.values()) == [False]


def test_while_a_graph_is_captured_nothing_is_compared(monkeypatch):
    """Nothing can be looked at then: the defining tile serves, and the question stays open."""

    class OnGpu:
        is_cuda, device, dtype, shape = True, "cuda:0", BF16, (8, K)

        def __len__(self):
            return 8

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    defining = triton.Tile({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 128}, 4, 4)
    assert triton_tiles.by_rows(OnGpu(), N, "sm_90", defining, None) is defining
    assert not triton_tiles._agreed


@pytest.mark.parametrize(("target", "there"), [("sm_90", True), ("sm_100", True), ("sm_80", False), ("gfx942", False)])
def test_targets_without_a_table_keep_one_tile(target, there):
    for m in (1, 20, 50, 200, 5000):
        assert (triton_tiles.candidate(m, 4096, target) is not None) == there
        if there:
            assert triton_tiles.candidate(m, 4096, target).sizes["BLOCK_M"] >= min(m, 16)


@pytest.mark.parametrize("dtype", [BF16, torch.float16], ids=["bf16", "fp16"])
def test_the_data_tells_orders_apart(dtype):
    """Every kind of it: the same products, added in two halves."""
    for x, w in triton_tiles.telling(5, 7, K, dtype, torch.device("cpu")):
        assert x.isfinite().all() and w.isfinite().all()
        products = x.float()[:, None] * w.float()[None]
        plain, halves = torch.zeros(5, 7), torch.zeros(2, 5, 7)
        for k in range(K):
            plain = plain + products[..., k]
            halves[k * 2 // K] = halves[k * 2 // K] + products[..., k]
        assert plain.isfinite().all() and not bits_equal(plain, halves[0] + halves[1])
    assert not bits_equal(plain.to(dtype), (halves[0] + halves[1]).to(dtype)), (
        "the last kind shows it in half precision too"
    )


def of_few_queries(module, monkeypatch):
    """(bits at one go, bits as the launcher chooses, whether it took splits) of one query over many keys."""
    monkeypatch.setattr(module, "processors", lambda: 1000)
    module.attention_splits.MANY = 6  # the interpreter is slow
    q, k, v = request(5 * SPLIT, 1, 2, 1, 16, BF16)
    at_one_go = dense(module, (q, k, v), split=False)
    taken, merge = [], module.merge_kernel

    class Seen:
        arg_names = merge.arg_names

        def __getitem__(self, grid):
            taken.append(grid)
            return merge[grid]

    monkeypatch.setattr(module, "merge_kernel", Seen())
    chosen = dense(module, (q, k, v))
    compared, again = len(taken), dense(module, (q, k, v))
    assert bits_equal(chosen, again)
    return at_one_go, chosen, len(taken) > compared


def test_few_queries_take_a_program_a_split(monkeypatch):
    module = small(interpreted.load("attention"))
    at_one_go, chosen, split = of_few_queries(module, monkeypatch)
    assert split and bits_equal(at_one_go, chosen) and list(module.attention_splits._agreed.values()) == [True]


@pytest.mark.parametrize(
    ("sound", "wrong"),
    [("tl.where(sees[:, None], output_s, 0.0)", "tl.where(sees[:, None], output_s * 1.0000001, 0.0)"),
     ("most_s, total_s, tl.where", "most_s, total_s * 1.0001, tl.where")],
    ids=["values", "sum of weights"],
)  # fmt: skip
def test_splits_that_are_merged_otherwise_are_never_taken(sound, wrong, tmp_path, monkeypatch):
    """In the last bit of float32, that the results' half precision mostly hides."""
    module = small(broken("attention", tmp_path, (sound, wrong)))
    at_one_go, chosen, split = of_few_queries(module, monkeypatch)
    assert not split and bits_equal(at_one_go, chosen) and list(module.attention_splits._agreed.values()) == [False]


@pytest.mark.parametrize(("page", "window", "cap"), [(8, None, 0.0), (8, 40, 2.0), (0, 1, 0.0)])
def test_each_kind_of_attention_is_asked_for_itself(page, window, cap, monkeypatch):
    """A cache in blocks, a window and a soft cap are other binaries: what agreed without them says nothing of them."""
    module = small(interpreted.load("attention"))
    monkeypatch.setattr(module, "processors", lambda: 1000)
    module.attention_splits.MANY = 3
    q, k, v = request(3 * SPLIT, 1, 2, 1, 16, BF16)
    if page:
        one_go, chosen = (paged(module, [(q, k, v)], page, window, cap, split=split)[0] for split in (False, None))
    else:
        first = torch.zeros(1, dtype=torch.int32)
        one_go, chosen = (dense(module, (q, k, v), None, cap, first, split=split) for split in (False, None))
    assert bits_equal(one_go, chosen)
    ((key, agreed),) = module.attention_splits._agreed.items()
    assert agreed and key[-3:] == (bool(cap), page, window or 0)


def test_many_queries_are_never_split(monkeypatch):
    """Their merge is another binary, and no device is idle then."""
    module = small(interpreted.load("attention"))
    monkeypatch.setattr(module, "processors", lambda: 1000)
    dense(module, request(3 * SPLIT, module.attention_tiles.FEW + 1, 2, 1, 16, BF16))
    assert not module.attention_splits._agreed


PLACES = range(len(triton_tiles.BUCKETS))


@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
def test_compiled_no_tile_spills_and_matrix_units_multiply(target, benchmark):  # noqa: F811
    found = {}
    for name, kernel, signature, changes in benchmark.subjects("bf16", target):
        if "x128" in name or "x64" in name:
            found[name] = benchmark.measured(benchmark.compiled(kernel, signature, "bf16", target, **changes))
    assert len(found) == len(PLACES)
    for name, it in found.items():
        assert it.spills == 0 and it.tma and it.matrix.startswith(("HMMA", "HGMMA", "UTCHMMA")), (name, it)
        assert it.shared <= 232448, (name, it)  # what a program may have of a multiprocessor there
    assert (
        "HMMA" in found["matmul 16x32x128"].matrix
        and "HMMA" not in found["matmul 16x64x128 swapped"].matrix.split()[0][:4]
    )


@pytest.mark.parametrize("place", [0, 2, 6])
def test_each_tile_is_certified_by_itself(place, detcheck, monkeypatch):
    import certify_tiles

    monkeypatch.setattr(certify_tiles, "place", place)
    result = detcheck("certify", "--op", "certify_tiles:matmul_kernel", "--target", "sm_90", "--dtype", "bf16", "-q")
    assert result.code == 0 and "certified" in result.out, result.out


def test_the_certificate_names_what_the_launcher_does_besides(detcheck):
    result = detcheck("certify", "--op", "matmul", "--target", "sm_90", "--dtype", "bf16", "-q", "--format", "json")
    assert result.code == 0 and "other tiles by the number of rows" in result.out
