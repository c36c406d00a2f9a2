"""Weights to begin with, where a user has only those to end with: the same checkpoint with the lowest bit of every number turned over.

Every tensor of floats has other bits then, and so has one of integers that are weights, packed ones too: it cannot be left behind unseen. A number
is off by no more than one unit in its last place, so that the model still works. Other integers may be indices, which have to stay in their range.
"""

from __future__ import annotations

from pathlib import Path

from detcheck.errors import FailedError
from detcheck.models.stored import files

SAID = "made of the new ones: the lowest bit of every number of a weight turned over, and indices as they are"
# How integers are called that are weights or their zero points: of GPTQ and AWQ, compressed-tensors, torchao, MXFP4, and plain int8.
PACKED = (".qweight", ".qzeros", ".weight_packed", ".weight_zero_point", "_qdata", "_blocks", ".weight")
LARGE = 1 << 16  # numbers: fewer are positions, group indices, shapes


def make(folder: Path, target: Path) -> tuple[str, ...]:
    """Write it into an existing, empty folder, one file after the other. The names of large tensors that are as they were.

    Raises FailedError where there is no room.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    weights, alike = set(files(folder, str(folder))), []
    try:
        for path in folder.iterdir():
            if path.is_file() and path not in weights and path.suffix != ".safetensors":
                (target / path.name).symlink_to(path.resolve())
        for file in weights:
            with safe_open(file, "pt") as opened:
                made = {}
                for name in opened.keys():  # noqa: SIM118  it is no dict
                    tensor = opened.get_tensor(name)
                    made[name] = turned(tensor, name.endswith(PACKED))
                    if made[name] is tensor and tensor.numel() >= LARGE:
                        alike.append(name)
                save_file(made, target / file.name, metadata=opened.metadata() or {"format": "pt"})
    except (OSError, SafetensorError) as error:  # the second is how safetensors says that a disk is full
        raise FailedError(
            f"no room for weights to begin with in {target.parent}: {getattr(error, 'strerror', None) or error}. Give other weights with --old, or set TMPDIR"
        ) from None
    return tuple(sorted(alike))


def turned(tensor, packed=False):  # noqa: ANN001, ANN201  torch is imported by whoever has a tensor
    """A copy with the lowest bit of each number turned over; integers stay as they are, unless they are `packed` weights.

    Infinities and NaN stay too, and a number that would become one has its second lowest bit turned over: float8_e4m3fn's 448.
    """
    import torch

    if packed and tensor.dtype in (torch.int8, torch.uint8, torch.int32):
        return tensor ^ 1
    if not tensor.is_floating_point():
        return tensor
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    bits = tensor.contiguous().view(kind)
    made = torch.where(finite(tensor), bits ^ 1, bits)
    if tensor.element_size() == 1:  # in wider ones the largest number is odd
        made = torch.where(finite(tensor) & ~finite(made.view(tensor.dtype)), bits ^ 2, made)
    return made.view(tensor.dtype)


def finite(tensor):  # noqa: ANN001, ANN201
    """bool[...]. No number of float4_e2m1fn_x2's, two in a byte, is anything else, and torch turns it into no other type."""
    import torch

    if tensor.dtype == torch.float4_e2m1fn_x2:
        return torch.ones(tensor.shape, dtype=torch.bool)
    return (tensor.float() if tensor.element_size() == 1 else tensor).isfinite()
