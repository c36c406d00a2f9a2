"""New weights in a vLLM that runs: by its own `reload_weights`, and what its model holds then. Runs in vLLM's worker.

On the CPU vLLM packs the weight of a linear layer for its kernels and throws the plain one away. What is packed is read back through
the layer's own product: the identity matrix times a weight is that weight, in any order of adding. It is not so for -0.0, which is read as 0.0,
for denormal numbers where the kernel flushes them, and in a row with a number that is not finite.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from detcheck.models.held import Held, held
from detcheck.models.stored import stored
from detcheck.models.stream import Way, opened

READ_ROWS = 256  # of the identity matrix at once
MOST_OPERATIONS = 4e12  # multiplications that reading all packed weights may take: a minute or two on a CPU


def update(worker: Any, way: str, folder: str, bucket_bytes: int) -> tuple[int, float]:
    """(bytes, seconds) of all tensors of the folder. Whatever vLLM raises is raised."""
    moved = 0

    def counted(coming: Iterator[Sequence[tuple[str, torch.Tensor]]]) -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal moved
        for bucket in coming:
            for name, tensor in bucket:
                moved += tensor.nbytes
                # vLLM keeps a layer's tensors until all of them have come: by then a shared block holds others.
                yield name, tensor.clone() if way == Way.SHARED else tensor

    if way == Way.FILES:
        started = time.perf_counter()
        worker.reload_weights(weights_path=folder)
        took = time.perf_counter() - started
        return sum(tensor.nbytes for tensor in stored(Path(folder), folder)), took
    with opened(way, Path(folder), bucket_bytes) as coming:
        started = time.perf_counter()
        worker.reload_weights(weights_iterator=counted(coming))
        return moved, time.perf_counter() - started


def holds(worker: Any) -> Held:
    """Every parameter and buffer of the model, as far as it can be read."""
    model = worker.model_runner.get_model()
    return held([*tensors_of(model), *model.named_buffers()])


def tensors_of(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor | None]]:
    """What is packed stands under its own name where the plain one is gone, and beside it where both are there."""
    left = MOST_OPERATIONS
    for name, parameter in model.named_parameters():
        layer = model.get_submodule(name.rpartition(".")[0])
        packed = name.endswith(".weight") and hasattr(layer, "cpu_linear")
        if parameter.numel():
            yield name, parameter
        if not parameter.numel() or packed:
            inputs, outputs = sizes(layer)
            left -= inputs * inputs * outputs
            readable = packed and inputs and left > 0
            yield (
                f"{name} (packed)" if parameter.numel() else name,
                unpacked(layer, inputs, parameter) if readable else None,
            )


def sizes(layer: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer's share on this worker; (0, 0) where it does not tell."""
    if hasattr(layer, "embedding_dim"):
        return layer.embedding_dim, layer.num_embeddings_per_partition
    return getattr(layer, "input_size_per_partition", getattr(layer, "input_size", 0)), getattr(
        layer, "output_size_per_partition", getattr(layer, "output_size", 0)
    )


def unpacked(layer: Any, inputs: int, parameter: torch.Tensor) -> torch.Tensor:
    """[outputs, inputs]"""
    rows = []
    with torch.inference_mode():
        for start in range(0, inputs, READ_ROWS):
            one = torch.zeros(min(READ_ROWS, inputs - start), inputs, dtype=parameter.dtype)
            one[torch.arange(len(one)), start + torch.arange(len(one))] = 1
            rows.append(layer.cpu_linear(one, layer.weight, None))
    return torch.cat(rows).t()
