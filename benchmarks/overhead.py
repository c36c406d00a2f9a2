"""How much of a probe's time is not the model's own forward pass. Goal: at most 2% on a model of at least 100M parameters.

A Llama-shaped model of 117M parameters is made on the spot. Time in `forward` is measured by hooks, everything else is ours:
forming batches, reading tokens and log-probabilities, hashing, storing.
"""

import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer

from detcheck import runner
from detcheck.engines import amplifier
from detcheck.engines.transformers import TransformersEngine
from detcheck.probes import completions
from detcheck.records import Spec


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


def main():
    with tempfile.TemporaryDirectory() as folder:
        size = make(Path(folder) / "model")
        engine = TransformersEngine(str(Path(folder) / "model"))
        engine.load()
        inside = [0.0, 0.0]  # when the forward pass began, seconds in all
        engine._model.register_forward_pre_hook(lambda *_: inside.__setitem__(0, time.perf_counter()))
        engine._model.register_forward_hook(
            lambda *_: inside.__setitem__(1, inside[1] + time.perf_counter() - inside[0])
        )
        spec = Spec("completions", completions.Options(samples=24, max_tokens=32))
        spans = []

        def opened(spec):
            probe = completions.Completions(spec, engine)
            spans.append(time.perf_counter())
            return probe

        completions.PROBE = opened
        transformers.utils.logging.set_verbosity_error()
        run = runner.run(spec, Path(folder) / "runs")
        seconds = time.perf_counter() - spans[0]
        print(f"{size / 1e6:.0f}M parameters, {run.findings[0].samples} completions of 32 tokens: {seconds:.1f} s")
        print(f"outside the model's forward: {100 * (seconds - inside[1]) / seconds:.2f}%")


if __name__ == "__main__":
    main()
