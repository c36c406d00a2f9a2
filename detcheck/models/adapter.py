"""The folder of a LoRA adapter, as peft's save_pretrained() writes it: what can be told without its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detcheck.errors import UsageError
from detcheck.hashes import files_hash
from detcheck.models.folder import PICKLES

if TYPE_CHECKING:
    from detcheck.spec import Spec

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OTHER = "--other-adapter"
RANK = 8  # that peft takes where a config names none
ELSEWHERE = ("alora_invocation_tokens", "megatron_config")  # kinds of LoRA that need more than the layers of a model


@dataclass(frozen=True)
class Adapter:
    """An adapter that was asked for."""

    given: str
    """as it was named"""
    folder: Path
    merged: bool
    """whether its products are added to the weights"""
    rank: int
    """the largest of its ranks"""
    flag: str = "--adapter"
    """that named it"""

    @property
    def named(self) -> str:
        return f"{self.flag} {self.given}"

    @property
    def digest(self) -> str:
        return files_hash([self.folder / CONFIG, self.folder / WEIGHTS])


def adapters_of(spec: Spec) -> tuple[Adapter | None, ...]:
    """Those that rows may have: the tested prompt's first, then its neighbours'; None is the model without one. (): there are none.

    Raises UsageError as `find` does, and where they do not go together.
    """
    own = spec.options
    tested = find(getattr(own, "adapter", None), getattr(own, "merge_adapter", False))
    others = [find(given, False, OTHER) for given in getattr(own, "other_adapter", ())]
    if not others:
        return (tested,) if tested else ()
    if tested and tested.merged:
        raise UsageError(
            f"{OTHER} and --merge-adapter: rows of a batch can have different adapters only where none is merged"
        )
    digests = [one.digest for one in (tested, *others) if one]
    if len(set(digests)) < len(digests):
        raise UsageError(
            f"{OTHER}: two of the adapters that are given are the same. Neighbours show something with another one"
        )
    return (tested, *others, *([None] if tested else []))


def digests_of(tested: Adapter | None, others: Sequence[Adapter | None]) -> dict[str, str]:
    """As they stand beside the model's."""
    beside = {f"other adapter {n}": one.digest for n, one in enumerate(others, 1) if one}
    return ({"adapter": tested.digest} if tested else {}) | beside


def find(given: str | None, merged: bool, flag: str = "--adapter") -> Adapter | None:
    """None where none is asked for. Raises UsageError unless the folder holds the config and the safetensors of a LoRA adapter."""
    if given is None:
        if merged:
            raise UsageError("--merge-adapter is about an adapter: name its folder with --adapter, or leave it out")
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UsageError(f"{flag} {given}: no such folder. Give the one that peft's save_pretrained() wrote")
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"{flag} {given}: there is no {CONFIG} in it. Give a folder that peft's save_pretrained() wrote"
        )
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        kind = config["peft_type"]
        rank = max(int(n) for n in (config.get("r", RANK), *(config.get("rank_pattern") or {}).values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{flag} {given}: its {CONFIG} cannot be understood ({type(error).__name__}: {error}). Save the adapter again"
        ) from None
    if kind != "LORA":
        raise UsageError(
            f"{flag} {given} is of kind {kind}, and detcheck runs LoRA. Give a LoRA adapter, or merge it into its model"
        )
    if other := next((name for name in ELSEWHERE if config.get(name)), None):
        raise UsageError(f"{flag} {given} has {other}, and detcheck runs LoRA without it. Give another adapter")
    if not (folder / WEIGHTS).is_file():
        found = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        has = (
            f"only pickled weights ({', '.join(found[:3])}), which run code when they are loaded"
            if found
            else "no weights"
        )
        raise UsageError(
            f"{flag} {given} holds {has}. It must have {WEIGHTS}: load it with peft and save_pretrained() it"
        )
    return Adapter(given, folder, merged, rank, flag)
