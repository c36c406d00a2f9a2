"""Is what was loaded the model of the checkpoint? Whatever an architecture needs and a folder lacks, transformers makes up at random.

Tied weights and buffers that are derived are not missing, and what a class knows to ignore is not unused: transformers leaves both out of
its report.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from detcheck.errors import UsageError

SHOWN = 3  # names in a message
DERIVED = (
    "rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
)  # buffers of older checkpoints, computed again in each process


def refuse_other_kinds(name: str, config: Any) -> None:
    """Raises UsageError for what the config says is no causal language model, before the weights are read."""
    made = ", ".join(getattr(config, "architectures", None) or ()) or "a model that names no architecture"
    if getattr(config, "is_encoder_decoder", False):
        raise UsageError(
            f"--model {name} is {made}, an encoder with a decoder: transformers would run its decoder alone. "
            "Give a causal language model; detcheck.assert_batch_invariant takes any function of tensors, a whole model too"
        )
    if made.endswith("ForMaskedLM"):
        raise UsageError(
            f"--model {name} is {made}: each of its tokens looks at all others, so it completes nothing. Give a causal language model"
        )


def complete(name: str, config: Any, loaded: str, report: Mapping[str, Collection[Any]]) -> str:
    """What of the checkpoint was not used, in words; "" where all was. `report`: transformers' loading report, `loaded`: the class.

    Raises UsageError where tensors that the class needs are missing or of another shape: then they are random numbers.
    """
    made = ", ".join(getattr(config, "architectures", None) or ())
    lacking = {str(key) for key in report.get("missing_keys", ())}
    other = {str(key[0] if isinstance(key, tuple) else key) for key in report.get("mismatched_keys", ())}
    unused = {str(key) for key in report.get("unexpected_keys", ()) if not str(key).endswith(DERIVED)}
    if lacking or other:
        told = (("missing", lacking), ("of another shape", other), ("in it and not used", unused))
        what = [
            f"{len(names)} {'is' if len(names) == 1 else 'are'} {how} ({some(names)})" for how, names in told if names
        ]
        kind = f" The folder holds a {made}." if made and made != loaded else ""
        raise UsageError(
            f"--model {name} does not hold all tensors of {loaded}: {', '.join(what)}, so it would run with random numbers in their place."
            f"{kind} Give the folder of a causal language model with all its weights"
        )
    return f"{len(unused)} ({some(unused)})" if unused else ""


def some(names: Collection[str]) -> str:
    first = sorted(names)[:SHOWN]
    return ", ".join(first) + (", ..." if len(names) > SHOWN else "")
