"""The knobs of `detcheck batch`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from detcheck.probes.completions import options as completions
from detcheck.records import Spec


@dataclass(frozen=True)
class Options:
    """The knobs of this probe."""

    prompt: str | None = None
    """None: the default prompt, unless there is a file"""
    prompt_file: str | None = None
    chat: bool = False
    """put prompts through the chat template"""
    attn: str | None = None
    """attention implementation; None: the model's own"""
    trust_remote_code: bool = False

    max_tokens: ClassVar[int] = 1  # what fillers are given beyond their prompt, and the context must have room for


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    same = completions.Options(
        1_000_000, 1, False, own.prompt, own.prompt_file, own.chat, own.attn, own.trust_remote_code
    )
    completions.check(Spec("completions", same, spec.model, spec.kernels, device=spec.device, trials=spec.trials))
