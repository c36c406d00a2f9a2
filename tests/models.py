"""Small models made on the spot, with the amplifier's tokenizer."""

import torch
import transformers
from transformers import AutoTokenizer

from detcheck.engines import amplifier


def llama_like(folder, seed=0, eos=None, **changes):
    """A plain Llama: 2 layers, seeded. Returns its folder."""
    shape = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = transformers.LlamaConfig(
        vocab_size=amplifier.VOCABULARY,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=None,
        **shape | changes,
    )
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)  # sharper than the default, so that margins are wide
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(folder)
    return folder
