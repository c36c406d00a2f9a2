"""Which tensors of a model's folder differ from another's: a digest of each, without loading the model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

BLOCK = 1 << 24  # bytes read at once


def tensor_digests(folder: Path) -> dict[str, str]:
    """Tensor -> SHA-256 of its dtype, shape and bits, over all safetensors files of the folder. {}: it has none."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            for name, one in sorted(header.items()):
                if name == "__metadata__":
                    continue
                begin, end = one["data_offsets"]
                digest = hashlib.sha256(json.dumps([one["dtype"], one["shape"]]).encode())
                file.seek(8 + length + begin)
                left = end - begin
                while left > 0 and (block := file.read(min(left, BLOCK))):
                    digest.update(block)
                    left -= len(block)
                found[name] = digest.hexdigest()
    return found
