"""Content hashes: equal hashes are equal bytes."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def content_hash(*parts: bytes) -> str:
    """SHA-256 over the parts, each preceded by its length, so that no two sequences of parts collide by concatenation."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def json_hash(value: object) -> str:
    """Content hash of a JSON value, independent of key order."""
    return content_hash(json.dumps(value, sort_keys=True).encode())


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, whatever it is called."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_hash(paths: Iterable[Path]) -> str:
    """Content hash over files: their names and SHA-256s, in order of name. The same files give the same hash anywhere."""
    lines = [f"{file_hash(path)}  {path.name}\n" for path in sorted(paths, key=lambda p: p.name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
