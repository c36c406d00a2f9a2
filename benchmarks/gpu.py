"""Our Triton kernels against cuBLAS and SDPA on a GPU: stock's time / ours, so that 1 is as fast and more is faster.

Goals: matmul at least 0.9 in decode (few rows) and 0.8 in prefill, attention at least 0.9. It has not run yet: no GPU was at hand
when it was written. Times are of device events, medians; inputs are rotated through more memory than the cache holds. Run it on
a device that nobody else uses, and write down the device with the figures: it is printed first.

`split` is attention with a program a split, which the launcher takes by itself only on targets in SPLIT_SHOWN.
"""

import math
import statistics
import sys

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from detcheck.kernels import _triton
from detcheck.kernels.attention import causal
from detcheck.kernels.matmul import linear as ours_linear

WEIGHTS = [(4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]  # (N, K) of an 8B model's layers
DECODE, PREFILL = (1, 8, 32, 128), (512, 2048, 8192)  # rows
HEADS, KV_HEADS, DIM = 32, 8, 128
CACHE_BYTES = 256 << 20  # more than any L2 there is
REPEATS = 50


def median_ms(call, rotations):
    """call(i) for i of so many sets of inputs, one after the other; a set's turn comes when it has left the cache."""
    for i in range(3):
        call(i % rotations)
    times = []
    for i in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call(i % rotations)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def rotations_of(*tensors):
    return max(2, min(16, math.ceil(CACHE_BYTES / sum(t.nbytes for t in tensors))))


def report(what, ratios):
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"{what}: geometric mean {mean:.2f}, least {min(ratios):.2f}\n", flush=True)


def matmuls(dtype, name, rows):
    print(f"matmul, {name}, {dtype}\n{'(N, K)':>16}" + "".join(f"{f'M = {m}':>18}" for m in rows))
    ratios = []
    for n, k in WEIGHTS:
        line = []
        for m in rows:
            x, w = torch.randn(m, k, device="cuda").to(dtype), torch.randn(n, k, device="cuda").to(dtype)
            sets = [(x.clone(), w.clone()) for _ in range(rotations_of(x, w))]
            ours = median_ms(lambda i, s=sets: ours_linear(*s[i]), len(sets))
            stock = median_ms(lambda i, s=sets: linear(*s[i]), len(sets))
            line.append((stock / ours, ours))
        ratios += [ratio for ratio, _ in line]
        print(f"{f'({n}, {k})':>16}" + "".join(f"{ratio:9.2f} {ms:6.3f}ms" for ratio, ms in line), flush=True)
    report(f"matmul, {name}, {dtype}", ratios)


def attentions(dtype, name, shapes, split):
    from detcheck.kernels import _triton_attention

    print(f"attention, {name}, {dtype}")
    ratios = []
    for batch, length, keys in shapes:
        q = torch.randn(batch, HEADS, length, DIM, device="cuda").to(dtype)
        k, v = (torch.randn(batch, KV_HEADS, keys, DIM, device="cuda").to(dtype) for _ in range(2))
        sets = [tuple(t.clone() for t in (q, k, v)) for _ in range(rotations_of(q, k, v))]
        low, high = causal(batch, length, keys, device=q.device)
        first = low[:, 0].contiguous()

        def ours(i, sets=sets, low=low, high=high, first=first):
            return _triton_attention.dense(*sets[i], low, high, DIM**-0.5, first=first, split=split)

        def stock(i, sets=sets, causal=length > 1):
            return scaled_dot_product_attention(*sets[i], is_causal=causal, enable_gqa=True)

        took = [median_ms(call, len(sets)) for call in (ours, stock)]
        ratios.append(took[1] / took[0])
        print(f"  B{batch} L{length} S{keys}: {ratios[-1]:.2f} ({took[0]:.3f} ms)", flush=True)
    report(f"attention, {name}, {dtype}", ratios)


def main():
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA or ROCm device; benchmarks/compiled.py needs none")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {_triton.description()}\n")
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.inference_mode():
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            matmuls(dtype, "decode", DECODE)
            matmuls(dtype, "prefill", PREFILL)
            decode = [(b, 1, s) for b in (1, 8, 64) for s in (1024, 8192)]
            attentions(dtype, "decode at one go", decode, False)
            attentions(dtype, "decode split", decode, True)
            attentions(dtype, "prefill", [(1, n, n) for n in (512, 2048, 8192)], False)


if __name__ == "__main__":
    main()
