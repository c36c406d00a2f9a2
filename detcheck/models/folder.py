"""A model's name or path -> the folder that holds it, and content hashes of what is in there."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from detcheck.errors import FailedError, UsageError
from detcheck.hashes import content_hash, file_hash, files_hash
from detcheck.models import gguf, sentence
from detcheck.models.stored import elsewhere
from detcheck.redacted import hide_users

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.tiktoken",
    "chat_template*",
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def resolve(model: str) -> tuple[Path, Path | None]:
    """(the folder of a model, the GGUF file that its weights are in). Raises UsageError for what can be seen from here, FailedError where the hub does not deliver."""
    path = Path(model).expanduser()
    if file := gguf.of(model):
        return file.parent, file
    if path.is_dir():
        folder = path
    elif path.exists():
        raise UsageError(
            f"--model {model} is a file. Give the folder that holds config.json and *.safetensors, or a .gguf file"
        )
    elif not HUB_ID.fullmatch(model):
        raise UsageError(f"--model {model}: no such folder. Give an existing folder, or a hub id like Qwen/Qwen3-8B")
    else:
        folder = download(model)
    check(model, folder)
    return folder, None


def check(model: str, folder: Path) -> None:
    """Raises UsageError unless the folder holds a config and safetensors weights."""
    if (folder / "adapter_config.json").is_file():
        alone = not (folder / "config.json").is_file()
        cure = (
            "Give the folder of its model, and this one with --adapter"
            if alone
            else "Put it into a folder of its own and name that with --adapter, or merge it into its model (merge_and_unload() and save_pretrained() of peft)"
        )
        raise UsageError(
            f"--model {model}: {folder} holds a peft adapter (adapter_config.json), which would not be applied. {cure}"
        )
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"--model {model}: there is no config.json in {folder}. Give the folder of a Hugging Face model"
        )
    if not any(folder.glob("*.safetensors")):
        found = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
        has = (
            f"only pickled weights ({', '.join(found[:3])}), which run code when they are loaded"
            if found
            else "no weights"
        )
        raise UsageError(
            f"--model {model}: {folder} holds {has}. Convert them to safetensors: load the model and save_pretrained() it"
        )
    check_index(model, folder)


def check_index(model: str, folder: Path) -> None:
    """Raises UsageError for an index that names anything but safetensors files of the folder."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        try:
            other = elsewhere(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"--model {model}: {index.name} cannot be read ({type(error).__name__}: {error}). Save the model again"
            ) from None
        if other:
            raise UsageError(
                f"--model {model}: {index.name} names {other[0]!a}, which is no safetensors file of its folder. Save the model again"
            )


def code_of(folder: Path) -> str:
    """What its files name that is Python code of somebody else's, fetched or imported where they are obeyed; "" where there is none.

    A hub's attention kernels are code too: transformers takes their repository from the config.
    """
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "generation_config.json"):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if named := kernels_in(json.loads((folder / name).read_text("utf-8"))):
                return f"{name} names kernels of the hub ({named})"
    return ""


def kernels_in(value: object, under: str = "") -> str:
    if isinstance(value, dict):
        return next(
            filter(
                None, (kernels_in(one, name if "_implementation" in name else under) for name, one in value.items())
            ),
            "",
        )
    if isinstance(value, list):
        return next(filter(None, (kernels_in(one, under) for one in value)), "")
    return value if under and isinstance(value, str) and "/" in value else ""


def download(model: str) -> Path:
    """The hub's snapshot of a model, in its cache; nothing is fetched that is there already."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=[*WEIGHTS, *TOKENIZER, *sentence.FILES, "*.py"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = hide_users((str(error).splitlines() or [type(error).__name__])[0].rstrip("."))
        raise FailedError(
            f"there is no folder {model} here, and the model hub did not deliver it: {reason}. Check the name and the network"
        ) from None


def digests(folder: Path, code: bool, file: Path | None = None) -> dict[str, str]:
    """SHA-256 content hashes of the weights (config included, Python files where they are run, and what sentence-transformers does behind them)
    and of the tokenizer. `file`: a GGUF file, which has all of this in it, but for a tokenizer that lies beside it."""
    weights = {path for pattern in (*WEIGHTS, *(["*.py"] if code else [])) for path in folder.glob(pattern)}
    tokenizer = {path for pattern in TOKENIZER for path in folder.glob(pattern)}
    if file:
        whole = file_hash(file)
        return {"model": whole, "tokenizer": files_hash(tokenizer) if gguf.tokenizer_beside(file) else whole}
    behind = sorted({path for pattern in sentence.FILES for path in folder.glob(pattern)})
    model = files_hash(weights)
    if behind:  # in folders, where names repeat
        named = [f"{files_hash([path])}  {path.relative_to(folder).as_posix()}" for path in behind]
        model = content_hash(model.encode(), *map(str.encode, named))
    return {"model": model, "tokenizer": files_hash(tokenizer)}
