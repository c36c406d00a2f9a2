"""Planted inaccuracies: how many times what is allowed each is wrong by, in every dtype. Above 1 is `inaccurate`; `sound` must stay below.

The ops are those of `tests/doubles/inaccurate.py`, of length 4096. 1 is what the roundings of that dtype can add up to.
"""

import sys
from pathlib import Path

import torch
from measured import record

from detcheck.harness.accuracy import Exact, tail_heavy

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "doubles"))
import inaccurate

ROWS = 32
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def main():
    print(
        "| op | fault | "
        + " | ".join(str(d).removeprefix("torch.") for d in DTYPES)
        + " |\n|---|---|"
        + "---|" * len(DTYPES)
    )
    exact, sound, faulty, products = {}, [], [], []
    for (name, fault), run in inaccurate.FAULTS.items():
        line = []
        for dtype in DTYPES:
            if (name, dtype) not in exact:
                made = inaccurate.MAKE[name](ROWS, dtype, 0)
                kinds = made, tail_heavy(made, range(len(made)))
                exact[name, dtype] = [Exact.of(inaccurate.FAULTS[name, "sound"], k, range(len(made))) for k in kinds]
            shares = [e.error(run(*e.arguments), e.allowed(dtype), range(ROWS))[1] for e in exact[name, dtype]]
            (sound if fault == "sound" else faulty).append(max(shares))
            if (name, fault, dtype) == ("matmul", "sound", torch.float32):
                products.append(max(shares))
            line.append(f"{max(shares):.2g}")
        print(f"| {name} | {fault} | {' | '.join(line)} |", flush=True)
    record("accuracy-sound", [max(sound)], f"the largest of {len(sound)} ops and dtypes")
    record("accuracy-sound-float32", [max(products)])
    record("accuracy-planted", [min(faulty)], f"the smallest of {len(faulty)} ops, faults and dtypes")


if __name__ == "__main__":
    main()
