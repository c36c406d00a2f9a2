"""GGUF files of small models, written with the package `gguf` as llama.cpp's converter names and lays out their tensors."""

import gguf
import numpy as np
import safetensors.torch as st
import transformers
from tokenizers import pre_tokenizers

NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
F32, Q8_0, Q4_0 = (getattr(gguf.GGMLQuantizationType, name) for name in ("F32", "Q8_0", "Q4_0"))


def as_gguf(folder, path, kind=F32, tokenizer=False, without=(), more=(), architecture="llama"):
    """The Llama of a folder as one file. `kind`: of its matrices; `without`: tensors left out, `more`: names of some that are added."""
    config = transformers.AutoConfig.from_pretrained(folder)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("small")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if tokenizer:
        add_tokenizer(writer, config.vocab_size)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in st.load_file(folder / "model.safetensors").items():
        called = gguf_name(name)
        numbers = tensor.float().numpy()
        if n := heads.get(called.split(".")[-2]):
            numbers = permuted(numbers, n)
        if called not in without:
            add(writer, called, numbers, kind if numbers.ndim > 1 else F32)
    for name in more:
        add(writer, name, np.ones(config.head_dim // 2, np.float32), F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name):
    base = name.removesuffix(".weight")
    if base in NAMES:
        return f"{NAMES[base]}.weight"
    _, _, layer, part = base.split(".", 3)
    return f"blk.{layer}.{PARTS[part]}.weight"


def permuted(weights, heads):
    """Rows as llama.cpp's rotary embedding wants them: pairs beside each other."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))


def add(writer, name, numbers, kind):
    writer.add_tensor(name, numbers if kind == F32 else gguf.quants.quantize(numbers, kind), raw_dtype=kind)


def add_tokenizer(writer, size):
    """Byte-level BPE, as a file carries it: the bytes, and pairs of them as far as the size goes."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(a, b) for a in pieces for b in pieces][: size - len(pieces)]
    tokens = [*pieces, *map("".join, merges)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_eos_token_id(0)
    writer.add_token_merges(list(map(" ".join, merges)))
