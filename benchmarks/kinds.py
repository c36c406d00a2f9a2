"""Kinds of models, made small and at random, each asked by `detcheck batch` (or refused in words): stock, ours, and what ran without one of ours.

    python benchmarks/kinds.py            a Markdown table: docs/engines/transformers.md has one of these
    python benchmarks/kinds.py BERT Mamba

Whether stock reacts depends on the processor; whether ours does should not.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
import torchao.quantization as ao
import transformers as tf
from measured import record
from transformers import AutoTokenizer

from detcheck import runner
from detcheck.errors import FailedError, UsageError
from detcheck.finding import Run
from detcheck.models import amplifier
from detcheck.probes.batch.options import Options
from detcheck.spec import Kernels, Spec
from detcheck.verdict import Verdict

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "doubles"))
from gguf_files import Q8_0, as_gguf
from quantised import by_torchao

V = amplifier.VOCABULARY
DTYPE = "float32"
SMALL = {
    "vocab_size": V, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2, "tie_word_embeddings": False}
ROBERTA = SMALL | {"max_position_embeddings": 1026, "pad_token_id": 1}
STATES = {
    "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 64,
    "first_k_dense_replace": 1, "q_lora_rank": 64, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
FALCON = {
    "vocab_size": V,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
T5 = {"vocab_size": V, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
      "eos_token_id": 0, "decoder_start_token_id": 0}  # fmt: skip
BART = {"vocab_size": V, "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
        "decoder_start_token_id": 0, "forced_eos_token_id": None, "init_std": 0.2}  # fmt: skip
KINDS = {
    "Llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED)),
    "Mistral, sliding window": lambda: tf.MistralForCausalLM(tf.MistralConfig(**GROUPED, sliding_window=16)),
    "Gemma 3": lambda: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(**SMALL | {"num_hidden_layers": 6}, num_key_value_heads=2, head_dim=32, sliding_window=16)
    ),
    "Mixtral": lambda: tf.MixtralForCausalLM(
        tf.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)
    ),
    "gpt-oss (sinks)": lambda: tf.GptOssForCausalLM(
        tf.GptOssConfig(**GROUPED, head_dim=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=16)
    ),
    "DeepSeek-V3 (latent attention)": lambda: tf.DeepseekV3ForCausalLM(tf.DeepseekV3Config(**GROUPED | LATENT)),
    "Granite MoE": lambda: tf.GraniteMoeForCausalLM(
        tf.GraniteMoeConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)
    ),
    "Gemma 2 (soft caps)": lambda: tf.Gemma2ForCausalLM(
        tf.Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=32, sliding_window=16)
    ),
    "GPT-NeoX": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**SMALL)),
    "GPT-J (written out)": lambda: tf.GPTJForCausalLM(
        tf.GPTJConfig(vocab_size=V, n_embd=128, n_layer=2, n_head=4, rotary_dim=16, n_positions=1024, initializer_range=0.2,
                      bos_token_id=0, eos_token_id=0)
    ),
    "GPT-2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(n_embd=128, n_layer=2, n_head=4, n_positions=1024, vocab_size=V, bos_token_id=0, eos_token_id=0)
    ),
    "BLOOM (ALiBi)": lambda: tf.BloomForCausalLM(
        tf.BloomConfig(vocab_size=V, hidden_size=128, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    ),
    "Falcon (ALiBi)": lambda: tf.FalconForCausalLM(
        tf.FalconConfig(**FALCON, alibi=True, new_decoder_architecture=False, multi_query=False, initializer_range=0.2)
    ),
    "MPT (ALiBi)": lambda: tf.MptForCausalLM(
        tf.MptConfig(d_model=128, n_heads=4, n_layers=2, vocab_size=V, max_seq_len=1024, initializer_range=0.2, **ENDS)
    ),
    "RWKV": lambda: tf.RwkvForCausalLM(
        tf.RwkvConfig(vocab_size=V, hidden_size=128, num_hidden_layers=2, context_length=1024, bos_token_id=0, eos_token_id=0)
    ),
    "Jamba (hybrid)": lambda: tf.JambaForCausalLM(
        tf.JambaConfig(**GROUPED | {"num_hidden_layers": 4}, num_experts=4, num_experts_per_tok=2, attn_layer_period=2, attn_layer_offset=1,
                       expert_layer_period=2, expert_layer_offset=1, mamba_d_state=8, use_mamba_kernels=False)
    ),
    "Falcon-H1 (hybrid)": lambda: tf.FalconH1ForCausalLM(
        tf.FalconH1Config(**GROUPED, head_dim=32, mamba_d_ssm=128, mamba_n_heads=4, mamba_d_head=32, mamba_n_groups=1, mamba_d_state=16,
                          mamba_chunk_size=16)
    ),
    "Mamba": lambda: tf.MambaForCausalLM(
        tf.MambaConfig(vocab_size=V, hidden_size=128, state_size=16, num_hidden_layers=2, pad_token_id=0, bos_token_id=0,
                       eos_token_id=0, initializer_range=0.2)
    ),
    "Qwen3-Next (hybrid)": lambda: tf.Qwen3NextForCausalLM(tf.Qwen3NextConfig(**GROUPED, **STATES)),
    "Qwen3 embedder": lambda: tf.Qwen3Model(tf.Qwen3Config(**GROUPED, head_dim=32)),
    "T5 encoder": lambda: tf.T5EncoderModel(tf.T5Config(**T5)),
    "ModernBERT": lambda: tf.ModernBertModel(
        tf.ModernBertConfig(**SMALL, local_attention=16, cls_token_id=1, sep_token_id=2)
    ),
    "DeBERTa-v2": lambda: tf.DebertaV2Model(
        tf.DebertaV2Config(vocab_size=V, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
                           relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=32, share_att_key=True,
                           initializer_range=0.2, pad_token_id=0)
    ),
    "BERT": lambda: tf.BertModel(tf.BertConfig(**SMALL)),
    "BERT classifier": lambda: tf.BertForSequenceClassification(tf.BertConfig(**SMALL, num_labels=3)),
    "XLM-RoBERTa reranker": lambda: tf.XLMRobertaForSequenceClassification(tf.XLMRobertaConfig(**ROBERTA, num_labels=1)),
    "Llama reward model": lambda: tf.LlamaForSequenceClassification(tf.LlamaConfig(**GROUPED, num_labels=1)),
    "T5": lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)),
    "BART": lambda: tf.BartForConditionalGeneration(tf.BartConfig(**BART)),
    "LLaVA": lambda: tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(
            text_config=tf.LlamaConfig(**GROUPED),
            vision_config=tf.CLIPVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                              num_attention_heads=2, image_size=28, patch_size=14),
            image_token_index=V - 1,
        )
    ),
}  # fmt: skip
OTHERWISE = {  # name -> (what it is made of, how another model is made of that folder)
    "Llama, GGUF (Q8_0)": ("Llama", lambda folder, into: as_gguf(folder, into / "model.gguf", Q8_0)),
    "Llama, torchao int8 weights": ("Llama", lambda folder, into: by_torchao(folder, into, ao.Int8WeightOnlyConfig())),
    "Llama, torchao int8 weights and activations": (
        "Llama", lambda folder, into: by_torchao(folder, into, ao.Int8DynamicActivationInt8WeightConfig())
    ),
    "Llama, torchao fp8 weights": ("Llama", lambda folder, into: by_torchao(folder, into, ao.Float8WeightOnlyConfig())),
}  # fmt: skip
PROMPT = "jeda tona jiko mela suno pita"


def ask(folder: Path, kernels: Kernels) -> Run | str:
    """A run, or why there is none."""
    spec = Spec(
        "batch", Options(prompt=PROMPT), model=str(folder), kernels=kernels, dtype=DTYPE, batch_sizes=(1, 2, 3, 8)
    )
    try:
        ran = runner.run(spec, folder.with_name("runs"))
        return f"refused: {ran.findings[0].note}" if ran.verdict is Verdict.FAILED else ran
    except (UsageError, FailedError) as error:
        return f"refused: {error}".replace(str(folder), "FOLDER")


def line(kind: str) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as place:
        torch.manual_seed(0)
        folder = Path(place) / "model"
        plain, make = OTHERWISE.get(kind, (kind, None))
        KINDS[plain]().eval().save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(amplifier.folder())
        tokenizer.save_pretrained(folder)
        if make:
            into = Path(place) / "made"
            into.mkdir()
            make(folder, into)
            folder = into
            tokenizer.save_pretrained(folder)
        stock, ours = ask(folder, Kernels.STOCK), ask(folder, Kernels.BATCH_INVARIANT)
    if isinstance(stock, str):
        return kind, "", stock, "", ""
    task = stock.subject.environment.flags.get("task", "generate")
    return kind, task, verdict(stock), verdict(ours), "" if isinstance(ours, str) else uncovered(ours)


def verdict(run: Run | str) -> str:
    if isinstance(run, str):
        return run
    if not run.findings or run.findings[0].verdict is Verdict.FAILED:
        return f"failed: {run.findings[0].note if run.findings else run.error}"
    varies = run.findings[0].evidence.get("varies_with") or ()
    return f"{run.verdict}{' by ' + ', '.join(varies) if varies else ''}"


def uncovered(run: Run) -> str:
    found = run.findings[0].evidence.get("coverage", {"uncovered": {}}) if run.findings else {"uncovered": {}}
    alike = found.get("alike", {})
    return ", ".join(f"{op}{' (each row as alone)' if op in alike else ''}" for op in found["uncovered"]) or "nothing"


def main() -> None:
    print("| model | task | stock | ours | ran without one of ours |\n|---|---|---|---|---|")
    found = []
    for kind in sys.argv[1:] or (*KINDS, *OTHERWISE):
        found.append(line(kind))
        print(f"| {' | '.join(found[-1])} |", flush=True)
    ran = [row for row in found if row[3]]
    reacted = [row for row in ran if "variant" in row[2]]
    alike = [row for row in reacted if row[3].startswith("identical")]
    others = ", ".join(f"{row[0]} is {row[3]}" for row in reacted if row not in alike)
    record("kinds", [len(alike) / len(reacted)], f"{len(alike)} of {len(reacted)}; {others or 'no others'}")
    record("kinds-refused", [len(found) - len(ran)], f"of {len(found)} kinds")


if __name__ == "__main__":
    main()
