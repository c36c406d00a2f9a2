"""`logprobs FILE [FILE]`: JSONL, one JSON document, parquet, safetensors and .npz, with both sides in one file or in two.

The oracle takes each side's rows as numpy, numpy's own reader and safetensors' own give them, cuts what a mask leaves out, and demands of a
pass that the two have the same float32s behind the same tokens.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import Files, Target, WrongPassError, asked, changed, encoded, torn, written
from hypothesis import strategies as st

from detcheck import runner
from detcheck.probes.logprobs import judge
from detcheck.probes.logprobs.options import Options
from detcheck.spec import Spec
from detcheck.verdict import Verdict

SIDES = (
    ("sampling_per_token_logps", "old_per_token_logps"),
    ("rollout_log_probs", "old_log_probs"),
    ("generation_logprobs", "prev_logprobs"),
)
TOKENS = ("tokens", "completion_ids", "responses")
MASKS = ("completion_mask", "response_mask")


def check(folder: Path) -> None:
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    own = Options(file=paths[0].name, other=paths[1].name if len(paths) > 1 else None)
    run = asked(lambda: runner.run(Spec("logprobs", own), "runs"))
    if run is None or run.verdict is not Verdict.IDENTICAL:
        return
    try:
        held = [rows_of(path) for path in paths]
        keys = {k for k in held[0][0] if k in SIDES[0] + SIDES[1] + SIDES[2]} if len(held) == 1 else {"logprobs"}
        sampler, trainer = (
            [k for pair in SIDES for k in pair if k in keys] if len(held) == 1 else ("logprobs", "logprobs")
        )
        a, b = numbers(held[0], sampler), numbers(held[-1], trainer)
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, it is no evidence
        raise WrongPassError(f"it cannot be read whole ({type(error).__name__}: {error}), and passes") from None
    if a != b or not a:
        raise WrongPassError(f"the two sides differ and pass: {a} {b}")


def numbers(rows: list[dict[str, Any]], key: str) -> Counter[str]:
    """What a side has: tokens and float32 bits of each sequence."""
    found: Counter[str] = Counter()
    for row in rows:
        values = np.atleast_1d(np.asarray([np.nan if v is None else float(v) for v in np.ravel(row[key]).tolist()]))
        tokens = next((np.ravel(row[k]) for k in TOKENS if several(row.get(k))), np.arange(len(values)))
        kept = next(
            (np.ravel(np.asarray(row[k], np.float64)) != 0 for k in MASKS if several(row.get(k))),
            np.ones(len(values), bool),
        )
        assert len(values) == len(tokens) == len(kept), "its lengths are not the same"
        bits = values.astype(np.float32).view(np.uint32)[kept]
        found[json.dumps([list(map(int, tokens[kept])), bits.tolist()])] += 1
    return found


def several(value: object) -> bool:
    """A number alone is a count, and no list of tokens or of a mask."""
    return isinstance(value, list | np.ndarray)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Raises for what cannot be read whole."""
    raw = path.read_bytes()
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return cut({name: file[name] for name in file.files})
    if path.suffix == ".safetensors":
        import safetensors.numpy

        return cut(safetensors.numpy.load(raw))
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(path).read().to_pylist()
    text = raw.decode("utf-8-sig")
    try:
        parsed = [json.loads(line.strip(), object_pairs_hook=once) for line in text.split("\n") if line.strip()]
    except ValueError:
        parsed = [json.loads(text.strip(), object_pairs_hook=once)]
    return [row for one in parsed for each in (one if isinstance(one, list) else [one]) for row in cut(each)]


def once(pairs: list[tuple[str, object]]) -> dict:
    if len(dict(pairs)) < len(pairs) and not all(type(value) in (int, float) for _, value in pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def cut(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """A batch as its rows; a row as itself."""
    keys = [k for pair in (*SIDES, ("logprobs",)) for k in pair if k in batch]
    deep = [k for k in keys if isinstance(batch[k], list) and batch[k] and isinstance(batch[k][0], list)]
    deep += [k for k in keys if isinstance(batch[k], np.ndarray) and batch[k].ndim > 1]
    if not deep:
        return [batch]
    return [
        {k: v[n] if isinstance(v, list | np.ndarray) else v for k, v in batch.items()}
        for n in range(len(batch[deep[0]]))
    ]


@st.composite
def sides(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Rows of one file, or of two; sometimes one number of the trainer's is off by an ulp."""
    pair = draw(st.sampled_from(SIDES))
    two, masked = draw(st.booleans()), draw(st.booleans())
    made: tuple[list, list] = [], []
    for n in range(draw(st.integers(1, 3))):
        values = [float(np.float32(-0.1 * (n + k + 1))) for k in range(3)]
        other = [
            float(np.nextafter(np.float32(v), np.float32(0))) if draw(st.integers(0, 5)) == 0 else v for v in values
        ]
        common: dict[str, Any] = {draw(st.sampled_from(TOKENS[:2])): [n, n + 1, n + 2]}
        common |= {draw(st.sampled_from(MASKS)): [1, 1, draw(st.integers(0, 1))]} if masked else {}
        if two:
            made[0].append(common | {"logprobs": values})
            made[1].append(common | {"logprobs": other})
        else:
            made[0].append(common | {pair[0]: values, pair[1]: other})
    return made[0], made[1] if two else None


@st.composite
def texts(draw: st.DrawFn) -> Files:
    made = {}
    for name, rows in zip(("a.jsonl", "b.jsonl"), draw(sides()), strict=True):
        if rows is None:
            break
        how = draw(st.sampled_from(("lines", "lines", "list", "batch")))
        if how == "batch":
            keys = set.intersection(*map(set, rows))
            rows = [{k: [row[k] for row in rows] for k in sorted(keys)}]
        rows = draw(changed(rows))
        text = (
            "\n".join(map(written, rows)) + "\n"
            if how == "lines" and isinstance(rows, list)
            else written(rows).replace("[", "[\n", 1)
        )
        made[name] = draw(torn(draw(encoded(text)), 6))
    return made


KINDS = ("<f4", "<f8", "<f2", ">f4", "<i8", "<u8", "?", "<c8", "|S4", "<U3", "<M8[s]", "V4")


@st.composite
def arrays(draw: st.DrawFn) -> Files:
    """A batch as arrays: .npz, safetensors or parquet, in which types, shapes, lengths and headers lie."""
    first, second = draw(sides())
    if second is not None:
        first = [
            {**a, SIDES[0][0]: a.pop("logprobs"), SIDES[0][1]: b["logprobs"]}
            for a, b in zip(first, second, strict=True)
        ]
    keys = sorted(set.intersection(*map(set, first)))
    made = {k: np.asarray([row[k] for row in first], np.float32 if "log" in k else np.int64) for k in keys}
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(sorted(made)))
        how = draw(st.sampled_from(("kind", "flat", "more", "cut", "empty", "gone", "nan", "deep")))
        value = made[key]
        with np.errstate(all="ignore"):
            if how == "kind":
                kind = np.dtype(draw(st.sampled_from(KINDS)))
                made[key] = np.zeros(value.shape, kind) if kind.kind in "SUMV" else value.astype(kind)
            elif how == "gone":
                del made[key]
                if not made:
                    made = {"x": value}
            elif how == "nan" and value.dtype.kind == "f":
                made[key] = np.where(
                    np.arange(value.size).reshape(value.shape) % 2 == 0,
                    value,
                    draw(st.sampled_from((np.nan, np.inf, -0.0, 1e39))),
                ).astype(value.dtype)
            else:
                made[key] = {
                    "flat": value.reshape(-1),
                    "more": np.concatenate([value, value]),
                    "cut": value[..., :-1],
                    "empty": value[:0],
                    "deep": value[None],
                }.get(how, value)
    form = draw(st.sampled_from(("npz", "safetensors", "parquet")))
    raw = {"npz": npz, "safetensors": tensors, "parquet": table}[form](draw, made)
    return {f"a.{form}": draw(torn(raw, 3))}


def npz(draw: st.DrawFn, made: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    method = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    with zipfile.ZipFile(out, "w", method) as file:
        for name, value in made.items():
            inner = io.BytesIO()
            np.lib.format.write_array(inner, value, allow_pickle=False)
            raw = inner.getvalue()
            if draw(st.integers(0, 7)) == 0:  # a shape that is not there
                shape = draw(
                    st.sampled_from(
                        (
                            b"(99999999999, 3)",
                            b"(-1, 3)",
                            b"(3, 0x3)",
                            b"()",
                            b"(1, 1, 1, 1, 1,)",
                            b"('a',)",
                            b"(True, 3)",
                        )
                    )
                )
                raw = raw.replace(str(value.shape).encode(), shape)
            file.writestr(draw(st.sampled_from((f"{name}.npy",) * 5 + (name, f"../{name}.npy", "data.pkl"))), raw)
    return out.getvalue()


def tensors(draw: st.DrawFn, made: dict[str, np.ndarray]) -> bytes:
    names = {"f4": "F32", "f8": "F64", "f2": "F16", "i8": "I64", "b1": "BOOL", "u8": "U64"}
    header, body = {}, b""
    for name, value in made.items():
        raw = value.tobytes()
        header[name] = {
            "dtype": names.get(value.dtype.str[1:], "F32"),
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    if draw(st.booleans()):
        header["__metadata__"] = {"format": "pt"}
    text = written(draw(changed(header, 2))).encode("utf-8", "replace")
    length = draw(st.sampled_from((len(text),) * 6 + (len(text) - 1, len(text) + 1, 0, 2**40, 2**64 - 1)))
    return struct.pack("<Q", length) + text + body


def table(draw: st.DrawFn, made: dict[str, np.ndarray]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    columns, rows = {}, min(len(v) if v.ndim else 1 for v in made.values())
    for name, value in made.items():
        values = value.tolist() if value.ndim else [value.item()]
        try:
            array = pa.array(values[:rows])
            if draw(st.integers(0, 3)) == 0:
                to = draw(
                    st.sampled_from(
                        (
                            pa.large_list(pa.float64()),
                            pa.list_(pa.decimal128(38, 20)),
                            pa.list_(pa.string()),
                            pa.list_(pa.int8()),
                            pa.list_(pa.float16()),
                        )
                    )
                )
                array = array.cast(to)
        except (pa.ArrowException, TypeError, OverflowError):
            array = pa.nulls(rows)
        columns[name] = array
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def blind(pairs: object) -> object:
    """A planted fault: no number differs."""
    from dataclasses import replace

    return judge_measure([replace(pair, trainer=pair.sampler) for pair in pairs])


judge_measure = judge.measure
TARGETS = (
    Target("logprobs", texts(), check, (judge, "measure", blind), 60),
    Target("logprobs-arrays", arrays(), check, (judge, "measure", blind), 60),
)
