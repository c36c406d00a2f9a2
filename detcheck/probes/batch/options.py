"""The knobs of `detcheck batch`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from detcheck.condition_name import kind_of
from detcheck.errors import UsageError
from detcheck.models.cache import Cache
from detcheck.models.task import Task
from detcheck.options import MODEL, PROMPTS, knob, same
from detcheck.probes.completions.options import Options as CompletionOptions
from detcheck.spec import Spec

DECODED = 4  # tokens fed one by one in `decode`: the first step after a prefill and some behind it
EXAMPLES = (
    "detcheck batch --batch-sizes 1,8,64 --kernels both  # the embedded model's logits, alone, among 8 and among 64",
    "detcheck batch --model ./model --backward  # gradients of one sample's loss, alone and among others",
)


@dataclass(frozen=True)
class Options:
    """What a model gives for one prompt (logits, embedding or score), alone and in batches of every size: is it always the same row?"""

    prompt: str | None = knob(None, help="Default: that of completions.", panel=PROMPTS)
    prompt_file: str | None = same(CompletionOptions, "prompt_file")
    chat: bool = same(CompletionOptions, "chat")
    attn: str | None = same(CompletionOptions, "attn")
    cache: str = same(CompletionOptions, "cache")
    compile: bool = same(CompletionOptions, "compile")
    trust_remote_code: bool = same(CompletionOptions, "trust_remote_code")
    adapter: str | None = same(CompletionOptions, "adapter")
    merge_adapter: bool = same(CompletionOptions, "merge_adapter")
    task: Task = knob(
        Task.AUTO, help="generate, embed or score. auto: by the model's files.", panel=MODEL, metavar="NAME"
    )
    backward: bool = knob(
        False, help="Ask for the gradients of the prompt's loss, in the place of its logits.", panel=MODEL
    )

    max_tokens: ClassVar[int] = 1  # what fillers are given beyond their prompt, and the context must have room for
    SHARED: ClassVar[dict[str, dict[str, str]]] = {
        "model": {},
        "kernels": {},
        "dtype": {},
        "device": {},
        "batch_sizes": {"help": "Like 1,8,256. Default: the thresholds up to 64."},
        "trials": {},
        "seed": {},
        "fail_on": {},
        "fail_fast": {},
    }


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    from detcheck.harness import model

    if spec.options.task not in tuple(Task):
        raise UsageError(f"--task {spec.options.task}: use {', '.join(Task)}")
    model.check(spec)
    own = spec.options
    if own.backward:
        refused = {
            f"--task {own.task}": own.task not in (Task.AUTO, Task.GENERATE),
            "--compile": own.compile,
            f"--cache {own.cache}": own.cache != Cache.DYNAMIC,
            "--adapter": own.adapter and not own.merge_adapter,
        }
        for what, given in refused.items():
            if given:
                raise UsageError(
                    f"--backward takes a causal model as a trainer runs it, in one piece. Leave {what} out"
                )


def fillers(condition: str) -> str:
    """What neighbours are seeded by: they are the same however many there are, but where a row is asked for among others."""
    return "mixed" if kind_of(condition) == "mixed" else "batch"
