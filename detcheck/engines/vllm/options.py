"""vLLM as an engine: requests arrive, and it forms its batches itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck.engine import EngineType
from detcheck.engines.vllm import install
from detcheck.errors import FailedError, UsageError
from detcheck.schedules import arrivals

if TYPE_CHECKING:
    from detcheck.engine import Engine
    from detcheck.spec import Spec


def preference(spec: Spec) -> int:
    """Where it is installed and an accelerator is there."""
    if spec.device == "cpu" or not install.installed():
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


def check_schedule(spec: Spec) -> None:
    arrivals.check(spec.options.conditions)


def open_engine(spec: Spec) -> Engine:
    from detcheck.engines.vllm.engine import VllmEngine

    own, looked_into = spec.options, spec.probe == "bisect"
    place = spec.model, spec.dtype, spec.device
    return VllmEngine(*place, own.trust_remote_code, own.engine_arg, spec.kernels, looked_into)


ENGINE = EngineType("vLLM", "add --engine vllm", preference, check, check_schedule, open_engine, caches=True)
