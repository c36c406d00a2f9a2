"""Batch-invariant kernels against stock on the CPU: time of ours / time of stock, medians of interleaved runs.

Goals, by dtype: matmul over all shapes, sizes and thread counts a geometric mean of at most 1.0 and at most 1.2 each (bfloat16 against
a stock that uses AMX: 1.4); attention at most 1.0 of F.scaled_dot_product_attention in decode and 1.2 in prefill. The share of the machine's
own limit that ours and stock reach stands below: of the memory's bandwidth in decode, of the multiplications in prefill.
Run it on a quiet machine: two busy processes that each want all cores slow each other down by far more than what is measured here.
"""

import ctypes
import functools
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from measured import geometric_mean, record
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
SECONDS, ROUNDS = (
    0.5,
    5,
)  # for each pair, whose calls are cut into rounds: how much the means of these differ is the spread
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
    """Seconds of each, taken in turn; runs until SECONDS are spent, at least twice a round."""
    ours(), stock()
    took = ([], [])
    started = time.perf_counter()
    while len(took[0]) < 2 * ROUNDS or time.perf_counter() - started < SECONDS:
        for call, seconds in zip((ours, stock), took, strict=True):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
    return took


def medians(both):
    return tuple(map(statistics.median, both))


def by_round(both):
    """Ours / stock in each round."""
    length = len(both[0]) // ROUNDS
    cut = [slice(n * length, (n + 1) * length) for n in range(ROUNDS)]
    return [statistics.median(both[0][part]) / statistics.median(both[1][part]) for part in cut]


def summary(row, what, measured):
    """`measured`: [(words of the shape, seconds of each call of both)]."""
    ratios = {words: ours / stock for words, (ours, stock) in ((words, medians(both)) for words, both in measured)}
    worst = max(ratios, key=ratios.get)
    print(f"{what}: geometric mean {geometric_mean(ratios.values()):.2f}, worst {ratios[worst]:.2f}", flush=True)
    rounds = [by_round(both) for _, both in measured]
    record(row, [geometric_mean(each) for each in zip(*rounds, strict=True)], f"{len(ratios)} shapes")
    record(f"{row}-worst", rounds[list(ratios).index(worst)], worst)


def matmuls():
    for dtype in DTYPES:
        measured, reached = [], []
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
                    ours, stock = medians(both)
                    row.append(ours / stock)
                    measured.append((f"{threads} threads, M = {m}, weight {n} x {k}", both))
                    if (n, k) == LARGEST and m in (ROWS[0], ROWS[-1]):
                        reached.append(share(dtype, threads, m, weight, (ours, stock)))
                print(f"{f'{threads} threads':26}{f'({n}, {k})':>14}" + "".join(f"{r:9.2f}" for r in row), flush=True)
        name = str(dtype).removeprefix("torch.")
        summary(f"matmul-{name}", f"matmul, {name}", measured)
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
    measured = {False: [], True: []}
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
                ours, of_stock = medians(both)
                row.append(ours / of_stock)
                words = (
                    f"{threads} threads, {str(dtype).removeprefix('torch.')}, {batch} x {length} queries, {keys} keys"
                )
                measured[length > 1].append((words, both))
            print(f"{f'{dtype}, {threads}':30}" + "".join(f"{r:14.2f}" for r in row), flush=True)
    summary("attention-decode", "attention, decode", measured[False])
    summary("attention-prefill", "attention, prefill", measured[True])


if __name__ == "__main__":
    print(instruction_sets())
    with torch.inference_mode():
        matmuls()
        attentions()
