"""The knobs of `detcheck score`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from detcheck.errors import UsageError
from detcheck.options import MODEL, PROMPTS, SCHEDULE, VERDICT, knob
from detcheck.probes.completions.options import check as check_sampling
from detcheck.spec import Spec
from detcheck.verdict import FailOn


@dataclass(frozen=True)
class Options:
    """Log-probabilities of tokens that are given, as evaluation harnesses ask for them, alone and in batches of every kind: always the same bits?"""

    samples: int = knob(
        100, "--samples", "-n", help="Scores per continuation; of one padded alone there are more.", panel=SCHEDULE
    )
    """per arm too"""
    prompt: str | None = knob(None, help="The context.", panel=PROMPTS)
    continuation: str | None = knob(
        None, help="What is scored behind it; a space between belongs to it.", panel=PROMPTS
    )
    prompt_file: str | None = knob(None, help="A .jsonl with `prompt` and `continuation`.", panel=PROMPTS)
    attn: str | None = knob(
        None, help="Attention: sdpa, eager ... Default: the model's own.", panel=MODEL, engines=("transformers",)
    )
    trust_remote_code: bool = knob(
        False, help="Run Python code that comes with the model.", panel=MODEL, engines=("transformers", "vllm")
    )
    engine: str = knob(
        "auto", help="auto, transformers or vllm. auto: vLLM where a GPU is.", panel=MODEL, metavar="NAME"
    )
    engine_arg: tuple[str, ...] = knob(
        (),
        help="For vLLM, like max_num_seqs=64. May be given again.",
        panel=MODEL,
        metavar="KEY=VALUE",
        repeated=True,
        engines=("vllm",),
    )
    baseline: str | None = knob(
        None, help="A run, or the baseline.json of one, that this one must be equal to.", panel=VERDICT, metavar="RUN"
    )

    max_tokens: ClassVar[int] = 1  # what fillers are given beyond their prompt
    ignore_eos: ClassVar[bool] = True
    conditions: ClassVar[tuple[str, ...] | None] = None
    SHARED: ClassVar[dict[str, dict[str, str]]] = {
        "model": {},
        "kernels": {},
        "dtype": {},
        "device": {},
        "batch_sizes": {"help": "Like 1,8,64. Default: the thresholds that the samples pay for."},
        "trials": {"help": "Repeats of every condition, at least."},
        "seed": {},
        "fail_on": {},
        "fail_fast": {},
    }


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    check_sampling(spec)
    if own.prompt_file is None and (own.prompt is None or own.continuation is None):
        raise UsageError("score needs --prompt and --continuation, or --prompt-file with both on each line")
    if own.prompt_file is not None and own.continuation is not None:
        raise UsageError("give --continuation or --prompt-file, not both")
    if own.continuation == "":
        raise UsageError("--continuation is empty. Give the text that is to be scored")
    if spec.fail_on is FailOn.TOKENS:
        raise UsageError(
            "--fail-on tokens: the tokens are given, so they are always the same. Use any (the default) or never"
        )
