"""Folders with a Hugging Face model each, for `side_by_side.py`: one whose bits follow the batch, and one whose sums are exact."""

import numpy as np
from side_by_side_server import BATCH, SOUND, Fault

FOLDERS = [
    Fault("amplifier", "stock kernels of torch on a model that turns a rounding error into another word", *BATCH),
    Fault("exact", "nothing: sound. The same model with weights whose sums are exact in every order", *SOUND),
]


def make(fault, target):
    """Write the model into an existing folder."""
    from detcheck.models import amplifier

    amplifier.make(target)
    if fault.name == "exact":
        exact(target / "model.safetensors")


def exact(file):
    """Replace the weights, so that no sum has more than one term that is rounded or not zero, whatever the order of additions.

    A token's embedding is a row of 1 and -1, so the mean of its squares is 1. Attention and MLP write zeros into the residual
    stream. Each row of the head has one element, so a logit is one product.
    """
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    for name, values in tensors.items():
        if "o_proj" in name or "down_proj" in name:
            values[:] = 0
    embedding, head = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    embedding[:] = np.where(embedding < 0, -1, 1)
    rows = np.arange(len(head))
    spoken = np.flatnonzero(head.any(1))  # the other rows stay zero: bytes and halves of words are never said
    head[:] = 0
    head[spoken, rows[spoken] % head.shape[1]] = 1 + rows[spoken] / 4096
    save_file(tensors, file, metadata={"format": "pt"})
