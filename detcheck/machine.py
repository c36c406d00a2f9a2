"""The machine at this moment: its free memory, and what chooses kernels on its GPU."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def free_memory() -> int:
    """Bytes that nobody holds, of this machine: what the system has, or where psutil can tell, what this process may take."""
    try:
        import psutil
    except ImportError:  # a checkout on a machine where nothing can be installed
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return psutil.virtual_memory().available


def driver() -> str:
    """Of a GPU of NVIDIA's or AMD's, as the system names it; "": there is none."""
    for file, whose in (("/proc/driver/nvidia/version", ""), ("/sys/module/amdgpu/version", "amdgpu ")):
        with contextlib.suppress(OSError):
            return whose + Path(file).read_text().split("\n", 1)[0]
    return ""


def of_gpu() -> dict[str, object]:
    """What chooses kernels there and what they may round, and the driver that brings some of them."""
    import torch

    cuda, matmul = torch.backends.cuda, torch.backends.cuda.matmul
    attention = ("flash", "mem_efficient", "cudnn", "math")
    made: dict[str, object] = {
        f"cuda.matmul.{name}": getattr(matmul, name, None)
        for name in ("allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation")
    }
    enabled = {name: getattr(cuda, f"{name}_sdp_enabled", None) for name in attention}
    made["cuda.sdpa"] = ", ".join(name for name, asked in enabled.items() if asked and asked())
    preferred = getattr(cuda, "preferred_blas_library", None)
    made["cuda.preferred_blas_library"] = preferred() if preferred else None
    made["cudnn.version"] = torch.backends.cudnn.version()
    made["driver"] = driver() or None
    return {name: value for name, value in made.items() if value is not None}
