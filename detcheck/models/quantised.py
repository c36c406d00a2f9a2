"""A checkpoint whose weights are quantised: by which method its config says, and what of that runs here."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from detcheck.errors import FailedError, UsageError

NUMBERS = (
    "I8",
    "U8",
    "I4",
    "U4",
    "F8_E4M3",
    "F8_E5M2",
    "F4",
    "I32",
)  # safetensors' dtypes that no weight has by itself
PACKAGES = {  # method -> (package, how it is installed)
    "torchao": ("torchao", "'detcheck[torchao]'"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
}
SCALES = ("_scale", "_scale_inv")
ELSEWHERE = "Give the checkpoint in floating point, or ask a server that runs it with --base-url"


def settings(config: Any) -> Any:
    """What the config says of it; None: nothing."""
    for one in (config, config.get_text_config()):
        if found := getattr(one, "quantization_config", None):
            return found
    return None


def method(config: Any) -> str:
    """Its name, as the config says it; "": it is not quantised."""
    found = settings(config)
    if found is None:
        return ""
    if isinstance(found, str | list | int | float):
        return f"{found!a}"
    get = found.get if isinstance(found, Mapping) else lambda key: getattr(found, key, None)
    named = get("quant_method")
    if named is None and (get("load_in_8bit") or get("load_in_4bit")):
        named = "bitsandbytes"  # as older files say it
    return str(getattr(named, "value", named) or "a method without a name")


def refuse_unread(name: str, config: Any, folder: Path) -> None:
    """Raises UsageError where transformers would take the integers of quantised weights for the weights themselves, FailedError where a
    package is not there."""
    named = method(config)
    if not named:
        if getattr(config, "auto_map", None):  # a class of the checkpoint's own may know what to do with them
            return
        if found := next((f"{key} in {kind}" for key, kind in kinds(folder) if is_weight(key, kind)), ""):
            raise UsageError(
                f"--model {name} holds quantised weights ({found}), and its config.json does not say by which method (quantization_config). {ELSEWHERE}"
            )
        return
    require(named)
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if named != "bitsandbytes" and named not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise UsageError(
            f"--model {name} is quantised by {named}, which transformers does not know, so that it would read the weights as they lie. {ELSEWHERE}"
        )

    if lone := sorted(without_scale(dict(kinds(folder)))):
        raise UsageError(
            f"--model {name} is quantised by {named}, and {len(lone)} of its weights have no scale beside them (like {lone[0]}), so that they would be "
            "taken as they lie. Fetch the checkpoint again, or convert it again"
        )


def without_scale(held: Mapping[str, str]) -> Iterator[str]:
    """Weights in float8 whose scale is in no tensor. What lacks of other kinds transformers reports itself."""
    for key, kind in held.items():
        if kind.startswith("F8_E") and key.endswith("weight") and not any(f"{key}{end}" in held for end in SCALES):
            yield key


def is_weight(key: str, kind: str) -> bool:
    return kind in NUMBERS and key.endswith("weight")


def kinds(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, dtype) of each tensor in the folder's safetensors. A file that is torn is left to who loads it."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(size)) if size < path.stat().st_size else {}
            yield from ((key, entry["dtype"]) for key, entry in header.items() if key != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
            continue


def require(named: str) -> None:
    """Raises FailedError where the package of a method is not there, and transformers would not say which it is."""
    package, install = PACKAGES.get(named, ("", ""))
    if package and not find_spec(package):
        raise FailedError(f"a checkpoint quantised by {named} needs {package}: pip install {install}")


def described(model: Any, config: Any) -> str:
    """What of a quantised model runs, in words; "" where it is none. `model`: as transformers loaded it, `config`: the checkpoint's."""
    named = method(config)
    if not named:
        return ""
    found = getattr(model, "hf_quantizer", None)
    if found is None or getattr(found.quantization_config, "dequantize", False):
        return f"{named}, turned back into {str(model.dtype).removeprefix('torch.')} by transformers when it was loaded"
    kind = getattr(found.quantization_config, "quant_type", None)
    return f"{named} {type(kind).__name__}" if named == "torchao" and kind is not None else named
