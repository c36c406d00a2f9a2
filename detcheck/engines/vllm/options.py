"""vLLM as an engine: requests arrive, and it forms its batches itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detcheck.engine import EngineType
from detcheck.engines.vllm import install
from detcheck.errors import FailedError, UsageError
from detcheck.models import gguf
from detcheck.models.adapter import adapters_of
from detcheck.schedules import adapters, arrivals, lone
from detcheck.schedules.wanted import Wanted

if TYPE_CHECKING:
    from detcheck.engine import Engine
    from detcheck.spec import Spec


PICKLED = ("pt", "npcache")


def preference(spec: Spec) -> int:
    """Where it is installed and an accelerator is there. Whoever asks a server needs no torch to know it."""
    if (
        getattr(spec.options, "base_url", ())
        or spec.device == "cpu"
        or not install.installed()
        or (spec.model and gguf.of(spec.model))
    ):
        return 0
    import torch

    if not torch.cuda.is_available():
        return 0
    try:
        install.check()
    except FailedError:
        return 0
    return 2


def check(spec: Spec) -> None:
    if getattr(spec.options, "attn", None):
        raise UsageError("--attn is for transformers; with vLLM say --engine-arg attention_backend=...")
    if any(named(argument) == "hf_token" for argument in getattr(spec.options, "engine_arg", ())):
        raise UsageError("--engine-arg hf_token: it would be stored with the run. Export HF_TOKEN, which vLLM reads")
    refuse_pickles(getattr(spec.options, "engine_arg", ()))
    if getattr(spec.options, "compile", False):
        raise UsageError("--compile is for transformers; with vLLM say --engine-arg enforce_eager=false")
    if getattr(spec.options, "merge_adapter", False):
        raise UsageError(
            "--merge-adapter is for transformers; vLLM computes an adapter beside the weights. Merge it with peft (merge_and_unload), save "
            "the model, and give its folder with --model"
        )
    if adapters_of(spec) and spec.probe == "score":
        raise UsageError(
            "--adapter: vLLM (0.32, on the CPU) fails where it scores prompts of several requests with an adapter. Use --engine transformers, or a "
            "model with its adapter merged"
        )
    if adapters_of(spec) and spec.probe == "bisect":
        raise UsageError(
            "--adapter: bisect asks single modules again, and vLLM's with adapters need the whole step around them. Use --engine transformers, "
            "or a model with its adapter merged"
        )
    if spec.model and (file := gguf.of(spec.model)):
        raise UsageError(
            f"--model {spec.model}: --engine vllm wants safetensors, and found {file.name}. Use --engine transformers, or ask a server that runs it with --base-url"
        )


def refuse_pickles(arguments: Sequence[str]) -> None:
    """Raises UsageError where vLLM would read weights that are pickled: in such a format, or of a model that drafts."""
    for argument in arguments:
        name, value = named(argument), argument.partition("=")[2].strip()
        if name == "load_format" and value.lower() in PICKLED:
            raise UsageError(
                f"--engine-arg {argument}: such files are pickled, and can run code when they are loaded. Convert them to safetensors"
            )
        with contextlib.suppress(ValueError, AttributeError, RecursionError):  # vLLM says what is wrong with it
            draft = json.loads(value).get("model") if name == "speculative_config" else None
            if (
                isinstance(draft, str)
                and Path(draft).expanduser().is_dir()
                and not any(Path(draft).expanduser().glob("*.safetensors"))
            ):
                raise UsageError(
                    f"--engine-arg speculative_config: {draft} holds no safetensors, and pickled weights can run code. Convert them: load "
                    "the model and save_pretrained() it"
                )


def named(argument: str) -> str:
    """The engine argument's name, as vLLM spells it."""
    return argument.partition("=")[0].strip().replace("-", "_")


def check_schedule(spec: Spec) -> None:
    wanted = lone.rest(Wanted.of(spec), arriving=True)
    adapters.check(wanted)
    arrivals.check(adapters.rest(wanted).conditions)


def open_engine(spec: Spec) -> Engine:
    from detcheck.engines.vllm.engine import VllmEngine

    own, looked_into = spec.options, spec.probe == "bisect"
    place = spec.model, spec.dtype, spec.device
    tested, *others = adapters_of(spec) or (None,)
    how = {"adapted": tested, "others": others, "seeded": bool(getattr(own, "seeds", 0))}
    return VllmEngine(*place, own.trust_remote_code, own.engine_arg, spec.kernels, looked_into, **how)


ENGINE = EngineType("vLLM", "add --engine vllm", preference, check, check_schedule, open_engine, caches=True)
