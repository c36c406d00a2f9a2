"""The folder of a LoRA adapter, as peft's save_pretrained() writes it: what can be told without its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from detcheck.errors import UsageError
from detcheck.hashes import files_hash
from detcheck.models.folder import PICKLES

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ELSEWHERE = ("alora_invocation_tokens", "megatron_config")  # kinds of LoRA that need more than the layers of a model


@dataclass(frozen=True)
class Adapter:
    """An adapter that was asked for."""

    given: str
    """as it was named"""
    folder: Path
    merged: bool
    """whether its products are added to the weights"""

    @property
    def digest(self) -> str:
        return files_hash([self.folder / CONFIG, self.folder / WEIGHTS])


def find(given: str | None, merged: bool) -> Adapter | None:
    """None where none is asked for. Raises UsageError unless the folder holds the config and the safetensors of a LoRA adapter."""
    if given is None:
        if merged:
            raise UsageError("--merge-adapter is about an adapter: name its folder with --adapter, or leave it out")
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UsageError(f"--adapter {given}: no such folder. Give the one that peft's save_pretrained() wrote")
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"--adapter {given}: there is no {CONFIG} in it. Give a folder that peft's save_pretrained() wrote"
        )
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"--adapter {given}: its {CONFIG} cannot be understood ({type(error).__name__}: {error}). Save the adapter again"
        ) from None
    if kind != "LORA":
        raise UsageError(
            f"--adapter {given} is of kind {kind}, and detcheck runs LoRA. Give a LoRA adapter, or merge it into its model"
        )
    if other := next((name for name in ELSEWHERE if config.get(name)), None):
        raise UsageError(f"--adapter {given} has {other}, and detcheck runs LoRA without it. Give another adapter")
    if not (folder / WEIGHTS).is_file():
        found = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        has = (
            f"only pickled weights ({', '.join(found[:3])}), which run code when they are loaded"
            if found
            else "no weights"
        )
        raise UsageError(
            f"--adapter {given} holds {has}. It must have {WEIGHTS}: load it with peft and save_pretrained() it"
        )
    return Adapter(given, folder, merged)
