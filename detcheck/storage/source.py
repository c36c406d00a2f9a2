"""A file of somebody else's completions -> samples: which shape it has (parquet, JSON, a table), and which format.

JSONL and tables are read a line at a time. A file whose first line is no JSON object by itself is read as one JSON document.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from detcheck import lookup, strict_json
from detcheck.errors import UsageError
from detcheck.spec import InputFormat
from detcheck.storage.input import MOST_SHOWN, Parsed, StoredAnswer, listed, shown
from detcheck.storage.inputs import detcheck as own
from detcheck.storage.tables import refuse_giants

log = logging.getLogger(__name__)
PARTS = "storage/inputs"
BOM = b"\xef\xbb\xbf"  # before UTF-8, as some editors write it
CONVERSATIONS = (
    "simulations",
    "messages",
    "traj",
    "conversations",
)  # keys of tau2-bench, chat files, tau-bench, ShareGPT
TENSORS = {  # how a file begins -> what it is
    b"\x93NUMPY": "an array of numpy",
    b"PK\x03\x04": "an archive (.npz, or torch's)",
    b"GGUF": "a model (GGUF)",
    b"\x80\x02": "pickled",
    b"\x80\x03": "pickled",
    b"\x80\x04": "pickled",
    b"\x80\x05": "pickled",
}
BEYOND = "is none of JSONL, JSON, CSV and parquet"


class Shape(StrEnum):
    PARQUET = "parquet"
    JSON = "JSON"
    TABLE = "CSV"


def read(path: Path, format: InputFormat) -> Iterator[StoredAnswer]:
    """The samples of a file. Raises UsageError at the first line that cannot be understood, and names it."""
    if not path.is_file():
        what = "is a folder; `detcheck report` reads runs" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {what}. Give a file of completions")
    try:
        refuse_tensors(path)
        shape = shape_of(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}. Give a file that you may read") from None
    parsed = {Shape.PARQUET: parquet, Shape.JSON: objects, Shape.TABLE: table}[shape](path)
    first = next(parsed, None)
    if first is None:
        raise UsageError(f"{path} holds no completions. Give one a row, with `tokens` or `text`")
    name = chosen(first, shape, format)
    part = lookup.find(PARTS, name.replace("-", "_"))
    log.info("reading %s: %s in the format %s", path, shape, name)

    def checked() -> Iterator[Parsed]:
        for one in itertools.chain([first], parsed):
            if one is not first and not part.recognises(one.keys):
                raise UsageError(
                    f"{one.where}: is not {name}, as the lines before it are; found the keys {listed(one.keys)}. Give each format a file"
                )
            yield one

    found = part.samples(checked())
    one = next(found, None)
    if one is None:
        raise UsageError(f"{path} holds no completions, though it is {name}. Give one with answers in it")
    yield from itertools.chain([one], found)


def chosen(first: Parsed, shape: Shape, format: InputFormat) -> str:
    """The format's name: as asked for, else as the first object's keys tell. Raises UsageError."""
    possible = {Shape.PARQUET: ["detcheck"], Shape.TABLE: ["csv"]}.get(shape) or [n for n in formats() if n != "csv"]
    if format is not InputFormat.AUTO:
        if format.value not in possible:
            raise UsageError(
                f"{first.where}: --input-format {format}: but the file is {shape}, which is read as {listed(possible)}"
            )
        if not lookup.find(PARTS, format.value.replace("-", "_")).recognises(first.keys):
            raise UsageError(
                f"{first.where}: --input-format {format}: but found the keys {listed(first.keys)}, which are not of it"
            )
        return format.value
    # Ours comes last: `error` is a key of others too.
    ranked = sorted(possible, key=lambda name: name == "detcheck")
    if found := [name for name in ranked if lookup.find(PARTS, name.replace("-", "_")).recognises(first.keys)]:
        return found[0]
    if key := next((key for key in CONVERSATIONS if isinstance(first.keys.get(key), list)), ""):
        raise UsageError(
            f"{first.where}: holds conversations (`{key}`), in which each turn follows from those before, and judge reads answers to one request "
            'each. Write a line for each answer: {"prompt": [all turns before it], "text": "the answer", "trial": 0}'
        )
    raise UsageError(
        f"{first.where}: wants `tokens` or `text`; found the columns {listed(first.keys)}, which are not of {listed(formats())} either"
    )


def formats() -> list[str]:
    return [name.value for name in InputFormat if name is not InputFormat.AUTO]


def refuse_tensors(path: Path) -> None:
    """Raises UsageError for a file of tensors, or a pickled one, by how it begins."""
    with path.open("rb") as file:
        begin = file.read(10)
    found = next((kind for start, kind in TENSORS.items() if begin.startswith(start)), "")
    if begin[8:] == b'{"' and int.from_bytes(begin[:8], "little") < path.stat().st_size:
        found = "safetensors"
    if found:
        raise UsageError(
            f"{path} is {found}, and judge reads completions: their `tokens` or `text`, one a row, as JSONL, JSON, CSV or parquet. Give these; for the "
            "bits of tensors run the model with `detcheck batch`, or call detcheck.assert_batch_invariant on what made them"
        )


def shape_of(path: Path) -> Shape:
    """By how the file begins: "PAR1", or "{" or "[" after blanks."""
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return Shape.PARQUET
        file.seek(0)
        begin = next((text for line in file if (text := line.removeprefix(BOM).strip())), b"{")
    return Shape.JSON if begin[:1] in (b"{", b"[") else Shape.TABLE


def objects(path: Path) -> Iterator[Parsed]:
    """The lines of JSONL, or one JSON document: an object, or a list of them."""
    with path.open("rb") as file:
        begun = False
        for number, line in enumerate(file, 1):
            line = line if begun else line.removeprefix(BOM)
            if not line.strip():
                continue
            if not begun and line.strip() in (b"{", b"["):
                yield from document(path)
                return
            begun = True
            where = f"{path}, line {number}"
            found = parse(line, where)
            if isinstance(found, list) and found and all(isinstance(one, dict) for one in found):
                yield from items(found, where)
            elif isinstance(found, dict):
                yield Parsed(where, found)
            else:
                raise UsageError(
                    f'{where}: wants an object, like {{"text": "..."}}; found {line[:MOST_SHOWN].decode("utf-8", "replace")!a}'
                )


def document(path: Path) -> Iterator[Parsed]:
    """A file that is one JSON value, laid out over several lines."""
    found = parse(path.read_bytes(), str(path))
    yield from items(found, str(path)) if isinstance(found, list) else [Parsed(str(path), found)]


def items(found: Iterable[object], where: str) -> Iterator[Parsed]:
    for number, one in enumerate(found, 1):
        if not isinstance(one, dict):
            raise UsageError(f"{where}, item {number}: wants an object; found {str(one)[:MOST_SHOWN]!a}")
        yield Parsed(f"{where}, item {number}", one)


def parse(text: bytes, where: str) -> object:
    try:
        return strict_json.loads(text.decode("utf-8-sig").rstrip())
    except strict_json.TwiceError as error:
        raise UsageError(
            f"{where} holds {shown(str(error))} twice, and readers differ in which of them they take. Write it once"
        ) from None
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, " if error.lineno > 1 else ""
        why = f"{error.msg.removesuffix(' at')} at {at}column {error.colno}"
    except (ValueError, RecursionError) as error:  # of UTF-8, or of numbers; or brackets too deep
        why = str(error)
    raise UsageError(f"{where} is not JSON: {why}. If it was cut off there, write it again; one JSON object a line")


def table(path: Path) -> Iterator[Parsed]:
    """The rows below the heading, as many cells in each."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            heading = [name.strip() for name in next(rows, [])]
            if not own.recognises(dict.fromkeys(heading)):
                raise UsageError(
                    f"{path}, line 1: {BEYOND}: wants a JSON object, or a heading with `text` or `tokens`; found {','.join(heading)[:MOST_SHOWN]!a}"
                )
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if row and len(row) != len(heading):
                    raise UsageError(
                        f"{where}: has {len(row)} cells for the {len(heading)} columns of the heading; give one each"
                    )
                if row:
                    yield Parsed(where, dict(zip(heading, row, strict=True)))
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}, line {rows.line_num + 1}: {BEYOND}: {error}") from None
        except csv.Error as error:
            raise UsageError(f"{path}, line {rows.line_num}: is not CSV: {error}. Write it again") from None


def parquet(path: Path) -> Iterator[Parsed]:
    import pyarrow
    import pyarrow.parquet

    number = itertools.count(1)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            refuse_giants(file)
            columns = [c for c in own.COLUMNS if c in names] or names
            for part in file.iter_batches(batch_size=1024, columns=columns):
                yield from (Parsed(f"{path}, row {next(number)}", row) for row in part.to_pylist())
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{path} is not a whole parquet file: {str(error).splitlines()[0]}. Write it again") from None
