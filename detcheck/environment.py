"""What ran: hardware, versions, and the flags and variables that can change bits."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata

from detcheck import __version__
from detcheck.machine import of_gpu
from detcheck.records import Environment

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "numpy", "triton", "nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13", "flash-attn", "flashinfer-python",
)  # fmt: skip
VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "KMP_DETERMINISTIC_REDUCTION", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NCCL_ALGO", "NCCL_PROTO", "VLLM_BATCH_INVARIANT",
    "VLLM_ATTENTION_BACKEND", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_USE_V2_MODEL_RUNNER", "VLLM_CPU_ATTN_SPLIT_KV", "TRITON_DEFAULT_FP_FUSION",
    "DETCHECK_CPU",
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
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )
