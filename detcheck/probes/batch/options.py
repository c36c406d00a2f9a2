"""The knobs of `detcheck batch`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from detcheck.errors import UsageError
from detcheck.models.task import Task
from detcheck.options import MODEL, PROMPTS, knob
from detcheck.spec import Spec

DECODED = 4  # tokens fed one by one in `decode`: the first step after a prefill and some behind it


@dataclass(frozen=True)
class Options:
    """What a model gives for one prompt (last logits, embedding or score), alone and in batches of every size: is it always the same row?"""

    prompt: str | None = knob(None, help="Default: that of completions.", panel=PROMPTS)
    prompt_file: str | None = knob(None, help="One a line, or .jsonl with `prompt` or `messages`.", panel=PROMPTS)
    chat: bool = knob(False, help="Put prompts through the tokenizer's chat template.", panel=PROMPTS)
    attn: str | None = knob(None, help="Attention: sdpa, eager ... Default: the model's own.", panel=MODEL)
    trust_remote_code: bool = knob(False, help="Run Python code that comes with the model.", panel=MODEL)
    adapter: str | None = knob(
        None,
        help="A LoRA adapter to put on, as peft saves it.",
        panel=MODEL,
        metavar="FOLDER",
        engines=("transformers",),
    )
    merge_adapter: bool = knob(
        False, help="Merge the adapter into the weights.", panel=MODEL, engines=("transformers",)
    )
    task: Task = knob(
        Task.AUTO, help="generate, embed or score. auto: by the model's files.", panel=MODEL, metavar="NAME"
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
