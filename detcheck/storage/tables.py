"""Observations and outcomes as rows of parquet files, and back. Bits survive."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detcheck.bits import as_integers
from detcheck.files import write_file
from detcheck.outcomes import Earlier, digest_outcome, outcome
from detcheck.records import Case, Condition, Observation, Outcome

if TYPE_CHECKING:
    import pyarrow.parquet

MOST_IN_A_ROW = 1 << 24  # values of a column


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema(path.parent.name)), sink)
    write_file(path, sink.getvalue().to_pybytes())


def schema(kind: str) -> pyarrow.Schema:
    import pyarrow as pa

    text, number = pa.dictionary(pa.int32(), pa.string()), pa.int32()
    if kind == "observations":
        columns = dict.fromkeys(
            ("probe", "subject", "kernels", "dtype", "input", "condition", "composition", "outcome", "missing"), text
        )
        columns |= dict.fromkeys(
            ("batch_size", "slot", "threads", "trial", "batch", "sample", "process", "replica"), number
        )
        columns |= {"batch_sizes": pa.list_(number), "wall_s": pa.float64(), "fed": text}
        metric = pa.struct([("name", pa.string()), ("value", pa.float64())])
        call = pa.struct([("name", pa.string()), ("calls", pa.int64())])
        columns |= {"metrics": pa.list_(metric), "calls": pa.list_(call)}
        step = pa.struct([("requests", number), ("tokens", number)])
        columns |= {"trace": text, "as_asked": pa.bool_(), "steps": pa.list_(step), "preemptions": number}
        columns["turns"] = pa.list_(pa.struct([("prompt", number), ("cached", number)]))
    else:
        # Floats are stored as their bits: a parquet dictionary may merge NaNs, and -0.0 with 0.0.
        bits, wide = pa.list_(pa.uint32()), pa.list_(pa.uint64())
        columns = {"id": pa.string(), "tokens": pa.list_(pa.int64()), "logprob_bits": wide, "margin_bits": bits}
        columns |= {"runners_up": pa.list_(pa.int64()), "finish_reason": pa.string(), "text": pa.string()}
        columns |= {"unit": pa.string(), "dtype": pa.string()}
        columns |= {"words": pa.list_(pa.string()), "logprob_dtype": pa.string()}
        columns |= {"positions": pa.list_(pa.int64()), "position_apart_bits": bits, "turns": pa.list_(pa.int64())}
        columns |= {"position_names": pa.list_(pa.string())}
    return pa.schema(list(columns.items()))


# What no row may lack.
ALWAYS = {
    "observations": (
        "probe", "subject", "kernels", "dtype", "input", "condition", "composition", "trial", "batch", "process", "wall_s", "missing", "batch_sizes",
    ),
    "outcomes": ("id", "tokens", "text"),
}  # fmt: skip


# The types that runs of before 28 November 2026 have.
EARLY = {"logprob_bits": "list<item: uint32>"}


def as_declared(kind: str, file: pyarrow.parquet.ParquetFile) -> pyarrow.Table:
    """Its table, whose columns are of the types that they are written as. Raises ValueError where one is not, or lacks a value."""
    refuse_giants(file)
    table = file.read()
    if wrong := unlike(kind, table.schema):
        raise ValueError(wrong)
    for name in (*ALWAYS[kind], "sample"):  # which runs of the first day do not have
        if name in table.column_names and table[name].null_count:
            raise ValueError(f"{name} is missing")
    for name in lists(kind):
        if name in table.column_names and any(chunk.values.null_count for chunk in table[name].chunks):
            raise ValueError(f"{name} lacks a value")
    return table


@functools.lru_cache(64)
def unlike(kind: str, found: pyarrow.Schema) -> str:
    """Which column is not of its type, or not there; "": all are. Asked once for all parts of a run."""
    import pyarrow as pa

    def plain(of: pyarrow.DataType) -> str:
        whole = of.value_type if pa.types.is_dictionary(of) else of
        return str(whole).replace("<element: ", "<item: ")  # as parquet calls what a list holds

    if lacking := next((name for name in ALWAYS[kind] if name not in found.names), ""):
        return f"{lacking} is missing"
    declared = {one.name: plain(one.type) for one in schema(kind)}
    pairs = ((one.name, plain(one.type), declared.get(one.name)) for one in found)
    wrong = ((name, is_, wanted) for name, is_, wanted in pairs if wanted not in (None, is_) and is_ != EARLY.get(name))
    return next((f"{name} is {is_[:60]}, not {wanted}" for name, is_, wanted in wrong), "")


@functools.cache
def lists(kind: str) -> tuple[str, ...]:
    """Names of the columns of lists."""
    import pyarrow as pa

    return tuple(one.name for one in schema(kind) if pa.types.is_list(one.type))


def refuse_giants(file: pyarrow.parquet.ParquetFile) -> None:
    """Raises ValueError where a few bytes stand for more values in a row than a completion has: they would fill memory."""
    groups = (file.metadata.row_group(n) for n in range(file.metadata.num_row_groups))
    for group in groups:
        most = max((group.column(n).num_values for n in range(group.num_columns)), default=0)
        if most > MOST_IN_A_ROW * max(group.num_rows, 1):
            raise ValueError(f"{group.num_rows} of its rows hold {most} values")


def observation_row(o: Observation) -> dict[str, object]:
    row = {name: getattr(o, name) for name in ("trial", "batch", "sample", "outcome", "process", "wall_s", "missing")}
    row |= vars(o.case) | {"batch_sizes": list(o.batch_sizes), "condition": o.condition.name}
    row["metrics"] = [{"name": name, "value": value} for name, value in o.metrics]
    row["calls"] = [{"name": name, "calls": calls} for name, calls in o.calls]
    row |= {"as_asked": o.as_asked, "preemptions": o.preemptions}
    row["steps"] = [{"requests": requests, "tokens": tokens} for requests, tokens in o.steps]
    row["turns"] = [{"prompt": prompt, "cached": cached} for prompt, cached in o.turns]
    where = ("batch_size", "slot", "composition", "threads", "fed", "trace")
    return row | {name: getattr(o.condition, name) for name in where}


READ = (
    *("probe", "subject", "kernels", "dtype", "input", "replica"),
    *("condition", "batch_size", "slot", "composition", "threads", "fed", "trace"),
    *("trial", "batch", "sample", "outcome", "batch_sizes", "process", "wall_s", "missing"),
    *("metrics", "calls", "as_asked", "steps", "preemptions", "turns"),
)  # columns, in the order in which `read_observations` takes them: of the case, of the condition, the rest
LATER = {
    "replica",
    "fed",
    "trace",
    "metrics",
    "calls",
    "as_asked",
    "steps",
    "preemptions",
    "turns",
}  # not in all versions


def read_observations(table: pyarrow.Table) -> list[Observation]:
    """All rows of a part. Equal cases and equal conditions are one object. Raises KeyError where a column is not there that all versions have."""
    if "sample" not in table.column_names:
        table = table.append_column("sample", [samples_of(table["batch"].to_pylist())])
    there, absent = set(table.column_names), [None] * len(table)
    columns = [column_values(table[name]) if name in there or name not in LATER else absent for name in READ]
    cases: dict[tuple[object, ...], Case] = {}
    conditions: dict[tuple[object, ...], Condition] = {}
    found = []
    for row in zip(*columns, strict=True):
        case, condition = row[:6], row[6:13]
        trial, batch, sample, outcome_id, sizes, process, wall_s, missing = row[13:21]
        metrics, calls, as_asked, steps, preemptions, turns = row[21:]
        if case not in cases:
            cases[case] = Case(*case[:5], case[5] or 0)
        if condition not in conditions:
            conditions[condition] = Condition(*condition[:5], condition[5] or "", condition[6] or "")
        seen = Observation(
            cases[case],
            conditions[condition],
            trial,
            batch,
            sample,
            outcome_id,
            tuple(sizes),
            process,
            wall_s,
            missing,
            tuple((m["name"], m["value"]) for m in metrics) if metrics else (),
            tuple((c["name"], c["calls"]) for c in calls) if calls else (),
            as_asked,
            tuple((s["requests"], s["tokens"]) for s in steps) if steps else (),
            preemptions or 0,
            tuple((t["prompt"], t["cached"]) for t in turns) if turns else (),
        )
        found.append(seen)
    return found


def samples_of(batches: Sequence[int]) -> list[int]:
    """Of runs that numbered no samples (24 November 2026): a part has whole batches, and their samples in order."""
    seen: Counter[int] = Counter()
    found = []
    for batch in batches:
        found.append(seen[batch])
        seen[batch] += 1
    return found


def column_values(column: pyarrow.ChunkedArray) -> list[object]:
    """What `to_pylist` gives, in a fraction of the time for columns of texts, of numbers, and of lists that are all empty."""
    import pyarrow as pa

    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], column.type)
    if array.null_count == len(array):
        return [None] * len(array)
    if pa.types.is_dictionary(array.type):
        words = [*array.dictionary.to_pylist(), None]  # the last is what -1 stands for
        # With a NaN for each null: pyarrow's fill_null would import pandas.
        places = array.indices.to_numpy(zero_copy_only=False)
        return [words[n] for n in np.nan_to_num(places, nan=-1).astype(np.int64).tolist()]
    if array.null_count == 0 and (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        return array.to_numpy(zero_copy_only=False).tolist()
    if array.null_count == 0 and pa.types.is_list(array.type):
        if not len(flat := array.flatten()):
            return [[]] * len(array)
        if pa.types.is_integer(flat.type) and flat.null_count == 0:
            numbers = flat.to_numpy(zero_copy_only=False).tolist()
            ends = array.value_lengths().to_numpy(zero_copy_only=False).cumsum().tolist()
            return [numbers[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return array.to_pylist()


def outcome_row(o: Outcome) -> dict[str, object]:
    return {
        "id": o.id,
        "tokens": o.tokens,
        "logprob_bits": None if o.logprobs is None else as_integers(o.logprobs),
        "logprob_dtype": None if o.logprobs is None else o.logprobs.dtype.name,
        "words": o.words,
        "margin_bits": None if o.margins is None else as_integers(o.margins),
        "runners_up": o.runners_up,
        "finish_reason": o.finish_reason,
        "text": o.text.encode("utf-8", "replace").decode("utf-8"),
        "unit": o.unit,
        "dtype": o.dtype,
        "positions": o.positions,
        "position_apart_bits": None if o.apart is None else as_integers(o.apart).reshape(-1),
        "turns": o.turns,
        "position_names": o.names or None,
    }


def read_outcome(row: Mapping[str, object]) -> Outcome:
    """The outcome, named again by what was read."""

    def floats(bits: list[int] | None, dtype: str = "float32") -> np.ndarray | None:
        kind = np.dtype(dtype)
        return None if bits is None else np.asarray(bits, f"u{kind.itemsize}").view(kind)

    places, apart = row.get("positions"), floats(row.get("position_apart_bits"))
    names = tuple(row.get("position_names") or ())
    earlier = None if places is None else Earlier(np.asarray(places, np.int64), apart.reshape(2, -1), names)
    # An engine may leave out log-probabilities, and margins with their runners-up. The first are bound by the outcome's name.
    lengths = [None if row[name] is None else len(row[name]) for name in ("margin_bits", "runners_up")]
    most = max(filter(None, (*lengths, len(row["logprob_bits"] or ()))), default=0)
    if lengths[0] != lengths[1] or most > len(row["tokens"]) or (places is not None and len(apart) != 2 * len(places)):
        raise ValueError("its columns are not of one length")
    made = outcome(
        np.asarray(row["tokens"], np.int64),
        logprobs=floats(row["logprob_bits"], row.get("logprob_dtype") or "float32"),
        finish_reason=row["finish_reason"],
        margins=floats(row["margin_bits"]),
        runners_up=None if row["runners_up"] is None else np.asarray(row["runners_up"], np.int64),
        text=row["text"],
        words=None if row.get("words") is None else tuple(row["words"]),
        unit=row.get("unit") or "token",
        dtype=row.get("dtype") or "",
        earlier=earlier,
        turns=row.get("turns"),
    )
    if made.unit == "word" and made.text and (made.tokens != digest_outcome(made.text.encode()).tokens).any():
        raise ValueError("a text is not that which it was")  # of facts the hash is that of their text
    return replace(made, names=names)
