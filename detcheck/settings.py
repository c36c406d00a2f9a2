"""The switches and environment variables that bear on bits: what was requested, and what the libraries say is in effect.

Variables are read by the names below alone, so that no secret is ever shown or stored.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from detcheck.records import Setting

VARIABLES = (
    "OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_SCHEDULE", "KMP_DETERMINISTIC_REDUCTION", "KMP_FORCE_REDUCTION", "MKL_NUM_THREADS", "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_DYNAMIC", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE",
    "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE", "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING", "HIP_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCHDYNAMO_DISABLE", "TORCHINDUCTOR_MAX_AUTOTUNE", "NCCL_ALGO", "NCCL_PROTO", "NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS", "NCCL_NVLS_ENABLE",
    "NCCL_COLLNET_ENABLE", "TRITON_INTERPRET", "TRITON_DEFAULT_FP_FUSION", "VLLM_BATCH_INVARIANT", "VLLM_ATTENTION_BACKEND",
    "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_USE_V2_MODEL_RUNNER", "VLLM_CPU_ATTN_SPLIT_KV", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_PLUGINS",
    "PYTHONHASHSEED", "DETCHECK_CPU", "DETCHECK_KERNELS",
)  # fmt: skip
# mkl_cbwr_get's numbers (mkl_types.h); a strict branch has STRICT as well.
CBWR = {
    1: "OFF", 2: "AUTO", 3: "COMPATIBLE", 4: "SSE2", 6: "SSSE3", 7: "SSE4_1", 8: "SSE4_2", 9: "AVX", 10: "AVX2", 11: "AVX512_MIC", 12: "AVX512",
    13: "AVX512_MIC_E1", 14: "AVX512_E1",
}  # fmt: skip
STRICT = 0x10000
OPENMP = {"libgomp": "GNU", "libiomp5": "Intel", "libomp": "LLVM"}


def requested() -> dict[str, str]:
    """The variables of this process that bear on bits, where they are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def observe(torch: ModuleType | None) -> tuple[Setting, ...]:
    """Every variable that is set, and every switch of torch; None: there is no torch, and nobody to say what is in effect."""
    asked, effective = requested(), {} if torch is None else in_effect(torch)
    return tuple(Setting(name, asked.get(name, ""), effective.get(name, "")) for name in {**effective, **asked})


def in_effect(torch: ModuleType) -> dict[str, str]:
    """Name of a variable or switch -> what torch says. One that this torch has not is left out."""
    backends, cuda = torch.backends, torch.backends.cuda
    read: dict[str, Callable[[], Any]] = {
        "ATEN_CPU_CAPABILITY": backends.cpu.get_cpu_capability,
        "OMP_NUM_THREADS": torch.get_num_threads,
        "MKL_NUM_THREADS": lambda: re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())[1],
        "MKL_CBWR": lambda: conditional_reproducibility(torch),
        "use_deterministic_algorithms": lambda: (
            "warn only"
            if torch.is_deterministic_algorithms_warn_only_enabled()
            else torch.are_deterministic_algorithms_enabled()
        ),
        "float32_matmul_precision": torch.get_float32_matmul_precision,
        "fp32_precision": lambda: backends.fp32_precision,
        "mkldnn.enabled": lambda: backends.mkldnn.enabled,
        "mkldnn.deterministic": lambda: backends.mkldnn.deterministic,
        "mkldnn.matmul.fp32_precision": lambda: backends.mkldnn.matmul.fp32_precision,
    }
    if torch.cuda.is_available():
        read |= {
            "CUDA_VISIBLE_DEVICES": lambda: f"{torch.cuda.device_count()} seen",
            "cuda.matmul.allow_tf32": lambda: cuda.matmul.allow_tf32,
            "cuda.matmul.fp32_precision": lambda: cuda.matmul.fp32_precision,
            "cuda.matmul.allow_bf16_reduced_precision_reduction": lambda: (
                cuda.matmul.allow_bf16_reduced_precision_reduction
            ),
            "cuda.matmul.allow_fp16_reduced_precision_reduction": lambda: (
                cuda.matmul.allow_fp16_reduced_precision_reduction
            ),
            "cuda.matmul.allow_fp16_accumulation": lambda: cuda.matmul.allow_fp16_accumulation,
            "cuda.preferred_blas_library": cuda.preferred_blas_library,
            "cudnn.deterministic": lambda: backends.cudnn.deterministic,
            "cudnn.benchmark": lambda: backends.cudnn.benchmark,
            "cudnn.allow_tf32": lambda: backends.cudnn.allow_tf32,
        }
    found: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a value that it ignores; that is a problem of ours
        for name, ask in read.items():
            with contextlib.suppress(AttributeError, TypeError, KeyError):  # not of this torch
                try:
                    found[name] = str(ask())
                except RuntimeError as error:  # torch refuses to read a switch that was set in two ways
                    found[name] = f"cannot be read: {str(error).splitlines()[0]}"
    return found


def conditional_reproducibility(torch: ModuleType) -> str:
    """The branch that MKL is in (its own MKL_CBWR), asked of the MKL inside torch. Raises AttributeError where there is none."""
    folder = Path(torch.__file__).parent / "lib"
    try:
        got = ctypes.CDLL(str(folder / "libtorch_cpu.so")).mkl_serv_cbwr_get(-1)  # -1: MKL_CBWR_ALL
    except OSError as error:  # another system, whose library has another name
        raise AttributeError(str(error)) from None
    return CBWR.get(got & ~STRICT, f"branch {got}") + (",STRICT" if got & STRICT else "")


def openmp() -> str:
    """Whose OpenMP this process has loaded: GNU, Intel or LLVM, several with commas; "" where it is not known."""
    with contextlib.suppress(OSError), Path("/proc/self/maps").open() as maps:
        loaded = {line.rsplit("/", 1)[-1].split("-")[0].split(".")[0] for line in maps}
        return ", ".join(whose for library, whose in OPENMP.items() if library in loaded)
    return ""
