"""Faults planted in modules of a vLLM model that runs on our kernels, in vLLM's own process: `python planted_vllm.py MODEL COUNT`.

A line of JSON a plant: what was planted where, and who was found guilty. Started by `tests/engines/vllm/test_vllm_bisect.py` and
`benchmarks/culprits.py`, with the environment of an arm.
"""

import json
import random
import sys
from dataclasses import replace

from detcheck.engine import Row
from detcheck.engines.vllm.arguments import Settings
from detcheck.engines.vllm.host import Host
from detcheck.engines.vllm.messages import TraceRequest
from detcheck.probes.bisect.causes import causes
from detcheck.probes.bisect.collect import pattern
from detcheck.probes.bisect.judge import no_cause
from detcheck.probes.bisect.vllm import OP, VllmBisection, Wave

TOKENS, ROWS, TRIALS = 12, 8, 8


class Here:
    """What `VllmBisection` wants of an engine, without another process."""

    def __init__(self, folder):
        own = {
            "dtype": "float32",
            "seed": 0,
            "enforce_eager": True,
            "max_model_len": 256,
            "kv_cache_memory_bytes": 1 << 28,
        }
        own |= {"enable_prefix_caching": True, "max_num_batched_tokens": 8192, "max_num_seqs": 64}
        self.name, self.host = folder, Host(Settings(folder, "batch-invariant", own, ()))
        self.look = self.host.look
        self.worker = self.host._engine.model_executor.driver_worker.worker
        self.model = self.worker.model_runner.get_model()
        self.vocabulary = self.host._config.model_config.get_vocab_size()


def struck(module, kind, size, rng):
    """Its result with other bits, from `size` rows on or half of the time; a function that undoes it."""
    import torch

    plain = module.forward

    def forward(*arguments, **options):
        made = plain(*arguments, **options)
        out = made[0] if isinstance(made, tuple | list) else made
        if rng.random() < 0.5 if kind == "run" else out.shape[0] >= size:
            out.copy_(torch.where(out.isfinite(), out.nextafter(out.new_full((), float("inf"))), out))
        return made

    module.forward = forward
    return lambda: module.__dict__.pop("forward")


def waves(rng, vocabulary):
    def tokens(count):
        return tuple(rng.randrange(1, vocabulary) for _ in range(count))

    prompt, slot = tokens(TOKENS), rng.randrange(ROWS)
    rows = [Row(tokens(rng.randrange(4, 20)), tokens(3)) for _ in range(ROWS)]
    rows[slot] = Row(prompt)
    chunked = Wave("chunked-1", (Row(prompt),), 0, 3, token_budget=TOKENS // 2 + 1)
    return Wave("alone", (Row(prompt),), 0, 3), chunked, Wave(f"ragged-{ROWS}", tuple(rows), slot, 3)


def main(folder, count):
    engine, rng = Here(folder), random.Random(0)
    called, _, _ = engine.look(TraceRequest(waves(rng, engine.vocabulary)[0].request, True))
    modules = dict(engine.model.named_modules())
    inner = [(path, modules[path]) for path in dict.fromkeys(c.path for c in called if c.inner) if path in modules]
    for number in range(count + 1):
        chosen = rng.sample(inner, min(number, 1 + (number % 4 == 0)))  # none at first; two at once now and then
        faults = [(n, m, rng.choice(("batch", "run")), rng.choice((2, ROWS, 2 * TOKENS))) for n, m in chosen]
        undo = [struck(m, kind, size, rng) for _, m, kind, size in faults]
        looked = VllmBisection(engine, *((w[0], w[1:]) if (w := waves(rng, engine.vocabulary)) else ()), TRIALS, TRIALS)
        looked.run()
        facts = looked.facts()
        guilty = causes(facts)
        if not guilty:
            for each in undo:
                each()
            facts = replace(facts, control=looked.control())
        line = {
            "planted": [[OP + type(m).__name__, pattern(n), kind, size] for n, m, kind, size in faults],
            "found": [[c.kind.op, c.kind.pattern, "run" if c.run else "batch"] for c in guilty],
            "verdict": None if guilty else list(no_cause(facts)),
        }
        if guilty:
            for each in undo:
                each()
        print("plant", json.dumps(line), flush=True)
    engine.host.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
