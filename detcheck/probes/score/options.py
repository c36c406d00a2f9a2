"""The knobs of `detcheck score`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from detcheck.errors import UsageError
from detcheck.options import PROMPTS, SCHEDULE, knob, same
from detcheck.probes.completions.options import Options as CompletionOptions
from detcheck.probes.completions.options import check as check_sampling
from detcheck.spec import Spec
from detcheck.verdict import FailOn

EXAMPLES = (
    'detcheck score --prompt "The capital of France is" --continuation " Paris"  # one continuation, by the embedded model',
    "detcheck score --model ./model --prompt-file pairs.jsonl --kernels both  # a file of them, by stock kernels and by ours",
)


@dataclass(frozen=True)
class Options:
    """Log-probabilities of tokens that are given, as evaluation harnesses ask for them, alone and in batches of every kind: always the same bits?"""

    samples: int = knob(
        100, "--samples", "-n", help="Scores per continuation; of one padded alone there are more.", panel=SCHEDULE
    )
    """per arm too"""
    prompt: str | None = knob(None, help="The context.", panel=PROMPTS)
    continuation: str | None = knob(
        None, help="What is scored behind it, with the space between; empty: the prompt itself.", panel=PROMPTS
    )
    prompt_file: str | None = knob(None, help="A .jsonl with `prompt` and `continuation`.", panel=PROMPTS)
    attn: str | None = same(CompletionOptions, "attn")
    trust_remote_code: bool = same(CompletionOptions, "trust_remote_code")
    adapter: str | None = same(CompletionOptions, "adapter")
    merge_adapter: bool = same(CompletionOptions, "merge_adapter")
    engine: str = same(CompletionOptions, "engine")
    engine_arg: tuple[str, ...] = same(CompletionOptions, "engine_arg")
    base_url: tuple[str, ...] = same(CompletionOptions, "base_url")
    header: tuple[str, ...] = same(CompletionOptions, "header")
    ca_bundle: str | None = same(CompletionOptions, "ca_bundle")
    timeout: float = same(CompletionOptions, "timeout")
    max_concurrency: int = same(CompletionOptions, "max_concurrency")
    max_requests: int | None = same(CompletionOptions, "max_requests")
    load_rate: float | None = same(CompletionOptions, "load_rate")
    allow_unseen_batch: bool = same(CompletionOptions, "allow_unseen_batch")
    baseline: str | None = same(CompletionOptions, "baseline")

    max_tokens: ClassVar[int] = 1  # what fillers are given beyond their prompt
    ignore_eos: ClassVar[bool] = False
    chat: ClassVar[bool] = False
    temperature: ClassVar[float] = 0.0
    seeds: ClassVar[int] = 0
    conditions: ClassVar[tuple[str, ...] | None] = None
    SHARED: ClassVar[dict[str, dict[str, str]]] = CompletionOptions.SHARED

    __post_init__ = CompletionOptions.__post_init__


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    check_sampling(spec)
    if own.prompt_file is None and (own.prompt is None or own.continuation is None):
        raise UsageError(
            "score needs --prompt and --continuation, or --prompt-file with both on each line; an empty continuation asks for the prompt itself"
        )
    if own.prompt_file is not None and own.continuation is not None:
        raise UsageError("give --continuation or --prompt-file, not both")
    if spec.fail_on is FailOn.TOKENS:
        raise UsageError(
            "--fail-on tokens: the tokens are given, so they are always the same. Use any (the default) or never"
        )
