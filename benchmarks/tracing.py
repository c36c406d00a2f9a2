"""What `detcheck bisect` costs: CPU time and memory against the same forward passes without it. Goal: at most 5 times the time.

    python benchmarks/tracing.py amplifier        its own prompt of 300 tokens, the default batches
    python benchmarks/tracing.py billion          a Llama shape of 1.1 billion seeded float32 parameters, made on the spot; 40 tokens

Both take turns in one process, on one thread. Memory is the most that the process had, first without and then with the trace.
"""

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "doubles"))

import torch
from models import llama_like

from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import forward
from detcheck.probes.bisect.options import Options
from detcheck.probes.bisect.session import Bisect
from detcheck.spec import Spec

BILLION = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
BILLION |= {"num_key_value_heads": 4, "vocab_size": 32_000}
PROMPT = "Tell me about Richard Feynman, who took radios apart"


def peak_gib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def spent(work):
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(engine, prompt, turns):
    spec = Spec("bisect", Options(prompt=prompt))
    probe = Bisect(spec, engine)
    (step,) = probe.subject.schedule.steps
    tokens = probe._model.prompts[step.input].token_ids
    batches = [[tokens], *(batch.rows for batch in probe._batches(step.input))]

    def plain():
        with torch.no_grad():
            for rows in batches:
                for _ in range(spec.trials):
                    forward(engine, rows, probe._own.decode)

    plain()  # warm
    without, alone = peak_gib(), []
    ratios = []
    for _ in range(turns):
        alone.append(spent(plain))
        ratios.append(spent(lambda: probe.observe(step)) / alone[-1])
    parameters = sum(p.numel() for p in engine._model.parameters()) / 1e6
    print(
        f"{parameters:.0f}M parameters, {len(tokens)} tokens, batches of {', '.join(str(len(rows)) for rows in batches)}: "
        f"plain forward passes {statistics.median(alone):.1f} s; bisect {statistics.median(ratios):.1f} times that "
        f"({', '.join(f'{r:.1f}' for r in ratios)}); at most {without:.2f} GiB without and {peak_gib():.2f} GiB with it"
    )


def main():
    torch.set_num_threads(1)
    if sys.argv[1:] == ["billion"]:
        with tempfile.TemporaryDirectory() as folder:
            engine = TransformersEngine(str(llama_like(folder, **BILLION)), "float32")
            engine.load()
            measure(engine, PROMPT, 1)
    else:
        engine = TransformersEngine(None)
        engine.load()
        measure(engine, None, 3)


if __name__ == "__main__":
    main()
