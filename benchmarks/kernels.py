"""Batch-invariant kernels against stock on the CPU: time of ours / time of stock, medians of interleaved runs.

Goals, by dtype: matmul over all shapes, sizes and thread counts a geometric mean of at most 1.0 and at most 1.2 each (bfloat16 against
a stock that uses AMX: 1.4); attention at most 1.0 of F.scaled_dot_product_attention in decode and 1.2 in prefill. The share of the machine's
own limit that ours and stock reach stands below: of the memory's bandwidth in decode, of the multiplications in prefill.
Run it on a quiet machine: two busy processes that each want all cores slow each other down by far more than what is measured here.
"""

import ctypes
import functools
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from detcheck.environment import processor
from detcheck.kernels._cpu import build
from detcheck.kernels.attention import attention
from detcheck.kernels.matmul import linear as ours_linear

SHAPES = [(1024, 1024), (4096, 1024), (1024, 4096), (32000, 1024)]  # (N, K) of the weight
ROWS = (1, 2, 4, 8, 16, 64, 256)
DTYPES = (torch.float32, torch.bfloat16)
HEADS, KV_HEADS, DIM = 16, 8, 64
ATTENTION = [(b, 1, s) for b in (1, 16) for s in (300, 1024, 4096)] + [(1, length, length) for length in (64, 256, 512)]
SECONDS = 0.5  # for each pair
LARGEST = (32000, 1024)


@functools.cache
def peaks():
    """`peak.cpp`, compiled as the kernels are: its functions, thread count -> a second."""
    here, folder = Path(__file__).parent, tempfile.mkdtemp()
    flags = [*build.FLAGS, *build.chosen()[0].flags, "-I", build.SOURCES]
    subprocess.run([build.compiler()[0], *flags, "-o", f"{folder}/peak.so", here / "peak.cpp"], check=True)
    library = ctypes.CDLL(f"{folder}/peak.so")
    made = {}
    for name in ("read", "float32", "bfloat16"):
        made[name] = getattr(library, f"peak_{name}")
        made[name].argtypes, made[name].restype = [ctypes.c_int64], ctypes.c_double
    return made


def times(ours, stock):
    """Median seconds of each, taken in turn; runs until SECONDS are spent, at least 7 times each."""
    ours(), stock()
    took = ([], [])
    started = time.perf_counter()
    while len(took[0]) < 7 or time.perf_counter() - started < SECONDS:
        for call, seconds in zip((ours, stock), took, strict=True):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
    return tuple(map(statistics.median, took))


def summary(what, ratios):
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"{what}: geometric mean {mean:.2f}, worst {max(ratios):.2f}", flush=True)


def matmuls():
    for dtype in DTYPES:
        ratios, reached = [], []
        print(
            f"{f'matmul, {dtype}'.replace('torch.', ''):26}{'(N, K)':>14}" + "".join(f"{f'M = {m}':>9}" for m in ROWS)
        )
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for n, k in SHAPES:
                weight, x = torch.randn(n, k).to(dtype), torch.randn(max(ROWS), k).to(dtype)
                row = []
                for m in ROWS:
                    part = x[:m].contiguous()
                    both = times(lambda p=part, w=weight: ours_linear(p, w), lambda p=part, w=weight: linear(p, w))
                    row.append(both[0] / both[1])
                    if (n, k) == LARGEST and m in (ROWS[0], ROWS[-1]):
                        reached.append(share(dtype, threads, m, weight, both))
                ratios += row
                print(f"{f'{threads} threads':26}{f'({n}, {k})':>14}" + "".join(f"{r:9.2f}" for r in row), flush=True)
        summary(f"matmul, {dtype}".replace("torch.", ""), ratios)
        print("\n".join(reached) + "\n", flush=True)


def share(dtype, threads, rows, weight, both):
    """Of the machine's own limit, ours and stock."""
    if rows == 1:
        limit, unit, done = peaks()["read"](threads), "GB/s read", weight.nbytes
    else:
        name = str(dtype).removeprefix("torch.")
        limit, unit, done = peaks()[name](threads) or peaks()["float32"](threads), "Gflop/s", 2 * rows * weight.numel()
    ours, stock = (done / seconds for seconds in both)
    return f"{threads} threads, M = {rows}, {tuple(weight.shape)}: ours {ours / limit:.0%}, stock {stock / limit:.0%} of {limit / 1e9:.0f} {unit}"


def instruction_sets():
    """Of both sides: what stock was allowed, and what ours took."""
    told = [
        f"{name}={os.environ[name]}"
        for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "DETCHECK_CPU")
        if name in os.environ
    ]
    has = [
        word
        for word in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_fp16")
        if word in build.processor_flags()
    ]
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.machine()}: {', '.join(has) or 'no flags known'}\n"
        f"stock: torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}; ours: {build.description()}\n"
        f"{', '.join(told) or 'no variable limits either'}\n"
    )


def attentions():
    ratios = {False: [], True: []}
    print(f"{'attention: dtype, threads':30}" + "".join(f"{f'B{b} L{length} S{s}':>14}" for b, length, s in ATTENTION))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for dtype in DTYPES:
            row = []
            for batch, length, keys in ATTENTION:
                q = torch.randn(batch, HEADS, length, DIM).to(dtype)
                k, v = (torch.randn(batch, KV_HEADS, keys, DIM).to(dtype) for _ in range(2))

                def stock(q=q, k=k, v=v, causal=length > 1):
                    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

                both = times(lambda q=q, k=k, v=v: attention(q, k, v), stock)
                row.append(both[0] / both[1])
                ratios[length > 1].append(row[-1])
            print(f"{f'{dtype}, {threads}':30}" + "".join(f"{r:14.2f}" for r in row), flush=True)
    summary("attention, decode", ratios[False])
    summary("attention, prefill", ratios[True])


if __name__ == "__main__":
    print(instruction_sets())
    with torch.inference_mode():
        matmuls()
        attentions()
