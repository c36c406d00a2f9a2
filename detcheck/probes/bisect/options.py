"""The knobs of `detcheck bisect`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from detcheck.errors import UsageError
from detcheck.harness.engines import chosen, kind
from detcheck.options import MODEL, PROMPTS, flag, knob, same
from detcheck.probes.batch.options import DECODED as FED_ONE_BY_ONE
from detcheck.probes.batch.options import Options as BatchOptions
from detcheck.probes.completions.options import Options as CompletionOptions
from detcheck.spec import Kernels, Spec

if TYPE_CHECKING:
    from collections.abc import Set

    from detcheck.probe import Stored
    from detcheck.probes.bisect.from_run import Differing

SIZES = (2, 8)
REFUSED = ("enforce_eager=false",)
SEVERAL = ("tensor_parallel_size=", "pipeline_parallel_size=")
DECODED = 2  # tokens fed one by one: the first step after a prefill, and one on a cache that a step wrote
EXAMPLES = (
    "detcheck bisect runs/20261124T041500Z-completions  # which op made that run differ",
    "detcheck bisect --model ./model --apply  # also replace each cause by a kernel of ours, until nothing differs",
)


@dataclass(frozen=True)
class Options:
    """Which module and which op gives a prompt other bits in a batch than alone, and is it the run or the batch?"""

    run: str | None = knob(None, help="A run of completions or batch that found a difference.", argument=True)
    """folder; it gives what else is asked"""
    prompt: str | None = same(BatchOptions, "prompt")
    prompt_file: str | None = same(CompletionOptions, "prompt_file")
    chat: bool = same(CompletionOptions, "chat")
    attn: str | None = same(CompletionOptions, "attn")
    trust_remote_code: bool = same(CompletionOptions, "trust_remote_code")
    adapter: str | None = same(CompletionOptions, "adapter")
    merge_adapter: bool = same(CompletionOptions, "merge_adapter")
    engine: str = knob(
        "transformers",
        help="transformers, or vllm: there modules are looked at, not ops.",
        panel=MODEL,
        values=("transformers", "vllm"),
    )
    engine_arg: tuple[str, ...] = same(CompletionOptions, "engine_arg")
    decode: int = knob(DECODED, help="Last tokens that are fed one by one.", panel=PROMPTS)
    apply: bool = knob(False, help="Then replace each cause by a kernel of ours, one kind at a time.", panel=MODEL)

    name: str = ""
    """of a run: which of its prompts"""
    tokens: tuple[int, ...] = ()
    """of a run: that prompt's"""
    weights: str = ""
    """of a run: digest of the model's, and of its adapter's"""
    condition: str | None = None
    """of a run: the batch that differs"""
    company: tuple[int, ...] = ()
    """of a run: that batch's rows"""
    fed: tuple[int, ...] = ()
    """of a run: tokens that came before the first that differs; they are fed one by one"""
    padding: int = 0
    """of a run: pad tokens before the prompt, where it is padded alone"""
    max_tokens: int = 1
    """of a run: what its fillers were given beyond their prompt"""
    arrivals: tuple[int, ...] = ()
    """of a run in vLLM: engine steps after the first, a row each"""
    new_tokens: tuple[int, ...] = ()
    """of a run in vLLM: tokens that a row makes; 0: as many as a sample does"""
    token_budget: int | None = None
    """of a run in vLLM: tokens that one engine step may compute"""
    cached: bool = False
    """of a run in vLLM: whether the prompt was in the prefix cache"""

    FROM_RUN: ClassVar[tuple[str, ...]] = (
        "model", "kernels", "dtype", "device", "seed", "batch_sizes", "prompt", "prompt_file", "chat", "attn", "trust_remote_code",
        "adapter", "merge_adapter", "engine", "engine_arg", "decode", "name", "tokens", "weights", "condition", "company", "fed",
        "padding", "max_tokens", "arrivals", "new_tokens", "token_budget", "cached",
    )  # fmt: skip
    SHARED: ClassVar[dict[str, dict[str, str]]] = {
        "model": {},
        "kernels": {},
        "dtype": {},
        "device": {},
        "batch_sizes": {"help": "Like 2,8. Default: 2,8."},
        "trials": {"help": "Runs of every condition, and calls of every op."},
        "seed": {},
        "fail_on": {},
    }


def completed(spec: Spec, named: Set[str], stored: Stored) -> Spec:
    """The question that a run leaves open, where one is named. Raises UsageError for options that are the run's own."""
    path = spec.options.run
    if path is None:
        return spec
    if clash := next((name for name in Options.FROM_RUN if name in named), None):
        raise UsageError(f"{flag(clash)} is the run's own where a run is given. Leave one of them out")
    from detcheck.probes.bisect.from_run import first_divergence

    run, observations, outcomes = stored(path)
    return of_run(path, spec, run.spec, first_divergence(run, observations, outcomes))


def of_run(path: str, spec: Spec, asked: Spec, found: Differing) -> Spec:
    """The question that a run leaves open: its own model, prompt and batch."""
    for name, value in (
        ("--cache", getattr(asked.options, "cache", "dynamic")),
        ("--compile", getattr(asked.options, "compile", False)),
    ):
        if value not in ("dynamic", False):
            said = name if value is True else f"{name} {value}"
            raise UsageError(
                f"{path} was made with {said}, and bisect looks at an eager model with a dynamic cache. Give a run without {name}, or no run"
            )
    theirs, same = asked.options, {"decode": FED_ONE_BY_ONE if found.decoding else len(found.fed)}
    same |= {
        name: getattr(theirs, name) for name in ("attn", "trust_remote_code", "adapter", "merge_adapter", "max_tokens")
    }
    place = {
        "prompt": found.prompt.text,
        "name": found.prompt.name,
        "tokens": found.prompt.token_ids,
        "weights": found.weights,
    }
    place |= {"condition": found.condition, "company": found.rows, "fed": found.fed, "padding": found.padding}
    if traffic := found.traffic:
        place |= {"engine": "vllm", "engine_arg": theirs.engine_arg}
        place |= {name: getattr(traffic, name) for name in ("arrivals", "new_tokens", "token_budget", "cached")}
    options = replace(spec.options, run=path, **same, **place)
    knobs = {name: getattr(asked, name) for name in ("model", "dtype", "device", "seed")}
    return replace(spec, options=options, kernels=found.kernels, **knobs)


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    from detcheck.harness import model

    own: Options = spec.options
    if kind(spec).open is None:
        raise UsageError(
            f"--engine {own.engine}: bisect looks into a model that runs here, and {kind(spec).title} are asked from outside. "
            "Use transformers or vllm"
        )
    for argument in own.engine_arg:
        if (known := argument.replace("-", "_").replace(" ", "").lower()) in REFUSED or known.startswith(SEVERAL):
            raise UsageError(
                f"--engine-arg {argument}: bisect looks at the modules of one process, and a compiled model calls none. Leave it out"
            )
    if own.apply and chosen(spec) == "vllm":
        raise UsageError(
            "--apply replaces ops in transformers. In vLLM all of ours go in together: ask again with --kernels batch-invariant"
        )
    model.check(spec)
    if own.decode < 0:
        raise UsageError(f"--decode must be at least 0; got {own.decode}")
    if own.apply and spec.kernels is not Kernels.STOCK:
        raise UsageError(f"--apply puts our kernels in the place of stock ones; leave out --kernels {spec.kernels}")
    if spec.batch_sizes and max(spec.batch_sizes) < 2:
        raise UsageError("--batch-sizes: the prompt alone is compared with it in a batch; name a size of 2 or more")
