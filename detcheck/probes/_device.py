"""The device that an op runs on: asked for, found, filled, and waited for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from detcheck.errors import UsageError


def check(asked: str) -> None:
    """What can be known before torch is there. Raises UsageError."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", asked):
        raise UsageError(f"--device {asked}: use auto, cpu, cuda, or one of several like cuda:1")


def found(asked: str) -> str:
    """torch's name of it; auto is a GPU where there is one. Raises UsageError where there is no such device."""
    import torch

    cuda = torch.cuda.is_available()
    if asked.startswith("cuda") and not cuda:
        raise UsageError(f"--device {asked}: torch {torch.__version__} finds no CUDA device here. Use --device cpu")
    return ("cuda" if cuda else "cpu") if asked == "auto" else asked


def moved(arguments: Sequence[object], device: str) -> tuple[object, ...]:
    import torch

    return tuple(a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments)


def finish(device: str) -> None:
    """A GPU works on while we go on: waits for it."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def free_bytes(device: str) -> int:
    """Memory that nobody holds."""
    import psutil
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else psutil.virtual_memory().available
