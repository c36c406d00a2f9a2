"""Small models made on the spot, with the amplifier's tokenizer."""

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import AutoTokenizer

from detcheck.models import amplifier


def llama_like(folder, seed=0, eos=None, **changes):
    """A plain Llama: 2 layers, seeded. Returns its folder."""
    shape = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    shape |= {"vocab_size": amplifier.VOCABULARY, "max_position_embeddings": 256}
    config = transformers.LlamaConfig(bos_token_id=None, eos_token_id=eos, pad_token_id=None, **shape | changes)
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)  # sharper than the default, so that margins are wide
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(folder)
    return folder


def gemma_like(folder, seed=0, vocabulary=128_000):
    """A Gemma 2: 2 layers, a sliding window in one of them, soft caps, tied weights, and a tokenizer of a real one's size."""
    config = transformers.Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=64,
        max_position_embeddings=2048,
        query_pre_attn_scalar=32,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    model = transformers.Gemma2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    save_large_tokenizer(folder, vocabulary)
    return folder


def mixture(folder, seed=0):
    """A Qwen3 with experts: 2 layers of 4, of which a token goes through 2."""
    config = transformers.Qwen3MoeConfig(
        vocab_size=amplifier.VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    transformers.Qwen3MoeForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(folder)
    return folder


def save_large_tokenizer(folder, vocabulary):
    """Byte-level BPE: the bytes, pairs of bytes, and triples as far as the size goes."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(a, b) for a in pieces for b in pieces]
    pairs = [a + b for a, b in merges]
    merges += [(pair, c) for c in pieces for pair in pairs[:512]][: vocabulary - len(pieces) - len(pairs)]
    tokens = [*pieces, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(f"{folder}/tokenizer.json")
    with open(f"{folder}/tokenizer_config.json", "w") as file:
        file.write('{"tokenizer_class": "PreTrainedTokenizerFast"}')
