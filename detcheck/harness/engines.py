"""Which engine runs the model: what was asked for, or what this machine suggests."""

from __future__ import annotations

from detcheck.engine import Engine
from detcheck.engines.vllm import install
from detcheck.errors import FailedError, UsageError
from detcheck.spec import Spec

ENGINES = ("auto", "transformers", "vllm")


def chosen(spec: Spec) -> str:
    """ "transformers" or "vllm". Raises UsageError for options that the engine does not have."""
    asked = getattr(spec.options, "engine", "transformers")
    arguments = getattr(spec.options, "engine_arg", ())
    if asked not in ENGINES:
        raise UsageError(f"--engine {asked}: use {', '.join(ENGINES)}")
    engine = suggested(spec.device) if asked == "auto" else asked
    if engine == "transformers" and arguments:
        why = "" if asked != "auto" else ", which --engine auto chose: no vLLM with an accelerator is here"
        raise UsageError(f"--engine-arg is for vLLM, and the engine is transformers{why}. Add --engine vllm")
    if engine == "vllm" and getattr(spec.options, "attn", None):
        raise UsageError("--attn is for transformers; with vLLM say --engine-arg attention_backend=...")
    return engine


def suggested(device: str) -> str:
    """vLLM where it is installed and an accelerator is there."""
    if device == "cpu" or not install.installed():
        return "transformers"
    import torch

    if not torch.cuda.is_available():
        return "transformers"
    try:
        install.check()
    except FailedError:
        return "transformers"
    return "vllm"


def open_engine(spec: Spec) -> Engine:
    """Raises UsageError or FailedError where it cannot be."""
    own = spec.options
    if chosen(spec) == "vllm":
        from detcheck.engines.vllm.engine import VllmEngine

        return VllmEngine(
            spec.model,
            spec.dtype,
            spec.device,
            own.trust_remote_code,
            own.engine_arg,
            spec.kernels,
            spec.probe == "bisect",
        )
    from detcheck.engines.transformers.engine import TransformersEngine

    return TransformersEngine(spec.model, spec.dtype, spec.device, own.attn, own.trust_remote_code)
