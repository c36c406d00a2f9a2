"""What `detcheck bisect` costs: CPU time and memory against the same forward passes, traced and plain. Goal: at most 3 times the traced ones.

A traced pass is one in which every op's inputs and outputs are seen and hashed: what anybody needs to find the first op that
differs. Beside that, bisect calls every op of a batch again, twice on all rows and twice on the prompt's own.

    python benchmarks/tracing.py amplifier        its own prompt of 300 tokens, the default batches
    python benchmarks/tracing.py billion          a Llama shape of 1.1 billion seeded float32 parameters, made on the spot; 40 tokens

Both take turns in one process, on one thread. Memory is the most that the process had, first without and then with the trace.
"""

import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "doubles"))

import torch
from measured import in_turn, ratios, record
from models import llama_like

from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import forward
from detcheck.probes.bisect.options import Options
from detcheck.probes.bisect.session import Bisect
from detcheck.probes.bisect.trace import Tracer
from detcheck.probes.bisect.transformers import FormedBatch
from detcheck.probes.bisect.transformers import traced as one_traced
from detcheck.spec import Spec

BILLION = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
BILLION |= {"num_key_value_heads": 4, "vocab_size": 32_000}
PROMPT = "Tell me about Richard Feynman, who took radios apart"


def peak_gib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(row, engine, prompt, turns):
    spec = Spec("bisect", Options(prompt=prompt))
    probe = Bisect(spec, engine)
    (step,) = probe.subject.schedule.steps
    tokens, decoded = probe._model.prompts[step.input].token_ids, probe._own.decode
    batches = (FormedBatch("alone", (tokens,), 0), *probe._batches(step.input))

    def plain():
        with torch.no_grad():
            for batch in batches:
                for _ in range(spec.trials):
                    forward(engine, batch.rows, decoded)

    def traced():
        alone = None
        for batch in batches:
            for _ in range(spec.trials):
                layout = replace(batch.layout, tokens=len(tokens) - decoded) if alone else None
                tracer = Tracer(engine._model, alone, layout)
                one_traced(engine, tracer, batch, decoded)
                alone = alone or tracer.calls

    plain()  # warm
    without = peak_gib()
    works = {"plain": plain, "traced": traced, "bisect": lambda: probe.observe(step)}
    took = in_turn(works, turns, time.process_time, lambda took: told(row, took))
    to_plain, to_traced = ratios(took["bisect"], took["plain"]), ratios(took["bisect"], took["traced"])
    parameters = sum(p.numel() for p in engine._model.parameters()) / 1e6
    memory = f"at most {without:.2f} GiB without and {peak_gib():.2f} GiB with it"
    print(
        f"{parameters:.0f}M parameters, {len(tokens)} tokens, batches of {', '.join(str(len(b.rows)) for b in batches)}: "
        f"plain forward passes {statistics.median(took['plain']):.1f} s; bisect {statistics.median(to_plain):.1f} times that, "
        f"{statistics.median(to_traced):.1f} times traced ones ({', '.join(f'{r:.1f}' for r in to_traced)}); {memory}"
    )
    record(row, to_traced, memory)


def told(row, took):
    record(row, ratios(took["bisect"], took["traced"]))
    record(f"{row}-plain", ratios(took["bisect"], took["plain"]))


def main():
    torch.set_num_threads(1)
    if sys.argv[1:] == ["billion"]:
        with tempfile.TemporaryDirectory() as folder:
            engine = TransformersEngine(str(llama_like(folder, **BILLION)), "float32")
            engine.load()
            measure("bisect-billion", engine, PROMPT, 2)
    else:
        engine = TransformersEngine(None)
        engine.load()
        measure("bisect", engine, None, 4)


if __name__ == "__main__":
    main()
