"""The knobs of `detcheck reload`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from detcheck.errors import UsageError
from detcheck.models.stored import stored
from detcheck.options import MODEL, PROMPTS, SCHEDULE, SERVER, knob, same, words
from detcheck.probes.completions.options import Options as CompletionOptions
from detcheck.spec import Kernels, Spec

WAYS = ("files", "pipelined", "shared", "broadcast", "sleep")
NOT_THERE = {  # engine -> ways that it does not have, and what to do instead
    "transformers": (("sleep",), "sleep and wake_up are vLLM's calls. Use another way, or --engine vllm"),
    "vllm": ((), ""),
    "server": (
        ("pipelined", "shared", "broadcast"),
        "a server is told which folder to load, and nothing is sent to it. Use files or sleep, or --engine vllm",
    ),
}
MAX_TOKENS = 32
BUCKET_MIB = 64
EXAMPLES = (
    "detcheck reload --model ./step-200 --old ./step-100  # the weights of step 200 into an engine that runs step 100",
    "detcheck reload --engine vllm --update files,sleep  # two ways to update weights in vLLM",
)


@dataclass(frozen=True)
class Options:
    """Weights updated in place in an engine that runs, against a fresh load of the same: the same bits, and nothing left of the old?"""

    old: str | None = knob(
        None,
        help="Weights to begin with, of the same model. Default: made of the new ones.",
        panel=MODEL,
        metavar="FOLDER",
        engines=("transformers", "vllm"),
    )
    update: tuple[str, ...] = knob(
        ("files",),
        help="Like files,pipelined,shared,broadcast,sleep: each in an engine of its own.",
        panel=SCHEDULE,
        metavar="NAMES",
        read=words,
        values=WAYS,
    )
    keep_cache: bool = knob(
        False, help="Leave the prefix cache as the update leaves it.", panel=SCHEDULE, engines=("vllm", "server")
    )
    bucket_mib: int = knob(
        BUCKET_MIB, help="MiB that are sent at once.", panel=SCHEDULE, engines=("transformers", "vllm")
    )
    max_tokens: int = knob(MAX_TOKENS, help="Tokens per completion.", panel=PROMPTS)
    ignore_eos: bool = same(CompletionOptions, "ignore_eos")
    prompt: str | None = same(CompletionOptions, "prompt")
    prompt_file: str | None = same(CompletionOptions, "prompt_file")
    chat: bool = same(CompletionOptions, "chat")
    attn: str | None = same(CompletionOptions, "attn")
    compile: bool = same(CompletionOptions, "compile")
    trust_remote_code: bool = same(CompletionOptions, "trust_remote_code")
    engine: str = same(CompletionOptions, "engine")
    engine_arg: tuple[str, ...] = same(CompletionOptions, "engine_arg")
    base_url: tuple[str, ...] = knob(
        (),
        help="Update this server, which has the old weights.",
        panel=SERVER,
        metavar="URL",
        repeated=True,
        engines=("server",),
    )
    """one"""
    fresh_url: str | None = knob(
        None, help="A server that was started with the new weights.", panel=SERVER, metavar="URL", engines=("server",)
    )
    header: tuple[str, ...] = same(CompletionOptions, "header")
    ca_bundle: str | None = same(CompletionOptions, "ca_bundle")
    timeout: float = same(CompletionOptions, "timeout")

    max_concurrency: ClassVar[int] = 1
    max_requests: ClassVar[int | None] = None
    load_rate: ClassVar[float | None] = None
    SHARED: ClassVar[dict[str, dict[str, str]]] = {
        "model": {"help": "The new weights: hub id or folder. Default: the embedded amplifier."},
        "kernels": {"help": "Whose run: stock, batch-invariant; engine: vLLM's own."},
        "dtype": {},
        "device": {},
        "trials": {"help": "How often each prompt is asked before and after the update."},
        "fail_on": {},
    }

    __post_init__ = CompletionOptions.__post_init__


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    from detcheck.harness import engines, model
    from detcheck.models import gguf

    own: Options = spec.options
    model.check(spec)
    engine = engines.chosen(spec)
    if spec.kernels is Kernels.BOTH:
        raise UsageError(
            "--kernels both: reload needs no control arm, as the old weights are one. Use stock or batch-invariant"
        )
    if unknown := [way for way in own.update if way not in WAYS]:
        raise UsageError(f"--update {unknown[0]}: use {', '.join(WAYS)}")
    if len(set(own.update)) < len(own.update):
        raise UsageError("--update: one of them is given twice. Name each way once")
    lacking, why = NOT_THERE[engine]
    if other := [way for way in own.update if way in lacking]:
        raise UsageError(f"--update {other[0]}: {why}")
    for option, value in (("--max-tokens", own.max_tokens), ("--bucket-mib", own.bucket_mib)):
        if value < 1:
            raise UsageError(f"{option} must be at least 1; got {value}")
    if spec.model and gguf.of(spec.model):
        raise UsageError(f"--model {spec.model}: weights are updated from safetensors. Give a folder of them")
    if own.old is not None and not Path(own.old).expanduser().is_dir():
        raise UsageError(f"--old {own.old}: no such folder. Give the folder of a model, or leave it out")
    if engine == "server":
        check_server(spec)


def check_server(spec: Spec) -> None:
    own: Options = spec.options
    if len(own.base_url) != 1:
        raise UsageError(
            "--base-url: reload updates one server. Name the other one, with the new weights, by --fresh-url"
        )
    if own.fresh_url is None:
        raise UsageError(
            "--fresh-url: name a server that was started with the new weights, since what comes after the update is compared with its answers"
        )
    if spec.model is None:
        raise UsageError("--model: give the folder of the new weights as the server sees it; it is told to load that")
    if Path(spec.model).is_dir():  # vLLM takes its old weights apart before it looks for new ones
        stored(Path(spec.model), f"--model {spec.model}")
    if len(own.update) > 1:
        raise UsageError("--update: a server is updated once a run, since it has the new weights then. Name one way")
