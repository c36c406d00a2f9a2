"""What a folder's sentence-transformers files say of an embedding: how tokens are pooled, and what is done to that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detcheck.errors import UsageError

FILE = "modules.json"
FILES = (FILE, "sentence_*_config.json", "[0-9]*_*/config.json", "[0-9]*_*/*.safetensors")
MODES = {  # key of older files -> mode; several are put one behind the other, in this order
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
OF_A_SENTENCE = "sentence_embedding"
ACTIVATIONS = "torch.nn.modules."
LONGEST_PATH = 200  # characters


@dataclass(frozen=True)
class Dense:
    """A linear layer behind the pooling, with its activation."""

    weights: Path
    activation: str
    """name of a class in torch.nn"""


@dataclass(frozen=True)
class Normalize:
    """To length 1."""


@dataclass(frozen=True)
class Pooling:
    """How an embedding is made of hidden states."""

    modes: tuple[str, ...]
    layers: tuple[Dense | Normalize, ...] = ()
    source: str = FILE
    """what says so"""

    def __str__(self) -> str:
        layers = ["dense" if isinstance(layer, Dense) else "normalized" for layer in self.layers]
        return f"{', '.join([' and '.join(self.modes), *layers])} ({self.source})"


def pools(folder: Path) -> bool:
    """Whether sentence-transformers makes one embedding of a text with this model."""
    return any(kind(module) == "Pooling" for module in modules(folder))


def modules(folder: Path) -> list[dict[str, str]]:
    """Raises UsageError where the file is there and cannot be read."""
    found = read(folder / FILE) if (folder / FILE).is_file() else []
    if not isinstance(found, list) or not all(map(is_module, found)):
        raise UsageError(f"{folder / FILE} is no list of modules with `type` and `path`. Save the model again")
    return found


def is_module(one: object) -> bool:
    """With its kind, and a folder of its own inside the model's."""
    if not isinstance(one, dict):
        return False
    named, path = one.get("type"), one.get("path")
    texts = isinstance(named, str) and isinstance(path, str) and len(path) <= LONGEST_PATH and "\0" not in path
    return texts and not Path(path).is_absolute() and ".." not in Path(path).parts


def kind(module: dict[str, str]) -> str:
    return module["type"].rsplit(".", 1)[-1]


def longest(folder: Path) -> int:
    """Tokens to which sentence-transformers cuts a text; a number beyond all contexts where it does not."""
    settings = [read(path) for path in sorted(folder.glob("sentence_*_config.json"))]
    found = [s["max_seq_length"] for s in settings if isinstance(s, dict) and s.get("max_seq_length")]
    if unlike := [one for one in found if type(one) is not int or one < 1]:
        raise UsageError(
            f"{folder}: max_seq_length is {str(unlike[0])[:40]!a}, which is no number of tokens. Save the model again"
        )
    return min(found, default=2**31)


def pooling(folder: Path) -> Pooling | None:
    """None: the folder has no such files. Raises UsageError for modules that are not known here."""
    found = modules(folder)
    if not found:
        return None
    modes: tuple[str, ...] = ()
    layers: list[Dense | Normalize] = []
    for module in found[1:] if kind(found[0]) == "Transformer" else found:
        where = folder / module["path"]
        config = read(where / "config.json") if (where / "config.json").is_file() else {}
        if not isinstance(config, dict):
            raise UsageError(f"{where / 'config.json'} holds no object. Save the model again")
        if kind(module) == "Pooling" and not modes:
            modes = modes_of(config, where)
        elif kind(module) == "Normalize" and modes and of_a_sentence(config):
            layers.append(Normalize())
        elif kind(module) == "Dense" and modes and of_a_sentence(config) and not config.get("use_residual"):
            layers.append(dense(config, where))
        elif kind(module) != "Dropout":
            raise UsageError(
                f"{folder / FILE} names {kind(module)} ({where.name or 'no folder'}), and what it makes of the hidden states is not known here. "
                "Known are Transformer, one Pooling, Dense, Normalize and Dropout; detcheck.assert_batch_invariant takes any function of tensors"
            )
    if not modes:
        raise UsageError(
            f"{folder / FILE} names no Pooling, so it says of no embedding how it is made. Ask with --task generate"
        )
    return Pooling(modes, tuple(layers))


def of_a_sentence(config: dict[str, Any]) -> bool:
    names = (config.get("module_input_name"), config.get("module_output_name"))
    return all(name in (None, OF_A_SENTENCE) for name in names)


def modes_of(config: dict[str, Any], where: Path) -> tuple[str, ...]:
    named = config.get("pooling_mode") or [mode for key, mode in MODES.items() if config.get(key)] or ["mean"]
    modes = tuple(named) if isinstance(named, list) else (named,)
    if unknown := [mode for mode in modes if mode not in MODES.values()]:
        raise UsageError(
            f"{where} pools by {unknown[0]}, which is not known here. Known are {', '.join(MODES.values())}"
        )
    return modes


def dense(config: dict[str, Any], where: Path) -> Dense:
    path, activation = (
        where / "model.safetensors",
        config.get("activation_function") or "torch.nn.modules.linear.Identity",
    )
    if not path.is_file():
        raise UsageError(
            f"{where} holds no model.safetensors. Load the model with sentence-transformers and save it again"
        )
    if not isinstance(activation, str) or not activation.startswith(ACTIVATIONS):
        raise UsageError(
            f"{where} names the activation {str(activation)[:100]}, which is none of torch.nn, so it is not run"
        )
    return Dense(path, activation.rsplit(".", 1)[-1])


def read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}. Save the model again") from None
