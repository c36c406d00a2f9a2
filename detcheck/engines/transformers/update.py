"""New weights in a transformers model that runs: by `load_state_dict`, as trainers put them in, and what it holds then."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.errors import FailedError
from detcheck.models.held import Held, held
from detcheck.models.stream import opened

if TYPE_CHECKING:
    import torch

SHOWN = 3  # names in a message


def update(engine: TransformersEngine, way: str, folder: Path, bucket_bytes: int) -> tuple[int, float]:
    """(bytes, seconds) of all tensors of the folder, loaded in place a bucket after the other.

    Raises FailedError where the model has no place for one, or one is not there: what came before is in the model then.
    """
    with opened(way, folder, bucket_bytes) as coming:
        started = time.perf_counter()
        moved = load(engine._model, coming)
        return moved, time.perf_counter() - started


def load(model: torch.nn.Module, coming: Iterator[Sequence[tuple[str, torch.Tensor]]]) -> int:
    """Bytes that were loaded."""
    there = model.state_dict(keep_vars=True)  # every name that it goes by; tied ones share their memory
    moved, filled = 0, set()
    for bucket in coming:
        if unknown := [name for name, _ in bucket if name not in there]:
            raise FailedError(
                f"the model has no tensor {unknown[0]}: transformers gives it another name or form when it loads the files. "
                "Its files must name tensors as the model does; or use --engine vllm"
            )
        model.load_state_dict(dict(bucket), strict=False)
        moved += sum(tensor.nbytes for _, tensor in bucket)
        filled |= {there[name].data_ptr() for name, _ in bucket}
    if lacking := [name for name, tensor in there.items() if tensor.numel() and tensor.data_ptr() not in filled]:
        raise FailedError(
            f"the new weights lack {len(lacking)} of the model's tensors ({', '.join(sorted(lacking)[:SHOWN])}), which kept their old numbers"
        )
    return moved


def holds(engine: TransformersEngine) -> Held:
    """Every parameter and buffer, those that are not saved included."""
    model = engine._model
    return held([*model.named_parameters(), *model.named_buffers()])
