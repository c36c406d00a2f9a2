"""Batch-invariant kernels against stock on the CPU: time of ours / time of stock, medians of interleaved runs.

Goals: matmul over all shapes, sizes, dtypes and thread counts a geometric mean of at most 1.0 and at most 1.15 each;
attention at most 1.2 of F.scaled_dot_product_attention. Run it on a quiet machine: two busy processes that each want all cores
slow each other down by far more than what is measured here.
"""

import math
import statistics
import time

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from detcheck.kernels import _native
from detcheck.kernels.attention import attention
from detcheck.kernels.matmul import linear as ours_linear

SHAPES = [(1024, 1024), (4096, 1024), (1024, 4096), (32000, 1024)]  # (N, K) of the weight
ROWS = (1, 4, 16, 64, 256)
HEADS, KV_HEADS, DIM = 16, 8, 64
ATTENTION = [(b, 1, s) for b in (1, 16) for s in (300, 1024, 4096)] + [(1, length, length) for length in (64, 256, 512)]
SECONDS = 0.6  # for each pair


def ratio(ours, stock):
    """Median time of ours over that of stock, taken in turn; runs until SECONDS are spent, at least 7 times each."""
    ours(), stock()
    took = ([], [])
    started = time.perf_counter()
    while len(took[0]) < 7 or time.perf_counter() - started < SECONDS:
        for call, times in zip((ours, stock), took, strict=True):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return statistics.median(took[0]) / statistics.median(took[1])


def summary(what, ratios):
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"{what}: geometric mean {mean:.2f}, worst {max(ratios):.2f}\n")


def matmuls():
    ratios = []
    print(f"{'matmul: dtype, threads':26}{'(N, K)':>14}" + "".join(f"{f'M = {m}':>9}" for m in ROWS))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.bfloat16):
            for n, k in SHAPES:
                weight, x = torch.randn(n, k).to(dtype), torch.randn(max(ROWS), k).to(dtype)
                row = []
                for m in ROWS:
                    part = x[:m].contiguous()
                    row.append(ratio(lambda p=part, w=weight: ours_linear(p, w), lambda p=part, w=weight: linear(p, w)))
                ratios += row
                print(f"{f'{dtype}, {threads}':26}{f'({n}, {k})':>14}" + "".join(f"{r:9.2f}" for r in row), flush=True)
    summary("matmul", ratios)


def attentions():
    ratios = []
    print(f"{'attention: dtype, threads':30}" + "".join(f"{f'B{b} L{length} S{s}':>14}" for b, length, s in ATTENTION))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.bfloat16):
            row = []
            for batch, length, keys in ATTENTION:
                q = torch.randn(batch, HEADS, length, DIM).to(dtype)
                k, v = (torch.randn(batch, KV_HEADS, keys, DIM).to(dtype) for _ in range(2))

                def stock(q=q, k=k, v=v, causal=length > 1):
                    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

                row.append(ratio(lambda q=q, k=k, v=v: attention(q, k, v), stock))
            ratios += row
            print(f"{f'{dtype}, {threads}':30}" + "".join(f"{r:14.2f}" for r in row), flush=True)
    summary("attention", ratios)


if __name__ == "__main__":
    print(f"{_native.description()}, torch {torch.__version__}\n")
    with torch.inference_mode():
        matmuls()
        attentions()
