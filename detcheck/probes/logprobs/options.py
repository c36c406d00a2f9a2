"""The knobs of `detcheck logprobs`, and what can be known before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from detcheck.errors import UsageError
from detcheck.models import gguf
from detcheck.options import MODEL, PROMPTS, SCHEDULE, VERDICT, knob, same, words
from detcheck.probes.completions.options import Options as CompletionOptions
from detcheck.probes.logprobs.facts import ALONE, PACKED, PADDED
from detcheck.spec import Kernels, Spec
from detcheck.verdict import FailOn

ENGINES = ("vllm", "transformers")
CONDITIONS = (ALONE, "padded-4", "packed-4")
SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
EXAMPLES = (
    "detcheck logprobs sampler.jsonl trainer.jsonl  # two files of the same tokens",
    "detcheck logprobs --sampler vllm --trainer transformers --model ./model  # both sides, run here",
)


@dataclass(frozen=True)
class Options:
    """The log-probabilities of the same tokens, by the sampler and by the trainer: are they the same, and if not, is it numerics?

    Give two files, one file that holds both sides, a file and --trainer transformers, or --sampler and --trainer.
    """

    file: str | None = knob(None, help="The sampler's, or of both: JSONL, parquet, safetensors, npz.", argument=True)
    other: str | None = knob(None, help="The trainer's.", argument=True)
    sampler: str | None = knob(
        None, help="vllm, transformers, or a server's URL.", panel=MODEL, metavar="WHO", values=ENGINES
    )
    trainer: str | None = knob(None, help="transformers.", panel=MODEL, metavar="WHO", values=("transformers",))
    trainer_model: str | None = knob(None, help="The trainer's, where it has another one.", panel=MODEL)
    attn: str | None = same(CompletionOptions, "attn")
    trust_remote_code: bool = same(CompletionOptions, "trust_remote_code")
    engine_arg: tuple[str, ...] = same(CompletionOptions, "engine_arg")
    header: tuple[str, ...] = same(CompletionOptions, "header")
    sampling: tuple[str, ...] = knob(
        (), help="Like temperature=0.7. May be given again.", panel=PROMPTS, metavar="KEY=VALUE", repeated=True
    )
    """of the sampler: greedy unless told"""
    prompt: str | None = knob(None, help="Default: eight of unequal length.", panel=PROMPTS)
    prompt_file: str | None = same(CompletionOptions, "prompt_file")
    chat: bool = same(CompletionOptions, "chat")
    samples: int = knob(1, "--samples", "-n", help="Completions per prompt.", panel=SCHEDULE)
    max_tokens: int = knob(64, help="Tokens per completion.", panel=PROMPTS)
    ignore_eos: bool = same(CompletionOptions, "ignore_eos")
    conditions: tuple[str, ...] = knob(
        CONDITIONS,
        help="How the trainer scores: alone, padded-N, packed-N.",
        panel=SCHEDULE,
        metavar="NAMES",
        read=words,
    )
    max_kl: float | None = knob(None, help="Accept differences up to this KL estimate (k3), in nats.", panel=VERDICT)
    max_diff: float | None = knob(None, help="Accept differences of a token up to this, in nats.", panel=VERDICT)

    SHARED: ClassVar[dict[str, dict[str, str]]] = {
        "model": {},
        "kernels": {"help": "Whose both sides run: stock, batch-invariant, both; engine: vLLM's own."},
        "dtype": {},
        "device": {},
        "trials": {"help": "How often the trainer scores under each condition."},
        "fail_on": {},
        "fail_fast": {},
    }

    def __post_init__(self) -> None:
        """Raises UsageError for what is no URL. Whoever is named in one is kept apart from what is shown and stored."""
        if self.server:
            from detcheck.engines.server.credentials import Url

            object.__setattr__(self, "sampler", self.sampler if isinstance(self.sampler, Url) else Url(self.sampler))

    @property
    def server(self) -> bool:
        """Whether the sampler is one."""
        return "://" in (self.sampler or "")

    @property
    def runs_model(self) -> bool:
        """Whether a model runs here."""
        return self.trainer is not None or self.sampler is not None


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    if spec.fail_on is FailOn.TOKENS:
        raise UsageError(
            "--fail-on tokens: both sides score the same tokens. Use any (the default), never, or --max-kl and --max-diff for what you accept"
        )
    for name, limit in (("--max-kl", own.max_kl), ("--max-diff", own.max_diff)):
        if limit is not None and not limit >= 0:
            raise UsageError(f"{name} wants nats, from 0 up; got {limit}")
    if own.file is None:
        check_sides(spec)
    else:
        check_files(spec)
    if own.trainer is not None:
        check_trainer(spec)


def check_files(spec: Spec) -> None:
    own: Options = spec.options
    for path in (own.file, own.other):
        if path is not None and not Path(path).is_file():
            raise UsageError(f"{path}: no such file. Give a file of log-probabilities, or --sampler and --trainer")
    if own.sampler is not None:
        raise UsageError(f"{own.file} is the sampler's side, and --sampler {own.sampler} is one too. Leave one out")
    if own.samples != 1 or own.sampling or own.prompt is not None or own.prompt_file is not None:
        raise UsageError(
            f"{own.file} has the sequences. Leave out --samples, --sampling, --prompt and --prompt-file, which are of a sampler that runs"
        )
    if own.other is not None and own.trainer is not None:
        raise UsageError(f"{own.other} is the trainer's side, and --trainer {own.trainer} is one too. Leave one out")
    if own.other is not None and Path(own.file).resolve() == Path(own.other).resolve():
        raise UsageError(f"{own.file} and {own.other} are the same file. Give it once if it holds both sides")
    if own.trainer is None and (spec.model or own.trainer_model or spec.kernels is not Kernels.STOCK):
        raise UsageError(
            "files are compared as they are, and no model runs. Leave out --model and --kernels, or add --trainer transformers to score the sampler's tokens here"
        )


def check_sides(spec: Spec) -> None:
    own: Options = spec.options
    if own.trainer is None or own.sampler is None:
        raise UsageError(
            "logprobs needs two sides: --sampler vllm --trainer transformers, or two files, or one that holds both sides"
        )
    if own.sampler not in ENGINES and "://" not in own.sampler:
        raise UsageError(
            f"--sampler {own.sampler}: use {', '.join(ENGINES)}, or a server's URL; a file is given without --sampler"
        )
    for name, value in (("--samples", own.samples), ("--max-tokens", own.max_tokens)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1; got {value}")
    asked = dict(parameter(one) for one in own.sampling)
    if own.sampler != "vllm" and (more := [name for name in asked if name not in ("temperature", "seed")]):
        raise UsageError(
            f"--sampling {more[0]}: transformers and servers draw at a temperature, with a seed. Use --sampler vllm, or leave it out"
        )
    if asked and not asked.get("temperature"):
        raise UsageError("--sampling: needs temperature=T above 0 too; without it the likeliest token is taken")
    if own.samples > 1 and not asked.get("temperature"):
        raise UsageError(
            f"--samples {own.samples}: greedy samples of one prompt are one. Add --sampling temperature=1, or leave it out"
        )
    if own.sampler == "vllm" and spec.model and (file := gguf.of(spec.model)):
        raise UsageError(
            f"--model {spec.model}: --sampler vllm wants safetensors, and found {file.name}. Use --sampler transformers"
        )
    if own.engine_arg and own.sampler != "vllm":
        raise UsageError("--engine-arg is for vLLM. Leave it out, or use --sampler vllm")


def check_trainer(spec: Spec) -> None:
    from detcheck.harness import prompts

    own: Options = spec.options
    if own.trainer != "transformers":
        raise UsageError(
            f"--trainer {own.trainer}: use transformers; a file is given without --trainer, behind the sampler's"
        )
    for name in own.conditions:
        if name != ALONE and not re.fullmatch(rf"({PADDED}|{PACKED})-[1-9]\d*", name):
            raise UsageError(f"--conditions {name}: use {ALONE}, {PADDED}-N or {PACKED}-N, with a number of sequences")
    prompts.check(spec)
    if spec.kernels is Kernels.ENGINE and own.sampler != "vllm":
        raise UsageError("--kernels engine: is vLLM's own batch-invariant mode. Use --sampler vllm, or other kernels")


def parameter(text: str) -> tuple[str, float]:
    """ "top_p=0.9". Raises UsageError."""
    name, _, value = text.partition("=")
    if name not in SAMPLING:
        raise UsageError(f"--sampling {text}: use KEY=VALUE with one of {', '.join(SAMPLING)}")
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(f"--sampling {text}: wants a number behind {name}=") from None
