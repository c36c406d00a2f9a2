"""A model in a GGUF file: which file is meant, and what is needed to read it.

transformers reads such a file by turning its weights back into floating-point numbers: what runs are torch's kernels on these, and never
those of llama.cpp.
"""

from __future__ import annotations

import re
from pathlib import Path

from detcheck.errors import FailedError, UsageError

SUFFIX, MAGIC = ".gguf", b"GGUF"
SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")  # any of them is a whole one
INSTALL = "pip install 'detcheck[gguf]'"
SHOWN = 4  # names in a message


def of(model: str) -> Path | None:
    """The GGUF file that --model names, or the only one in a folder that has no other weights; None: it is another kind of model.

    Raises UsageError where there are several, or where it is not all there.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return within(model, path)
    if path.suffix.lower() != SUFFIX:
        return None
    if not path.is_file():
        raise UsageError(f"--model {model}: no such file. Give an existing GGUF file")
    return whole(path)


def within(model: str, folder: Path) -> Path | None:
    """See `of`."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX)
    if not found or any(folder.glob("*.safetensors")) or (folder / "adapter_config.json").is_file():
        return None
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
        raise UsageError(
            f"--model {model}: {folder} holds {len(found)} GGUF files ({names}). Name one of them, like --model {folder / found[0].name}"
        )
    return whole(found[0])


def whole(path: Path) -> Path:
    """Raises UsageError for what is no GGUF file, and for a part of one."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(MAGIC))
    except OSError as error:
        raise UsageError(f"--model {path}: cannot be read: {error.strerror}. Give a file that you may read") from None
    if begin != MAGIC:
        raise UsageError(
            f"--model {path}: is no GGUF file: it begins with {begin!a}, not with {MAGIC!a}. Fetch it again, or give another file"
        )
    split = SPLIT.search(path.name)
    if split and int(split[1]) > 1:
        raise UsageError(
            f"--model {path}: is one of {int(split[1])} parts, and transformers reads whole files. Put them together with llama-gguf-split --merge"
        )
    return path


def require() -> None:
    """Raises FailedError where a package that reads such files is not there."""
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise FailedError(f"reading a GGUF file needs gguf and accelerate ({error}): {INSTALL}") from None


def tokenizer_beside(path: Path) -> bool:
    """Whether there is one in its folder, which is taken rather than the one in the file: that is often made of less."""
    return any((path.parent / name).is_file() for name in TOKENIZERS)
