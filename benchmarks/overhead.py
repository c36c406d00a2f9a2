"""How much of a probe's time is not the engine's own. Goal: at most 2% on a model of at least 100M parameters.

A Llama-shaped model of 117M parameters is made on the spot. The engine's own time is what the model's `forward` takes in
transformers and what the engine's steps take in vLLM; all else is ours: forming batches, arrivals, reading tokens and
log-probabilities, evidence, hashing, storing. Opening the engine is not counted.

Usage: python benchmarks/overhead.py [transformers] [vllm]
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer

from detcheck import runner
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.models import amplifier
from detcheck.probes.completions import session as completions
from detcheck.probes.completions.options import Options
from detcheck.spec import Spec


def make(folder):
    config = transformers.LlamaConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=10,
        num_attention_heads=12,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


class Transformers(TransformersEngine):
    """Its forward pass timed by hooks."""

    def load(self, longest=0):
        super().load(longest)
        self.inside, began = 0.0, 0.0

        def begin(*_):
            nonlocal began
            began = time.perf_counter()

        def end(*_):
            self.inside += time.perf_counter() - began

        self._model.register_forward_pre_hook(begin)
        self._model.register_forward_hook(end)


def vllm(folder):
    from detcheck.engines.vllm.engine import VllmEngine

    class Vllm(VllmEngine):
        inside = 0.0

        def complete(self, *arguments, **options):
            decoded = super().complete(*arguments, **options)
            self.inside += self.engine_s
            return decoded

    return Vllm(folder)


def main(*engines):
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "model")
        print(f"{make(model) / 1e6:.0f}M parameters, completions of 32 tokens")
        for name in engines or ("transformers", "vllm"):
            engine = Transformers(model) if name == "transformers" else vllm(model)
            began = []

            def opened(spec, engine=engine, began=began):
                probe = completions.Completions(spec, engine)
                began.append(time.perf_counter())
                return probe

            completions.open_session = opened
            spec = Spec("completions", Options(samples=48, max_tokens=32, engine=name))
            run = runner.run(spec, Path(folder) / name)
            seconds = time.perf_counter() - began[0]
            share = 100 * (seconds - engine.inside) / seconds
            print(
                f"{name}: {run.findings[0].samples} of them in {seconds:.1f} s, outside the engine's own work {share:.2f}%"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
