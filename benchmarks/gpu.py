"""Our Triton kernels against cuBLAS and SDPA on a GPU: stock's time / ours, so that 1 is as fast and more is faster.

Goals: matmul at least 0.9 in decode (few rows) and 0.8 in prefill, attention at least 0.9. It has not run yet: no GPU was at hand
when it was written. What is timed is the device: calls are captured into a CUDA graph and replayed, so that Python and launches are
not in the figure; what a call from Python takes stands beside it. Inputs are rotated through more memory than the cache holds. Run
it on a device that nobody else uses, and write down the device with the figures: it is printed first.

`split` is attention with a program a split, whether or not the launcher would take it by itself.
"""

import collections
import math
import statistics
import sys
import time

import torch
from measured import geometric_mean, record
from torch.nn.functional import linear, scaled_dot_product_attention

from detcheck.kernels._triton import launch
from detcheck.kernels.attention import attention, causal
from detcheck.kernels.matmul import linear as ours_linear

WEIGHTS = [(4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]  # (N, K) of an 8B model's layers
DECODE, PREFILL = (1, 8, 32, 128), (512, 2048, 8192)  # rows
HEADS, KV_HEADS, DIM = 32, 8, 128
CACHE_BYTES = 256 << 20  # more than any L2 there is
CALLS, REPLAYS = 24, 9  # calls in a graph, and how often it is replayed, at most
ROUNDS = 3
SEEN = collections.defaultdict(list)  # what -> stock / ours of its shapes, each round
ENOUGH_MS = 60.0  # of calls in a graph: a large product needs few to be timed well


def device_ms(call, rotations, device="cuda"):
    """Milliseconds of the device for call(i), i of so many sets of inputs: a set's turn comes when it has left the cache.

    On the CPU, where a rehearsal runs, the median of calls.
    """
    for i in range(3):
        call(i % rotations)
    if device == "cpu":
        return call_ms(call, rotations, device)
    torch.cuda.synchronize()
    started = time.perf_counter()
    call(0)
    torch.cuda.synchronize()
    calls = max(2, min(CALLS, int(ENOUGH_MS / (1e3 * (time.perf_counter() - started)))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            call(i % rotations)
    times = []
    for _ in range((REPLAYS if calls == CALLS else REPLAYS // 3) + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / calls)
    return statistics.median(times[1:])


def call_ms(call, rotations, device="cuda"):
    """Milliseconds until call(i) is back in Python: what a program without graphs waits for in decode."""
    times, until = [], time.perf_counter() + 0.2
    for i in range(CALLS):
        if len(times) > 2 and time.perf_counter() > until:
            break
        if device != "cpu":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call(i % rotations)
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def rotations_of(*tensors):
    return max(2, min(16, math.ceil(CACHE_BYTES / sum(t.nbytes for t in tensors))))


def report(what, ratios):
    SEEN[what.replace("torch.", "")].append(ratios)
    print(f"{what}: geometric mean {geometric_mean(ratios):.2f}, least {min(ratios):.2f}\n", flush=True)


def matmul_ms(m, n, k, dtype, device="cuda"):
    """{"ours", "stock": of the device, "ours_call", "stock_call": of Python} in milliseconds."""
    x, w = torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype)
    sets = [(x.clone(), w.clone()) for _ in range(rotations_of(x, w))]
    return both(lambda i: ours_linear(*sets[i]), lambda i: linear(*sets[i]), len(sets), device)


def attention_ms(batch, length, keys, dtype, split=None, device="cuda"):
    """The same of causal attention. split: None: as the launcher would; else whether a program takes a split."""
    q = torch.randn(batch, HEADS, length, DIM, device=device).to(dtype)
    k, v = (torch.randn(batch, KV_HEADS, keys, DIM, device=device).to(dtype) for _ in range(2))
    sets = [tuple(t.clone() for t in (q, k, v)) for _ in range(rotations_of(q, k, v))]
    if device == "cpu":
        return both(lambda i: attention(*sets[i]), lambda i: stock_attention(*sets[i]), len(sets), device)
    from detcheck.kernels._triton import attention_launch

    low, high = causal(batch, length, keys, device=q.device)
    first = low[:, 0].contiguous()

    def ours(i):
        return attention_launch.dense(*sets[i], low, high, DIM**-0.5, first=first, split=split)

    return both(ours, lambda i: stock_attention(*sets[i]), len(sets), device)


def stock_attention(q, k, v):
    return scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True)


def both(ours, stock, rotations, device):
    timed = {"ours": device_ms(ours, rotations, device), "stock": device_ms(stock, rotations, device)}
    return timed | {"ours_call": call_ms(ours, rotations, device), "stock_call": call_ms(stock, rotations, device)}


def matmuls(dtype, name, rows, weights=WEIGHTS, device="cuda"):
    print(
        f"matmul, {name}, {dtype}: stock / ours, and ours\n{'(N, K)':>16}" + "".join(f"{f'M = {m}':>18}" for m in rows)
    )
    ratios = []
    for n, k in weights:
        line = [matmul_ms(m, n, k, dtype, device) for m in rows]
        ratios += [ms["stock"] / ms["ours"] for ms in line]
        told = "".join(f"{ms['stock'] / ms['ours']:9.2f} {ms['ours']:6.3f}ms" for ms in line)
        print(f"{f'({n}, {k})':>16}{told}", flush=True)
    report(f"matmul, {name}, {dtype}", ratios)


def attentions(dtype, name, shapes, split, device="cuda"):
    print(f"attention, {name}, {dtype}: stock / ours, and ours")
    ratios = []
    for batch, length, keys in shapes:
        ms = attention_ms(batch, length, keys, dtype, split, device)
        ratios.append(ms["stock"] / ms["ours"])
        print(f"  B{batch} L{length} S{keys}: {ratios[-1]:.2f} ({ms['ours']:.3f} ms)", flush=True)
    report(f"attention, {name}, {dtype}", ratios)


def main():
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA or ROCm device; benchmarks/compiled.py needs none")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {launch.description()}\n")
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                matmuls(dtype, "decode", DECODE)
                matmuls(dtype, "prefill", PREFILL)
                decode = [(b, 1, s) for b in (1, 8, 64) for s in (1024, 8192)]
                attentions(dtype, "decode at one go", decode, False)
                attentions(dtype, "decode split", decode, True)
                attentions(dtype, "prefill", [(1, n, n) for n in (512, 2048, 8192)], False)
            recorded()


def recorded():
    """What is known by now. Of attention in decode the launcher takes one of the two ways; both are printed, and the split one recorded."""
    for what, rounds in SEEN.items():
        op, how, dtype = what.split(", ")
        if how != "decode at one go":
            least = min(min(each) for each in rounds)
            record(f"gpu-{op}-{how.split()[0]}-{dtype}", list(map(geometric_mean, rounds)), f"least {least:.2f}")


if __name__ == "__main__":
    main()
