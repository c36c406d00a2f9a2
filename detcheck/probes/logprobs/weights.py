"""Which tensors of a model's folder differ from another's: a digest of each, without loading the model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from detcheck.models.stored import tensors_of

BLOCK = 1 << 24  # bytes read at once


def tensor_digests(folder: Path) -> dict[str, str]:
    """Tensor -> SHA-256 of its dtype, shape and bits, over all safetensors files of the folder. {}: it has none. Raises UsageError where one is torn."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors = sorted(tensors_of(path, str(folder)), key=lambda tensor: tensor.name)
        with path.open("rb") as file:
            for tensor in tensors:
                digest = hashlib.sha256(json.dumps([tensor.dtype, tensor.shape]).encode())
                file.seek(tensor.start)
                left = tensor.nbytes
                while left > 0 and (block := file.read(min(left, BLOCK))):
                    digest.update(block)
                    left -= len(block)
                found[tensor.name] = digest.hexdigest()
    return found
