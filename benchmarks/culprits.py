"""Faults planted at random places of four small models on our kernels: is the right op named, with the right kind, and nobody else?

python benchmarks/culprits.py [plants] [model,model]
python benchmarks/culprits.py [plants] vllm       the same with modules of the amplifier and of a Llama in vLLM
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "doubles"))

import torch
from measured import record
from planted import MADE, ROWS, Fault, bisected, engine, places, verdict_on

from detcheck.engines.vllm.process import environment
from detcheck.models import amplifier


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


def in_vllm(plants: int) -> None:
    """Each model in a process of vLLM's own, see tests/doubles/planted_vllm.py."""
    right = done = accused = 0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        models = str(amplifier.folder()), str(MADE["llama"](folder))
        for n, model in enumerate(models):
            count = plants // 2 + (n < plants % 2)
            script = Path(__file__).parents[1] / "tests" / "doubles" / "planted_vllm.py"
            env = environment("batch-invariant", True) | {"PYTHONPATH": str(script.parent)}
            ran = subprocess.run(
                [sys.executable, script, model, str(count)],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            lines = [json.loads(line[6:]) for line in ran.stdout.splitlines() if line.startswith("plant ")]
            if ran.returncode or len(lines) != count + 1 or lines[0]["verdict"][0] != "identical":
                sys.exit(f"vLLM ended with exit code {ran.returncode} after {len(lines)} lines; the first: {lines[:1]}")
            for line in lines[1:]:
                planted: dict[tuple[str, str], str] = {}
                for op, pattern, kind, _ in line["planted"]:
                    planted[op, pattern] = "run" if "run" in (kind, planted.get((op, pattern))) else "batch"
                found = {(op, pattern): kind for op, pattern, kind in line["found"]}
                done, right = done + 1, right + all(found.get(place) == kind for place, kind in planted.items())
                accused += len(set(found) - set(planted))
                if found != planted:
                    print(line)
    print(
        f"vLLM: {right} of {done} plants: right module and right kind; {accused} false positives; {time.perf_counter() - started:.0f} s"
    )


def main() -> None:
    torch.set_num_threads(1)
    plants = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    if sys.argv[2:] == ["vllm"]:
        in_vllm(plants)
        return
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
            f"{name}: {len(there)} places, {done} plants so far, {right} right, {accused} false positives", flush=True
        )
    record("planted", [right / done], f"{right} of {done}, in {len(names)} models")
    record("planted-others", [accused])
    print(
        f"{right} of {done} plants: right op and right kind; {accused} false positives; {time.perf_counter() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
