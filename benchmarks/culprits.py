"""Faults planted at random places of four small models on our kernels: is the right op named, with the right kind, and nobody else?

python benchmarks/culprits.py [plants] [model,model]
"""

import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from planted import MADE, ROWS, Fault, bisected, engine, places, verdict_on


def faults(rng, there):
    """One op that follows the batch from a random size on, or a noisy one, or two ops at once."""
    many = 2 if rng.random() < 0.2 else 1
    return [
        Fault(
            place,
            rng.choice(("batch", "run")),
            rng.randint(2, ROWS),
            rng.uniform(0.5, 0.9),
            random.Random(rng.random()),
        )
        for place in rng.sample(there, many)
    ]


def main() -> None:
    torch.set_num_threads(1)
    plants = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    names = sys.argv[2].split(",") if len(sys.argv) > 2 else list(MADE)
    rng, right, accused, started = random.Random(1), 0, 0, time.perf_counter()
    done = 0
    for n, name in enumerate(names):
        count = plants // len(names) + (n < plants % len(names))
        with tempfile.TemporaryDirectory() as folder:
            loaded = engine(name, folder)
            there = places(loaded)
            for _ in range(count):
                planted = faults(rng, there)
                found = bisected(loaded, planted)
                named, others = verdict_on(found, planted)
                done, right, accused = done + 1, right + named, accused + len(others)
                if not named or others:
                    print(name, [(f.place.op, f.place.path, f.kind, f.size, round(f.chance, 2)) for f in planted])
                    for f in found:
                        print("   ", f.verdict, f.case.subject, f.case.input, "|", f.note[:200])
        print(
            f"{name}: {len(there)} places, {done} plants so far, {right} right, {accused} innocents accused", flush=True
        )
    print(
        f"{right} of {done} plants: right op and right kind; {accused} innocents accused; {time.perf_counter() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
