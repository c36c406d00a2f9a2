"""The tensors of a checkpoint's safetensors files, as their headers tell: what is there, whether it is whole, and how it is cut into buckets."""

from __future__ import annotations

import operator
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detcheck import strict_json
from detcheck.errors import UsageError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
LARGEST_HEADER = 100 << 20  # bytes: what the format's own reader allows
BAD = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, strict_json.TwiceError)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file."""

    name: str
    file: Path
    dtype: str
    """as safetensors names it: F32, BF16 ..."""
    shape: tuple[int, ...]
    nbytes: int
    start: int
    """of its bytes in the file"""


def stored(folder: Path, named: str) -> list[StoredTensor]:
    """Every tensor, in the order of the files and of the bytes in them. `named`: as the folder was given, for what is said of it.

    Raises UsageError where a file is torn, not there, or no safetensors file.
    """
    found = [tensor for file in files(folder, named) for tensor in tensors_of(file, named)]
    if not found:
        raise UsageError(f"{named}: there are no safetensors in it. Give the folder of a model with its weights")
    twice = [name for name, times in Counter(t.name for t in found).items() if times > 1]
    if twice:
        raise UsageError(f"{named}: {twice[0]} is in two files. Save the model again")
    return found


def files(folder: Path, named: str) -> list[Path]:
    """The files that the checkpoint is made of: those of its index, or all that there are. Raises UsageError where engines would read others."""
    if not (folder / INDEX).is_file():
        return [folder / SINGLE] if (folder / SINGLE).is_file() else sorted(folder.glob("*.safetensors"))
    try:
        index = strict_json.loads((folder / INDEX).read_text("utf-8"))
        names = sorted(set(index["weight_map"].values()))
        if unnamed := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f"{unnamed[0]!r} is no file's name")
    except BAD as error:
        raise UsageError(
            f"{named}: {INDEX} cannot be read ({type(error).__name__}: {error}). Save the model again"
        ) from None
    if (folder / SINGLE).is_file() and names != [SINGLE]:
        raise UsageError(
            f"{named}: it has both {SINGLE} and {INDEX}, which names other files: transformers loads the first, vLLM the second. Remove the one that is not meant"
        )
    if other := elsewhere(names):
        raise UsageError(
            f"{named}: {INDEX} names {other[0]!a}, which is no safetensors file of its folder. Save the model again"
        )
    if lacking := [name for name in names if not (folder / name).is_file()]:
        raise UsageError(f"{named}: {lacking[0]} is not there, and {INDEX} names it. Copy the whole checkpoint")
    return [folder / name for name in names]


def elsewhere(names: Iterable[str]) -> list[str]:
    """Of the files that an index names, those that are no safetensors beside it: transformers would unpickle what has another ending."""
    return sorted(n for n in names if not n.endswith(".safetensors") or Path(n).name != n or "\0" in n)


def tensors_of(file: Path, named: str) -> list[StoredTensor]:
    """In the order of their bytes. Raises UsageError where the file ends before its header says so."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > min(size - 8, LARGEST_HEADER):
                raise ValueError(f"its header has {length} bytes, and the file {size}")
            header = strict_json.loads(opened.read(length))
        header.pop("__metadata__", None)
        found = [
            tensor_of(name, file, one["dtype"], one["shape"], one["data_offsets"], 8 + length)
            for name, one in header.items()
        ]
    except (*BAD, struct.error) as error:
        raise UsageError(
            f"{named}: {file.name} is torn or no safetensors file ({type(error).__name__}: {error}). Nothing was loaded from it; copy it again"
        ) from None
    wanted = max((tensor.start + tensor.nbytes for tensor in found), default=8 + length)
    if size != wanted:
        raise UsageError(
            f"{named}: {file.name} is torn: its header speaks of {wanted} bytes, and it has {size}. Nothing was loaded from it; copy it again"
        )
    return sorted(found, key=lambda tensor: (tensor.start, tensor.name))


def tensor_of(
    name: str, file: Path, dtype: str, shape: Iterable[int], offsets: Sequence[int], base: int
) -> StoredTensor:
    """Of one entry of a header. Raises TypeError, ValueError where that is none."""
    start, end = map(operator.index, offsets)
    if not isinstance(dtype, str) or not 0 <= start <= end:
        raise ValueError(f"{name} has dtype {dtype!r} and bytes {start} to {end}")
    return StoredTensor(name, file, dtype, tuple(map(operator.index, shape)), end - start, base + start)


def buckets(tensors: Iterable[StoredTensor], most: int) -> Iterator[list[StoredTensor]]:
    """The tensors in order, as many together as `most` bytes hold; one that is larger is alone."""
    held: list[StoredTensor] = []
    for tensor in tensors:
        if held and sum(t.nbytes for t in held) + tensor.nbytes > most:
            yield held
            held = []
        held.append(tensor)
    if held:
        yield held


def refuse_unlike(old: Iterable[StoredTensor], new: Iterable[StoredTensor], named: str) -> None:
    """Raises UsageError where the two are not the same model with other weights."""
    before, after = ({t.name: (t.dtype, t.shape) for t in side} for side in (old, new))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            there = [
                f"{dtype} {list(shape)}" if (dtype, shape) != ("", ()) else "not there"
                for dtype, shape in (before.get(name, ("", ())), after.get(name, ("", ())))
            ]
            raise UsageError(
                f"{named}: {name} is {there[0]} in the old weights and {there[1]} in the new ones. An update in place needs the same tensors in both"
            )
