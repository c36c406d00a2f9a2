"""A run as tables of pandas. What is large is read from the run's parquet files, column by column, when its table is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detcheck.errors import UsageError
from detcheck.finding import Finding, Run
from detcheck.spec import Judging

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CASE = ("probe", "subject", "kernels", "dtype", "input", "replica")
COUNTED = (
    "samples", "missing", "distinct", "distinct_bits", "mode_count", "common_prefix", "common_prefix_bits",
)  # fmt: skip
MET = (
    "finding", "kernels", "dtype", "input", "role", "condition", "asked", "formed", "samples", "distinct", "distinct_bits",
)  # fmt: skip
OBSERVED = (
    "subject", "kernels", "dtype", "input", "replica", "condition", "batch_size", "slot", "trial", "batch", "sample", "outcome", "missing",
    "batch_sizes", "as_asked", "threads", "fed", "composition", "trace", "process", "wall_s", "preemptions",
)  # fmt: skip
WHOLE = ("batch_size", "slot", "threads", "replica", "preemptions")  # whole numbers that may be unknown
NAMES = ("subject", "kernels", "dtype", "input", "condition", "outcome")
TEXTS = ("missing", "fed", "composition", "trace")  # "" where there is nothing to say
CAME = ("id", "tokens", "text", "finish_reason", "logprobs", "margins", "unit", "dtype")
STORED = ("id", "tokens", "text", "finish_reason", "logprob_bits", "logprob_dtype", "margin_bits", "unit", "dtype")


def findings(run: Run) -> pd.DataFrame:
    """A row for each finding, in the order of report.json, whose names the columns have; what was measured stands last."""
    import pandas as pd

    return pd.DataFrame([in_arrow(row_of(f)) for f in run.findings])


def row_of(f: Finding) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(f.case, name) for name in CASE}
    row |= {"role": str(f.role), "verdict": str(f.verdict), "note": f.note}
    row |= {name: getattr(f, name) for name in COUNTED} | {"latent": f.latent}
    row |= {"interval_low": f.interval[0], "interval_high": f.interval[1]}
    row |= {"interval_bits_low": f.interval_bits[0], "interval_bits_high": f.interval_bits[1]}
    return row | {name: value for name, value in f.metrics.items() if name not in row}


def conditions(run: Run) -> pd.DataFrame:
    """A row for each finding and condition of it. Empty where a probe has none (`order`, `certify`)."""
    import pandas as pd

    rows = [
        {"finding": n} | {name: getattr(f.case, name) for name in ("kernels", "dtype", "input")} | {"role": str(f.role)}
        | {"condition": name} | counts
        for n, f in enumerate(run.findings)
        for name, counts in f.evidence.get("conditions", {}).items()
    ]  # fmt: skip
    table = pd.DataFrame(
        map(in_arrow, rows), columns=list(dict.fromkeys([*MET, *(name for row in rows for name in row)]))
    )
    return table.astype(dict.fromkeys(table.columns[MET.index("asked") :], "Int64"))


def observations(run: Run) -> pd.DataFrame:
    """A row for each sample, in the order in which they were observed; what was measured beside it stands last.

    Raises UsageError for a comparison, which observes nothing.
    """
    import pandas as pd

    if run.path is None:
        from detcheck.storage.tables import observation_row

        rows = [in_arrow(observation_row(o)) for o in collected(run).observations()] if of_file(run) else []
        table = pd.DataFrame(rows, columns=[*OBSERVED, "metrics"])
    else:
        parts = [part.to_pandas() for part in stored(run.path, "observations", (*OBSERVED, "metrics"))]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*OBSERVED, "metrics"])
    measured = [{} if found is None else {m["name"]: m["value"] for m in found} for found in table.pop("metrics")]
    table = table.reindex(columns=list(OBSERVED)).astype(dict.fromkeys(WHOLE, "Int64") | {"as_asked": "boolean"})
    table["batch_sizes"] = [tuple(int(n) for n in sizes) for sizes in table["batch_sizes"]]
    for name in NAMES + TEXTS:  # parts come as categories, each with its own
        table[name] = table[name].astype(object).where(table[name].notna(), "" if name in TEXTS else None)
    extra = pd.DataFrame(measured, index=table.index)
    return table if extra.empty else table.join(extra)


def outcomes(run: Run, seen: pd.DataFrame) -> pd.DataFrame:
    """A row for each distinct outcome, the commonest first. `seen`: the observations.

    `tokens`, `logprobs` and `margins` (nats) are arrays. Of a tensor's row (`unit` "element") `tokens` are the bit patterns, and `values`
    the numbers that they mean.
    """
    import pandas as pd

    from detcheck.bits import floats_of

    if run.path is not None:
        rows = [row for part in stored(run.path, "outcomes", STORED) for row in arrays(part)]
    elif of_file(run):
        held = collected(run)
        for _ in held.observations():
            pass
        rows = [in_arrow({name: getattr(o, name) for name in CAME}) for o in held.outcomes.values()]
    else:
        rows = []
    table = pd.DataFrame(rows, columns=list(CAME)).drop_duplicates("id")
    known = zip(table["tokens"], table["unit"], table["dtype"], strict=True)
    values = [floats_of(bits, dtype) if unit == "element" and dtype else None for bits, unit, dtype in known]
    if any(v is not None for v in values):
        table["values"] = values
    counts = seen["outcome"].value_counts()
    table.insert(1, "count", [int(counts.get(name, 0)) for name in table["id"]])
    return table.sort_values("count", ascending=False, kind="stable", ignore_index=True)


def in_arrow(row: dict[str, object]) -> dict[str, object]:
    """The row, with an escape for each lone surrogate of a text: Arrow, which pandas keeps texts in, holds UTF-8 alone."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


def arrays(part: pa.Table) -> Iterator[dict[str, object]]:
    """Rows of stored outcomes. The arrays are views of Arrow's own memory where its width is theirs."""
    import numpy as np

    def column(name: str) -> list[Any]:
        return part[name].to_pylist() if name in part.column_names else [None] * len(part)

    def lists(name: str) -> Iterator[np.ndarray | None]:
        for value in part[name] if name in part.column_names else [None] * len(part):
            yield None if value is None or not value.is_valid else value.values.to_numpy(zero_copy_only=False)

    def floats(bits: np.ndarray | None, kind: str | None) -> np.ndarray | None:
        dtype = np.dtype(kind or "float32")
        return None if bits is None else bits.astype(f"u{dtype.itemsize}").view(dtype)

    named = zip(column("id"), column("text"), column("finish_reason"), column("unit"), column("dtype"), strict=True)
    numbers = zip(lists("tokens"), lists("logprob_bits"), column("logprob_dtype"), lists("margin_bits"), strict=True)
    for (name, text, reason, unit, dtype), (tokens, bits, kind, margins) in zip(named, numbers, strict=True):
        yield {
            "id": name, "tokens": tokens, "text": text, "finish_reason": reason, "logprobs": floats(bits, kind),
            "margins": floats(margins, None), "unit": unit or "token", "dtype": dtype or "",
        }  # fmt: skip


def stored(path: Path, kind: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """These columns of every part that can be read; one that is torn is left out, as judging leaves it out and the run's warnings say."""
    import pyarrow.parquet

    for part in sorted((path / kind).glob("[0-9]*.parquet")):
        if not part.is_file():
            continue
        try:
            with pyarrow.parquet.ParquetFile(part) as file:
                read = file.read([name for name in columns if name in file.schema_arrow.names])
        except Exception:  # noqa: BLE001  damaged bytes make a reader raise anything
            continue
        yield read


def of_file(run: Run) -> bool:
    if run.spec.probe == "compare":
        raise UsageError("a comparison observes nothing itself: load its two runs for their observations and outcomes")
    return isinstance(run.spec.options, Judging)


def collected(run: Run) -> Any:
    """The files that were judged, to be read once more."""
    from detcheck.storage.collected import Collected

    own: Judging = run.spec.options
    return Collected([Path(one) for one in (own.file, own.other) if one is not None], own.input_format)
