"""The knobs of `detcheck completions`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from detcheck import sampling
from detcheck.errors import UsageError
from detcheck.harness import engines, prompts
from detcheck.models.cache import Cache
from detcheck.options import MODEL, PROMPTS, SCHEDULE, SERVER, VERDICT, knob, words
from detcheck.spec import Spec

EXAMPLES = (
    "detcheck completions -n 24 --max-tokens 48 --kernels both  # the embedded model, by stock kernels and by ours",
    "detcheck completions --model ./model --engine vllm -n 1000  # your model in vLLM, as requests arrive",
)


def kinds() -> list[str]:
    """Conditions that a shell completes, of any engine."""
    from detcheck.schedules import arrivals, load, lone

    return sorted({*arrivals.KINDS, *lone.KINDS, *load.KINDS})


@dataclass(frozen=True)
class Options:
    """N completions of a prompt, greedy or seeded, in batches of every kind: how many distinct, where do they fork?"""

    samples: int = knob(100, "--samples", "-n", help="Completions per prompt.", panel=SCHEDULE)
    """per arm and seed too"""
    max_tokens: int = knob(128, help="Tokens per completion.", panel=PROMPTS)
    temperature: float = knob(0.0, help="Above 0 tokens are drawn. Needs --seeds.", panel=PROMPTS)
    seeds: int = knob(0, help="Seeds to draw with, each a case.", panel=PROMPTS)
    ignore_eos: bool = knob(False, help="Go on to --max-tokens past an end token.", panel=PROMPTS)
    prompt: str | None = knob(
        None,
        help="Default: 'Tell me about Richard Feynman', longer where there is a prefix cache; the amplifier has its own.",
        panel=PROMPTS,
    )
    prompt_file: str | None = knob(None, help="One a line, or .jsonl with `prompt` or `messages`.", panel=PROMPTS)
    chat: bool = knob(False, help="Put prompts through the tokenizer's chat template.", panel=PROMPTS)
    turns: bool = knob(False, help="Answer every turn of `messages`, earlier answers fed back.", panel=PROMPTS)
    attn: str | None = knob(
        None,
        help="Attention: sdpa, eager ... Default: the model's own.",
        panel=MODEL,
        engines=("transformers",),
        values=("sdpa", "eager", "flash_attention_2"),
    )
    cache: str = knob(
        "dynamic",
        help="dynamic or static, as generate's cache_implementation.",
        panel=MODEL,
        metavar="NAME",
        values=tuple(Cache),
        engines=("transformers",),
    )
    compile: bool = knob(False, help="Run it through torch.compile.", panel=MODEL, engines=("transformers",))
    trust_remote_code: bool = knob(
        False, help="Run Python code that comes with the model.", panel=MODEL, engines=("transformers", "vllm")
    )
    adapter: str | None = knob(
        None,
        help="A LoRA adapter to put on, as peft saves it.",
        panel=MODEL,
        metavar="FOLDER",
        engines=("transformers", "vllm"),
    )
    merge_adapter: bool = knob(
        False, help="Merge the adapter into the weights.", panel=MODEL, engines=("transformers",)
    )
    other_adapter: tuple[str, ...] = knob(
        (),
        help="An adapter of neighbours (adapters-N). May be given again.",
        panel=MODEL,
        metavar="FOLDER",
        repeated=True,
        engines=("transformers", "vllm"),
    )
    engine: str = knob(
        "auto",
        help="auto, transformers or vllm. auto: vLLM where a GPU is.",
        panel=MODEL,
        metavar="NAME",
        values=("auto", "transformers", "vllm"),
    )
    engine_arg: tuple[str, ...] = knob(
        (),
        help="For vLLM, like max_num_seqs=64. May be given again.",
        panel=MODEL,
        metavar="KEY=VALUE",
        repeated=True,
        engines=("vllm",),
    )
    conditions: tuple[str, ...] | None = knob(
        None,
        help="Like alone,wave-8,chunked. Default: those the samples pay for.",
        panel=SCHEDULE,
        metavar="NAMES",
        read=words,
        values=kinds,
    )
    """names or kinds"""
    base_url: tuple[str, ...] = knob(
        (),
        help="Ask this server instead. Repeat for each replica.",
        panel=SERVER,
        metavar="URL",
        repeated=True,
        engines=("server",),
    )
    """(): the model runs here"""
    header: tuple[str, ...] = knob(
        (),
        help="A header whose value is in an environment variable.",
        panel=SERVER,
        metavar="NAME=VARIABLE",
        repeated=True,
        engines=("server",),
    )
    ca_bundle: str | None = knob(
        None, help="Certificates that TLS is verified by.", panel=SERVER, metavar="FILE", engines=("server",)
    )
    """None: the system's"""
    timeout: float = knob(300.0, help="Seconds that a request may take.", panel=SERVER, engines=("server",))
    max_concurrency: int = knob(64, help="Requests in flight at once.", panel=SERVER, engines=("server",))
    max_requests: int | None = knob(
        None, help="Requests to send in all. Default: no limit.", panel=SERVER, engines=("server",)
    )
    load_rate: float | None = knob(
        None, help="Add a steady load of so many requests a second.", panel=SERVER, engines=("server",)
    )
    allow_unseen_batch: bool = knob(
        False, help="Accept a pass where the server does not show its batches.", panel=SERVER, engines=("server",)
    )
    baseline: str | None = knob(
        None, help="A run, or the baseline.json of one, that this one must be equal to.", panel=VERDICT, metavar="RUN"
    )

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

    def __post_init__(self) -> None:
        """Raises UsageError for what is no URL. Whoever is named in one is kept apart from what is shown and stored."""
        if self.base_url:
            from detcheck.engines.server.credentials import Url

            object.__setattr__(
                self, "base_url", tuple(url if isinstance(url, Url) else Url(url) for url in self.base_url)
            )


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    from detcheck.harness import model

    own: Options = spec.options
    engine = model.check(spec)
    for option, value in (("--samples", own.samples), ("--max-tokens", own.max_tokens)):
        if value < 1:
            raise UsageError(f"{option} must be at least 1; got {value}")
    sampling.check(spec)
    engine.check_schedule(spec)
    if own.baseline is not None:
        if not Path(own.baseline).exists():
            raise UsageError(
                f"--baseline {own.baseline}: no such file. Give a run's folder, or the baseline.json in it"
            )
        if Path(own.baseline).is_file():
            from detcheck.storage import baselines

            baselines.read(Path(own.baseline))


def estimate(spec: Spec) -> str:
    """What asking servers would cost, in words. Nothing is sent. Raises UsageError."""
    found = engines.kind(spec).estimate
    if found is None:
        raise UsageError("--dry-run is for servers: give --base-url too, or leave it out")
    check(spec)
    return found(spec, prompts.asked(spec))
