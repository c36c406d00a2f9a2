"""Observations and outcomes as rows of parquet files, and back. Bits survive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detcheck.bits import as_integers
from detcheck.files import write_file
from detcheck.outcomes import Earlier, outcome
from detcheck.records import Case, Condition, Observation, Outcome

if TYPE_CHECKING:
    import pyarrow


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


def read_observation(row: Mapping[str, object]) -> Observation:
    case = Case(*(row[name] for name in ("probe", "subject", "kernels", "dtype", "input")), row.get("replica") or 0)
    where = (row["batch_size"], row["slot"], row["composition"], row["threads"])
    condition = Condition(row["condition"], *where, row.get("fed") or "", row.get("trace") or "")
    metrics = tuple((m["name"], m["value"]) for m in row.get("metrics") or ())
    calls = tuple((c["name"], c["calls"]) for c in row.get("calls") or ())
    steps = tuple((s["requests"], s["tokens"]) for s in row.get("steps") or ())
    turns = tuple((t["prompt"], t["cached"]) for t in row.get("turns") or ())
    seen = row.get("as_asked"), steps, row.get("preemptions") or 0, turns
    rest = (row["process"], row["wall_s"], row["missing"], metrics, calls, *seen)
    which = (row["trial"], row["batch"], row["sample"])
    return Observation(case, condition, *which, row["outcome"], tuple(row["batch_sizes"]), *rest)


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
    return replace(made, names=names)
