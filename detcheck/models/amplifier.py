"""The embedded model: a tiny Qwen3, made on the spot from a seed, that turns a rounding error into another token.

It is the positive control. Two things make it so sensitive. Every layer writes three times more into the residual stream than
the one before, so each layer sees almost only its predecessor and differences are multiplied from layer to layer instead of
being averaged away; and the query and key norms are so large that attention almost picks a single key, so a small difference
picks another one. A relative error of 1e-7 in the first layer is of order one at the logits within a few tokens.

The weights are the same bits on every machine: each is the sum of the four 16-bit digits of one word of a counter-based
generator (Philox), which is exact and bell-shaped, times one power-free float32 scale, which is one correctly rounded
multiplication.
"""

import json
import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from detcheck.errors import FailedError, UsageError
from detcheck.files import cache_folder
from detcheck.hashes import content_hash

NAME = "amplifier"
RECIPE = 1  # raise it with any change to what is written, so that an older folder in a cache is not taken for this one
SEED = 1
LAYERS, HIDDEN, INNER = 10, 128, 256
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 32
VOCABULARY = 2048
CONTEXT = 4096  # tokens
GROWTH = 3  # how much louder each layer is than the one before
SHARPNESS = 5.0  # weight of the query and key norms: logits of attention grow with its square
DIGITS_STD = (
    37837.227  # standard deviation of the sum of four independent uniform 16-bit digits, 2 * sqrt((2**32 - 1) / 12)
)
WEIGHTS_HASH = "b7f82d6eb1e1e03223a62a92789c32562c18114c0ffe7155d58b9f8377fcb289"

# About 300 tokens: long enough to leave the short-prompt paths of attention kernels.
PROMPT = (
    "Tell me about Richard Feynman. He liked to take things apart: radios first, then safes, then the rules by which light "
    "and matter meet. He said that the first principle is not to fool yourself, and that you are the easiest person to fool. "
    "So ask the same question twice, write down every bit, and look where the two answers part. If they never do, say how "
    "often you asked, and in what company the question travelled."
)


def folder() -> Path:
    """The model's folder in the cache, made first if it is not there. Takes a second or two, once.

    Raises UsageError if the cache cannot be written (set DETCHECK_CACHE), FailedError if the weights are not the known bits.
    """
    target = cache_folder() / f"{NAME}-{RECIPE}"
    try:
        if sound(target):
            return target
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{NAME}-", dir=target.parent))
        try:
            make(made)
            made.chmod(0o755)
            os.replace(made, target)
        except OSError:
            if not sound(target):  # else another process was faster: its folder has the same bits
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"cannot keep the embedded model in {target.parent}: {error.strerror}. Set DETCHECK_CACHE to a writable folder, or give --model"
        ) from None
    return target


def sound(target: Path) -> bool:
    """Whether the folder holds the model, with exactly the weights that it must have."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return tensors_hash(load_file(target / "model.safetensors")) == WEIGHTS_HASH
    except (FileNotFoundError, SafetensorError):
        return False


def tensors_hash(tensors: dict[str, np.ndarray]) -> str:
    return content_hash(*(part for name in sorted(tensors) for part in (name.encode(), tensors[name].tobytes())))


def make(target: Path) -> None:
    """Write config, weights and tokenizer into an existing folder. Raises FailedError if the weights' hash is not the known one."""
    from safetensors.numpy import save_file

    tensors = weights()
    found = tensors_hash(tensors)
    if found != WEIGHTS_HASH:
        raise FailedError(
            f"the embedded model's weights hash to {found[:12]}, not {WEIGHTS_HASH[:12]}: this numpy's Philox is not the one they are "
            "defined by. Please report it; meanwhile give --model"
        )
    (target / "config.json").write_text(json.dumps(config(), indent=1))
    (target / "generation_config.json").write_text(
        json.dumps({"do_sample": False, "eos_token_id": 0, "pad_token_id": 0})
    )
    save_tokenizer(target)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def config() -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "dtype": "float32",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def weights() -> dict[str, np.ndarray]:
    """All tensors by their names in the checkpoint, float32. Drawn in a fixed order from one stream."""
    stream = np.random.Philox(key=SEED)

    def draw(rows: int, columns: int, scale: float) -> np.ndarray:
        digits = stream.random_raw(rows * columns).view(np.uint16).reshape(rows, columns, 4)
        bell = digits.sum(-1, dtype=np.int32) - 2 * 65535  # mean of four digits; integers below 2**24, exact in float32
        return bell.astype(np.float32) * np.float32(scale / DIGITS_STD)

    def linear(outputs: int, inputs: int, gain: float = 1.0) -> np.ndarray:
        return draw(outputs, inputs, gain / math.sqrt(inputs))

    tensors = {"model.embed_tokens.weight": draw(VOCABULARY, HIDDEN, 1.0)}
    ones = np.ones(HIDDEN, np.float32)
    for layer in range(LAYERS):
        name, loudness = f"model.layers.{layer}.", float(GROWTH**layer)
        tensors |= {
            name + "self_attn.q_proj.weight": linear(HEADS * HEAD_DIM, HIDDEN),
            name + "self_attn.k_proj.weight": linear(KV_HEADS * HEAD_DIM, HIDDEN),
            name + "self_attn.v_proj.weight": linear(KV_HEADS * HEAD_DIM, HIDDEN),
            name + "self_attn.o_proj.weight": linear(HIDDEN, HEADS * HEAD_DIM, 2 * loudness),
            name + "mlp.gate_proj.weight": linear(INNER, HIDDEN),
            name + "mlp.up_proj.weight": linear(INNER, HIDDEN),
            name + "mlp.down_proj.weight": linear(HIDDEN, INNER, 3 * loudness),
            name + "self_attn.q_norm.weight": np.full(HEAD_DIM, SHARPNESS, np.float32),
            name + "self_attn.k_norm.weight": np.full(HEAD_DIM, SHARPNESS, np.float32),
            name + "input_layernorm.weight": ones.copy(),
            name + "post_attention_layernorm.weight": ones.copy(),
        }
    head = linear(VOCABULARY, HIDDEN)
    head[:FIRST_WORD] = 0.0  # logit 0: never the largest, so that only whole words are ever said
    return tensors | {"model.norm.weight": ones, "lm_head.weight": head}


# The vocabulary: an end mark, the 256 bytes (so that any prompt can be read), syllables, and words of two syllables with a
# space before them (so that what the model says can be read).
CONSONANTS, VOWELS = "bdfgklmnprstvzjh", "aeio"
SYLLABLES = [c + v for c in CONSONANTS for v in VOWELS]
END, SPACE = "<|end|>", "Ġ"  # the second is the byte-level alphabet's letter for a space
FIRST_WORD = 1 + 256 + 2 * len(SYLLABLES)


def save_tokenizer(target: Path) -> None:
    """A byte-level BPE whose merges build syllables from letters and words from two syllables."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(c, v) for c in CONSONANTS for v in VOWELS]
    merges += [(SPACE, syllable) for syllable in SYLLABLES]
    pairs = [(SPACE + first, second) for first in SYLLABLES[::-1] for second in SYLLABLES]
    merges += pairs[: VOCABULARY - FIRST_WORD]
    tokens = [END, *pieces, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
