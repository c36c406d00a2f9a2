"""Ours in vLLM on the CPU against stock: seconds in the engine's own steps. Goal: at most 1.05 of stock's.

A Qwen3-shaped model is made on the spot. Both arms are alive at once and take turns, so that what else the machine does falls
on both; medians of the turns are compared. Prefill: prompts and one new token. Decode: 64 new tokens behind them.

Usage: python benchmarks/engine.py [rounds [dtype ...]]
"""

import statistics
import sys
import tempfile

import torch
import transformers
from measured import geometric_mean, ratios, record
from transformers import AutoTokenizer

from detcheck.engine import Row
from detcheck.engines.vllm.engine import VllmEngine
from detcheck.models import amplifier
from detcheck.spec import Kernels

WORK = [  # (what, tokens of a prompt, requests, new tokens)
    ("prefill", 30, 8, 1), ("prefill", 300, 4, 1), ("prefill", 2000, 1, 1),
    ("decode", 30, 1, 64), ("decode", 30, 16, 64), ("decode", 300, 16, 64), ("decode", 2000, 4, 64),
]  # fmt: skip
ROUNDS = 5


def make(folder):
    config = transformers.Qwen3Config(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def main(rounds=ROUNDS, *dtypes):
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        size = make(folder)
        print(f"{size / 1e6:.0f}M parameters; seconds in the engine's steps, medians of {rounds} turns")
        every = []
        for dtype in dtypes or ("float32", "bfloat16"):
            engines = {}
            for arm in (Kernels.STOCK, Kernels.BATCH_INVARIANT):
                engines[arm] = VllmEngine(folder, dtype, arguments=["kv_cache_memory_bytes=1000000000"], kernels=arm)
                engines[arm].load(4096)
            try:
                found = {work: compare(engines, dtype, *work, int(rounds)) for work in WORK}
            finally:
                for engine in engines.values():
                    engine.close()
            middle = {work: statistics.median(each) for work, each in found.items()}
            worst = max(middle, key=middle.get)
            every += middle.values()
            words = "{} of {}: {} requests, {} new tokens".format(worst[0], f"{worst[1]} tokens", *worst[2:])
            lowest = f"{min(middle.values()):.2f} to {middle[worst]:.2f}"
            record(f"vllm-{dtype}", [geometric_mean(each) for each in zip(*found.values(), strict=True)], lowest)
            record(f"vllm-{dtype}-worst", found[worst], words)
        print(f"ours / stock: geometric mean {geometric_mean(every):.2f}, worst {max(every):.2f}")


def compare(engines, dtype, what, length, requests, new, rounds):
    """Ours / stock in each turn."""
    rows = [Row(tuple(400 + (7 * slot + n) % 1500 for n in range(length))) for slot in range(requests)]
    seconds = {arm: [] for arm in engines}
    for turn in range(rounds + 1):
        for arm, engine in engines.items():
            with engine.running(arm):
                engine.complete(rows, new, ignore_eos=True)
            if turn:  # the first warms up
                seconds[arm].append(engine.engine_s)
    stock, ours = (statistics.median(seconds[arm]) for arm in engines)
    print(
        f"{dtype:9} {what:8} {requests:3} x {length:5} tokens + {new:3}: {stock:7.3f} {ours:7.3f}  {ours / stock:.2f}",
        flush=True,
    )
    return ratios(seconds[Kernels.BATCH_INVARIANT], seconds[Kernels.STOCK])


if __name__ == "__main__":
    main(*sys.argv[1:])
