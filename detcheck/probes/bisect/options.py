"""The knobs of `detcheck bisect`, and what can be known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from detcheck.errors import UsageError
from detcheck.harness.engines import chosen
from detcheck.probes.batch.session import DECODED as FED_ONE_BY_ONE
from detcheck.probes.bisect.from_run import Differing
from detcheck.probes.completions import options as completions
from detcheck.records import Kernels, Spec

SIZES = (2, 8)
REFUSED = ("enforce_eager=false",)
SEVERAL = ("tensor_parallel_size=", "pipeline_parallel_size=")
DECODED = 2  # tokens fed one by one: the first step after a prefill, and one on a cache that a step wrote


@dataclass(frozen=True)
class Options:
    """The knobs of this probe."""

    run: str | None = field(default=None, metadata={"argument": True})
    """folder of a run that found a difference; it gives what else is asked"""
    prompt: str | None = None
    """None: the default prompt, unless there is a file"""
    prompt_file: str | None = None
    chat: bool = False
    """put prompts through the chat template"""
    attn: str | None = None
    """attention implementation; None: the model's own"""
    trust_remote_code: bool = False
    engine: str = "transformers"
    """or vllm: there modules are looked at, not ops"""
    engine_arg: tuple[str, ...] = field(default=(), metadata={"repeated": True})
    """ "key=value" each, for vLLM"""
    decode: int = DECODED
    """last tokens that are fed one by one"""
    apply: bool = False
    """replace the guilty by kernels of ours, one kind at a time"""

    name: str = ""
    """of a run: which of its prompts"""
    tokens: tuple[int, ...] = ()
    """of a run: that prompt's"""
    weights: str = ""
    """of a run: digest of the model's"""
    condition: str | None = None
    """of a run: the batch that differs"""
    company: tuple[int, ...] = ()
    """of a run: that batch's rows"""
    fed: tuple[int, ...] = ()
    """of a run: tokens that came before the first that differs; they are fed one by one"""
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
        "engine", "engine_arg", "decode", "name", "tokens", "weights", "condition", "company", "fed", "max_tokens", "arrivals", "new_tokens", "token_budget",
        "cached",
    )  # fmt: skip


def of_run(path: str, spec: Spec, asked: Spec, found: Differing) -> Spec:
    """The question that a run leaves open: its own model, prompt and batch."""
    theirs, same = asked.options, {"decode": FED_ONE_BY_ONE if found.decoding else len(found.fed)}
    same |= {name: getattr(theirs, name) for name in ("attn", "trust_remote_code", "max_tokens")}
    place = {
        "prompt": found.prompt.text,
        "name": found.prompt.name,
        "tokens": found.prompt.token_ids,
        "weights": found.weights,
    }
    place |= {"condition": found.condition, "company": found.rows, "fed": found.fed}
    if traffic := found.traffic:
        place |= {"engine": "vllm", "engine_arg": theirs.engine_arg}
        place |= {name: getattr(traffic, name) for name in ("arrivals", "new_tokens", "token_budget", "cached")}
    options = replace(spec.options, run=path, **same, **place)
    knobs = {name: getattr(asked, name) for name in ("model", "dtype", "device", "seed")}
    return replace(spec, options=options, kernels=found.kernels, **knobs)


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    same = completions.Options(
        1_000_000,
        1,
        False,
        own.prompt,
        own.prompt_file,
        own.chat,
        own.attn,
        own.trust_remote_code,
        own.engine,
        own.engine_arg,
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
    completions.check(Spec("completions", same, spec.model, spec.kernels, device=spec.device, trials=spec.trials))
    if own.decode < 0:
        raise UsageError(f"--decode must be at least 0; got {own.decode}")
    if own.apply and spec.kernels is not Kernels.STOCK:
        raise UsageError(f"--apply puts our kernels in the place of stock ones; leave out --kernels {spec.kernels}")
    if spec.batch_sizes and max(spec.batch_sizes) < 2:
        raise UsageError("--batch-sizes: the prompt alone is compared with it in a batch; name a size of 2 or more")
