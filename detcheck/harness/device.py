"""The device that an op runs on: asked for, found, filled, and waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from detcheck.errors import UsageError
from detcheck.machine import free_memory

CAPTURED = 20  # calls in a graph that is timed


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


def called(call: Callable[[], object], device: str) -> Callable[[], float]:
    """What gives the milliseconds of one call, until its result is there."""

    def once() -> float:
        finish(device)
        started = time.perf_counter()
        call()
        finish(device)
        return 1e3 * (time.perf_counter() - started)

    return once


def replayed(call: Callable[[], object], device: str) -> Callable[[], float]:
    """What gives the milliseconds that one call takes a GPU: of CAPTURED calls in a graph, by the device's own clock."""
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        for _ in range(2):  # compiles, and asks the device what cannot be asked while a graph is captured
            call()
        finish(device)
        with torch.cuda.graph(graph):
            for _ in range(CAPTURED):
                call()

    def once() -> float:
        with torch.cuda.device(device):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
        return begin.elapsed_time(end) / CAPTURED

    return once


def free_bytes(device: str) -> int:
    """Memory that nobody holds."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else free_memory()
