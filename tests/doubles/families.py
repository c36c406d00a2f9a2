"""Families of models that people train, small and at random; how a sampler and a trainer score the same tokens with them.

The sampler is vLLM with our kernels, the trainer transformers with ours. All vLLM engines live in one process, since starting it takes longest.
"""

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
import transformers as tf
from transformers import AutoTokenizer

from detcheck.engine import Row
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.vllm import engine as vllm_engine
from detcheck.engines.vllm import process
from detcheck.models import amplifier
from detcheck.spec import Kernels
from detcheck.switch import batch_invariant

V = amplifier.VOCABULARY
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
PLAIN = {
    "vocab_size": V, "hidden_size": 128, "intermediate_size": 272, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 1024, "initializer_range": 0.2, **ENDS,
}  # fmt: skip
GROUPED = PLAIN | {"num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 256}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0, "original_max_position_embeddings": 256}
QWEN = {"rope_type": "default", "rope_theta": 1000000.0}
SLIDING = {"head_dim": 32, "sliding_window": 24}
FAMILIES = {
    "Qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**GROUPED)),
    "Qwen2, YaRN": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**GROUPED, rope_parameters=YARN)),
    "Qwen3": lambda: tf.Qwen3ForCausalLM(
        tf.Qwen3Config(**GROUPED, head_dim=128, rope_parameters=QWEN, tie_word_embeddings=True)
    ),
    "Llama 3": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED, rope_parameters=LLAMA3)),
    "Mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**GROUPED, **SLIDING)),
    "Gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**GROUPED, head_dim=32)),
    "Gemma 2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**GROUPED, **SLIDING, query_pre_attn_scalar=24)),
    "Gemma 3": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**GROUPED | {"num_hidden_layers": 6}, **SLIDING)),
    "Phi-3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**GROUPED)),
    "OLMo 2": lambda: tf.Olmo2ForCausalLM(tf.Olmo2Config(**GROUPED)),
    "Granite": lambda: tf.GraniteForCausalLM(
        tf.GraniteConfig(**GROUPED, embedding_multiplier=12.0, attention_multiplier=0.1, residual_multiplier=0.22,
                         logits_scaling=8.0)
    ),
    "SmolLM3": lambda: tf.SmolLM3ForCausalLM(tf.SmolLM3Config(**GROUPED)),
    "StarCoder2": lambda: tf.Starcoder2ForCausalLM(
        tf.Starcoder2Config(**GROUPED, residual_dropout=0.0, embedding_dropout=0.0)
    ),
    "StableLM": lambda: tf.StableLmForCausalLM(tf.StableLmConfig(**GROUPED)),
    "GLM-4": lambda: tf.Glm4ForCausalLM(tf.Glm4Config(**GROUPED, head_dim=32)),
    "Cohere": lambda: tf.CohereForCausalLM(tf.CohereConfig(**GROUPED)),
    "GPT-NeoX": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**PLAIN)),
    "GPT-2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(n_embd=128, n_layer=2, n_head=4, n_positions=1024, vocab_size=V, resid_pdrop=0.0, embd_pdrop=0.0,
                      attn_pdrop=0.0, **ENDS)
    ),
    "OPT": lambda: tf.OPTForCausalLM(
        tf.OPTConfig(vocab_size=V, hidden_size=128, num_hidden_layers=2, ffn_dim=256, num_attention_heads=4,
                     max_position_embeddings=1024, word_embed_proj_dim=128, dropout=0.0, bos_token_id=0, eos_token_id=0,
                     pad_token_id=0)
    ),
    "Qwen3 MoE": lambda: tf.Qwen3MoeForCausalLM(
        tf.Qwen3MoeConfig(**GROUPED, head_dim=32, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2)
    ),
}  # fmt: skip
# How a log-probability is made of float32 logits. TRL and verl take the second where logits are float32, the first in other dtypes.
FORMS = {
    "log-softmax": lambda logits, place: logits.log_softmax(-1).gather(-1, place[:, None])[:, 0],
    "logsumexp": lambda logits, place: logits.gather(-1, place[:, None])[:, 0] - logits.logsumexp(-1),
    "cross entropy": lambda logits, place: -torch.nn.functional.cross_entropy(logits, place, reduction="none"),
}
LAYOUTS = ("alone", "padded right", "padded left", "packed")
FILLED = 0  # id of the token in padding


def made(family, folder, seed=0):
    """A model's folder. Norms are not all ones and biases not all zeros."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(folder)
    return folder


# Engines that were open are kept: vLLM takes down what others share with them.
START = (
    "import sys; from detcheck.engines.vllm import host; begin = host.Host.__init__; kept = []; "
    "host.Host.__init__ = lambda self, settings: (kept.append(self), begin(self, settings))[1]; host.main(int(sys.argv[1]))"
)


@contextlib.contextmanager
def one_vllm():
    """Inside, all vLLM engines with one kind of kernels are opened one after the other in one process."""
    started = {}

    class Shared(process.Process):
        def close(self):
            """At the end of the block."""

    def shared(kernels, *arguments, **options):
        if kernels not in started:
            started[kernels] = Shared(kernels, *arguments, **options)
        return started[kernels]

    before = vllm_engine.Process, process.START
    vllm_engine.Process, process.START = shared, START
    try:
        yield
    finally:
        vllm_engine.Process, process.START = before
        for each in started.values():
            process.Process.close(each)


def sampled(folder, dtype, prompts, count):
    """(the sequences, log-probabilities of the tokens that vLLM made, and of all but the first when it scores the whole), a list a sequence."""
    engine = vllm_engine.VllmEngine(
        str(folder), dtype, arguments=["kv_cache_memory_bytes=60000000"], kernels=Kernels.BATCH_INVARIANT
    )
    engine.load(256)
    with engine.running("batch-invariant") as calls:
        found = engine.complete([Row(prompt) for prompt in prompts], count, ignore_eos=True).completions
        whole = [prompt + found[n].tokens for n, prompt in enumerate(prompts)]
        scored = [engine.score([Row(each)], len(each) - 1).completions[0].logprobs for each in whole]
    stock = sorted({name for name, _ in calls if name.startswith("stock")})
    return whole, [found[n].logprobs for n in range(len(prompts))], scored, stock


def logits_of(model, sequences, layout):
    """[n, V] of each sequence, of one forward pass; alone: of one each."""
    if layout == "alone":
        return [logits_of(model, [each], "padded right")[0] for each in sequences]
    if layout == "packed":
        ids = torch.tensor([[token for each in sequences for token in each]])
        places = torch.tensor([[place for each in sequences for place in range(len(each))]])
        return model(input_ids=ids, position_ids=places, use_cache=False).logits[0].split([*map(len, sequences)])
    width = max(map(len, sequences))
    left = layout == "padded left"
    gaps = [(width - len(each)) * (1 if left else 0) for each in sequences]
    ids, mask = torch.full((len(sequences), width), FILLED), torch.zeros(len(sequences), width, dtype=torch.long)
    for n, (gap, each) in enumerate(zip(gaps, sequences, strict=True)):
        ids[n, gap : gap + len(each)], mask[n, gap : gap + len(each)] = torch.tensor(each), 1
    more = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if left else {}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits
    return [logits[n, gap : gap + len(each)] for n, (gap, each) in enumerate(zip(gaps, sequences, strict=True))]


def trained(model, sequences, layout, form="log-softmax", train=True):
    """Log-probabilities of all tokens but the first, a list a sequence, as a training step has them; `train`: with gradients, which are made."""
    model.train(train)
    model.zero_grad()
    with batch_invariant(), torch.set_grad_enabled(train):
        found = [
            FORMS[form](logits[:-1].float(), torch.tensor(each[1:]))
            for logits, each in zip(logits_of(model, sequences, layout), sequences, strict=True)
        ]
        if train:
            sum(each.sum() for each in found).backward()
    model.eval()
    return [each.detach().numpy() for each in found]


@dataclass
class Scored:
    """What everybody gave for the same sequences."""

    sequences: list[tuple[int, ...]]
    logprobs: dict[str, list[np.ndarray] | None]
    """who scored -> of each sequence those of all tokens but the first; None: it made other tokens"""
    stock: list[str]
    """ops of vLLM's that are not ours"""
    engine: TransformersEngine

    def apart(self, who="vLLM, prompt"):
        """Who scored -> how far from that one; the others too."""
        return {name: apart(self.logprobs[who], made) for name, made in self.logprobs.items()}


def scores(folder, dtype, prompts, count, forms=()):
    """All ways of scoring, of which the first is vLLM's own of a prompt. `forms`: of a trainer in evaluation mode, beside the layouts."""
    whole, decoded, scored, stock = sampled(folder, dtype, prompts, count)
    engine = TransformersEngine(str(folder), dtype)
    engine.load()
    with engine.running("batch-invariant"):
        again = engine.complete([Row(prompt) for prompt in prompts], count, ignore_eos=True).completions
    heads = [each[: len(prompt) - 1] for each, prompt in zip(scored, prompts, strict=True)]

    def behind(made):
        return [np.concatenate(pair) for pair in zip(heads, made, strict=True)]

    same = all(again[n].tokens == each[len(prompts[n]) :] for n, each in enumerate(whole))
    found = {"vLLM, prompt": scored, "vLLM, decode": behind(decoded)}
    found["transformers, decode"] = behind([again[n].logprobs for n in range(len(prompts))]) if same else None
    found |= {f"trainer, {layout}": trained(engine._model, whole, layout) for layout in LAYOUTS}
    found |= {f"trainer, {form}": trained(engine._model, whole, "alone", form, train=False) for form in forms}
    return Scored(whole, found, stock, engine)


def apart(a, b):
    """(numbers of other bits, all, the largest distance) of two lists of float32 arrays; None for other tokens."""
    if b is None:
        return None
    a, b = (np.concatenate(each).astype(np.float32) for each in (a, b))
    return int((a.view(np.uint32) != b.view(np.uint32)).sum()), len(a), float(np.abs(a - b).max())
