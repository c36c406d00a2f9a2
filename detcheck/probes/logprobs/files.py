"""Files of log-probabilities -> sequences: JSONL, one JSON document, parquet, safetensors, or arrays of numpy (.npz)."""

from __future__ import annotations

import itertools
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detcheck import strict_json
from detcheck.errors import UsageError
from detcheck.probes.logprobs.keys import KNOWN, FileSequence, sequences
from detcheck.storage import source
from detcheck.storage.tables import refuse_giants

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
PICKLED = (
    "is pickled, as torch.save and DataProto.save_to_disk write: reading it would run code of its own. Save the tensors as safetensors: "
    "safetensors.torch.save_file({name: batch[name].contiguous() for name in names}, 'batch.safetensors')"
)
NOT_WHOLE = (
    ValueError, OSError, EOFError, KeyError, MemoryError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    TypeError, AttributeError, IndexError, OverflowError,
)  # fmt: skip
"""What reading an archive raises that is torn, changed, encrypted, or compressed as is not known here"""
MOST_HEADER = 1 << 27  # bytes
UNPACKED, MOST_PACKED = 1 << 30, 100  # bytes that any archive may unpack to; how often its own size beyond
ENOUGH, SAMPLE = 20, 100_000  # numbers
ROUNDED = 6  # significant digits up to which many numbers together must have been rounded when they were written
FLOAT32_DIGITS = 9


def read(path: Path, sides: Sequence[str]) -> list[FileSequence]:
    """The sequences of a file, with the log-probabilities of each of `sides`. Raises UsageError, with the place, where it cannot be understood."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {what}. Give a file of log-probabilities, or --sampler with an engine or a server")
    try:
        return sequences(rows(path), sides, str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}. Give a file that you may read") from None


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, values by key): a sequence each, or a batch of them."""
    with path.open("rb") as file:
        begin = file.read(10)
    if begin.startswith(b"PAR1"):
        return parquet(path)
    if begin.startswith(b"PK\x03\x04"):
        return archive(path)
    if begin.startswith(b"\x80"):
        raise UsageError(f"{path} {PICKLED}")
    if begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") < path.stat().st_size:
        return iter([(str(path), tensors(path))])
    return ((one.where, dict(one.keys)) for one in source.objects(path))


def parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = itertools.count(1)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            refuse_giants(file)
            names = file.schema_arrow.names
            wanted = [name for name in names if name in KNOWN]  # another column may hold what Python has no value for
            if not wanted:
                yield str(path), dict.fromkeys(names)
                return
            for part in file.iter_batches(batch_size=1024, columns=wanted):
                yield from ((f"{path}, row {next(number)}", dict.fromkeys(names) | row) for row in part.to_pylist())
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UsageError(f"{path} is not a parquet file that can be read: {said(error)}. Write it again") from None


def archive(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """numpy's .npz. An archive of torch's is pickled inside."""
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(one.file_size for one in packed.infolist())
        if size > max(UNPACKED, MOST_PACKED * path.stat().st_size):
            raise ValueError(f"it would unpack to {size >> 20} MiB")
        with np.load(path, allow_pickle=False) as file:
            if any(name.endswith("data.pkl") for name in file.files):
                raise UsageError(f"{path} {PICKLED}")
            yield str(path), {name: np.atleast_1d(file[name]) for name in file.files}
    except NOT_WHOLE as error:
        raise UsageError(f"{path} is no archive of numpy's arrays: {said(error)}. Write it again") from None


def said(error: BaseException) -> str:
    """The first line of what an error says, or else its kind."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Those of a safetensors file, by name; bfloat16 as the float32 of equal value. Raises UsageError."""
    try:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        if length > min(MOST_HEADER, len(data)):
            raise ValueError("its header is longer than the file")
        header, body = strict_json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
        if not isinstance(header.pop("__metadata__", {}), dict):
            raise ValueError("its __metadata__ is no object")
        ends = [0]
        for begin, end in sorted(one["data_offsets"] for one in header.values()):
            if begin != ends[-1] or end < begin:
                raise ValueError(f"a tensor begins at byte {begin}, and the one before it ends at {ends[-1]}")
            ends.append(end)
        if ends[-1] != len(body):
            raise ValueError(f"its header speaks of {ends[-1]} bytes, and it has {len(body)}")
        found = {}
        for name, one in header.items():
            begin, end = one["data_offsets"]
            raw = body[begin:end]
            if one["dtype"] == "BF16":
                flat = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
            elif one["dtype"] in DTYPES:
                flat = np.frombuffer(raw, DTYPES[one["dtype"]])
            else:
                raise ValueError(f"{name} is {one['dtype']}, which is not read here")
            found[name] = np.atleast_1d(flat.reshape(one["shape"]))
        return found
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, strict_json.TwiceError,
    ) as error:  # fmt: skip
        raise UsageError(f"{path} is not a whole safetensors file: {error}. Write it again") from None


def precision(side: Sequence[np.ndarray]) -> str:
    """Of what width the numbers were when they were computed: "bfloat16", "float32" or "float64"; "6 digits" where they were rounded when written.

    A number that a file gives is of float32 where it is one exactly, or where it has no more digits than tell float32s apart (9), and
    float32 has it: 1e39 is infinite there, and 1e-50 is 0. What is said of many numbers together is said of different ones.
    """
    values = np.concatenate(side) if side else np.empty(0)
    values = np.unique(values[np.isfinite(values)])
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(np.float32)
    if (np.isinf(narrow) | (narrow == 0) & (values != 0)).any():
        return "float64"
    rest = values[narrow.astype(np.float64) != values]
    if not rest.size:
        return "bfloat16" if len(narrow) >= ENOUGH and not (narrow.view(np.uint32) & 0xFFFF).any() else "float32"
    some = rest[np.linspace(0, len(rest) - 1, min(SAMPLE, len(rest))).astype(int)]
    digits = max(significant(value) for value in some.tolist())
    if digits <= ROUNDED and len(rest) >= ENOUGH:
        return f"{digits} digits"
    return "float32" if digits <= FLOAT32_DIGITS else "float64"


def significant(value: float) -> int:
    """Digits of the shortest decimal that names this float64."""
    mantissa = repr(abs(value)).partition("e")[0].replace(".", "").strip("0")
    return len(mantissa) if value and math.isfinite(value) else 0
