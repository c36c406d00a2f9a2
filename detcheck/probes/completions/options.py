"""The knobs of `detcheck completions`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from detcheck.errors import UsageError
from detcheck.harness.arms import check_kernels
from detcheck.harness.engines import chosen
from detcheck.harness.prompts import Question, read_prompts
from detcheck.probes.completions import server_options
from detcheck.records import Spec
from detcheck.schedules import arrivals as traffic
from detcheck.schedules.batches import fit
from detcheck.storage import baselines

DEFAULT_PROMPT = "Tell me about Richard Feynman"


@dataclass(frozen=True)
class Options:
    """The knobs of this probe."""

    samples: int = 100
    """completions, per prompt and per arm"""
    max_tokens: int = 128
    """per completion"""
    ignore_eos: bool = False
    prompt: str | None = None
    """None: the default prompt, unless there is a file"""
    prompt_file: str | None = None
    chat: bool = False
    """put prompts through the chat template"""
    attn: str | None = None
    """attention implementation; None: the model's own"""
    trust_remote_code: bool = False
    engine: str = "auto"
    """auto, transformers or vllm"""
    engine_arg: tuple[str, ...] = field(default=(), metadata={"repeated": True})
    """ "key=value" each, for vLLM"""
    conditions: tuple[str, ...] | None = None
    """names or kinds of conditions; None: as many as the samples pay for"""
    base_url: tuple[str, ...] = field(default=(), metadata={"repeated": True})
    """of servers that are asked; (): the model runs here"""
    header: tuple[str, ...] = field(default=(), metadata={"repeated": True})
    """ "NAME=VARIABLE" each: headers whose values are in the environment"""
    ca_bundle: str | None = None
    """file of certificates that TLS is verified by; None: the system's"""
    timeout: float = 300.0
    """seconds that a request may take"""
    max_concurrency: int = 64
    """requests in flight at once"""
    max_requests: int | None = None
    """that may be sent in all; None: no limit"""
    load_rate: float | None = None
    """requests a second of a steady load; None: there is none"""
    allow_unseen_batch: bool = False
    """let a pass stand where the server does not show its batches"""
    baseline: str | None = None
    """run or baseline that this one must be equal to; None: there is none"""

    def __post_init__(self) -> None:
        """Raises UsageError for what is no URL. Whoever is named in one is kept apart from what is shown and stored."""
        if self.base_url:
            from detcheck.engines.server.client import Url

            object.__setattr__(
                self, "base_url", tuple(url if isinstance(url, Url) else Url(url) for url in self.base_url)
            )


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    server_options.check(spec)
    engine = "server" if getattr(own, "base_url", ()) else chosen(spec)
    if engine == "transformers":
        check_kernels(spec.kernels, spec.device)
    for option, value in (("--samples", own.samples), ("--max-tokens", own.max_tokens), ("--trials", spec.trials)):
        if value < 1:
            raise UsageError(f"{option} must be at least 1; got {value}")
    if own.prompt is not None and own.prompt_file is not None:
        raise UsageError("give --prompt or --prompt-file, not both")
    if own.prompt is not None and not own.prompt.strip():
        raise UsageError("--prompt is empty. Give it a text, or leave it out for the default prompt")
    if spec.model is not None and not spec.model.strip():
        raise UsageError("--model is empty. Give a folder or a hub id, or leave it out for the embedded amplifier")
    if engine == "transformers":
        fit(own.samples, spec.trials, spec.batch_sizes, own.conditions, max_rows=2**31)
    elif engine == "vllm":
        traffic.check(own.conditions)
    if (named := getattr(own, "baseline", None)) is not None:
        if not Path(named).exists():
            raise UsageError(f"--baseline {named}: no such file. Give a run's folder, or the baseline.json in it")
        if Path(named).is_file():
            baselines.read(Path(named))
    if own.prompt_file is not None and not Path(own.prompt_file).is_file():
        raise UsageError(f"--prompt-file {own.prompt_file}: no such file")


def asked_questions(spec: Spec) -> list[Question]:
    """The prompts. Raises UsageError where the file cannot be read."""
    own: Options = spec.options
    if own.prompt_file is not None:
        return read_prompts(Path(own.prompt_file))
    if own.prompt is None and spec.model is None and not getattr(own, "base_url", ()):
        from detcheck.models.amplifier import PROMPT

        return [Question(text=PROMPT)]
    return [Question(text=DEFAULT_PROMPT if own.prompt is None else own.prompt)]


def estimate(spec: Spec) -> str:
    """What asking servers would cost, in words. Nothing is sent. Raises UsageError."""
    if not spec.options.base_url:
        raise UsageError("--dry-run is for servers: give --base-url too, or leave it out")
    check(spec)
    return server_options.estimate(spec, asked_questions(spec))
