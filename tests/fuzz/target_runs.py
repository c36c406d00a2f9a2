"""`report RUN` and `compare A B`: the folder of a run, in each of its files, and the baselines of runs.

The oracle reads the tables once more with pyarrow. A run is no pass in which a case that gates has two outcomes, or fewer samples than its
schedule asks for; and a run that was no pass becomes none by damage to what describes it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from fuzzing import Files, Target, WrongPassError, asked, changed, encoded, torn, written
from hypothesis import strategies as st

from detcheck import runner
from detcheck.judge import comparisons, conditions
from detcheck.verdict import Role, Verdict

STORED = Path(__file__).parents[1] / "stored"
RUNS = (
    "completions-stock", "completions-both", "completions-turns", "completions-baseline", "kernels", "matmul", "batch", "server", "order",
    "certify-refuted", "bisect", "logprobs", "score",
)  # fmt: skip
COMPARING = ("completions", "kernels", "matmul", "batch")
PASSES = (Verdict.IDENTICAL, Verdict.CERTIFIED)
PAYLOAD = ("tokens", "logprob_bits", "logprob_dtype", "finish_reason", "words", "unit", "dtype", "positions", "turns")
CELLS: tuple[object, ...] = (None, 0, -1, 1, 2**31 - 1, -(2**31), 2**40, "", "a", "\x00", "batch-0", "alone", "::error::", [], [1], [-1], [2**31 - 1], 1.5, float("nan"), float("inf"), True, "🙂" * 50, b"\xff", {"a": 1})  # fmt: skip


@functools.cache
def stored(name: str) -> dict[str, bytes]:
    folder = STORED / name / "run"
    wanted = ("run.json", "end.json", "compared.json")
    files = [folder / one for one in wanted if (folder / one).is_file()] + sorted(folder.glob("o*/*.parquet"))
    return {f"run/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in files}


@functools.cache
def verdict(name: str) -> Verdict:
    return runner.load(STORED / name / "run").verdict


@functools.cache
def rows(name: str, file: str) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """And the types of their columns."""
    import pyarrow.parquet

    found = pyarrow.parquet.ParquetFile(io.BytesIO(stored(name)[file])).read()
    return tuple(found.to_pylist()), {one.name: one.type for one in found.schema}


def column(values: list[Any], kind: Any) -> Any:
    import pyarrow as pa

    for attempt in (lambda: pa.array(values, kind), lambda: pa.array(values)):
        with contextlib.suppress(pa.ArrowException, TypeError, OverflowError, ValueError):
            return attempt()
    return pa.array([None if v is None else str(v) for v in values])


def check(folder: Path) -> None:
    before = json.loads((folder / "asked.json").read_text())["run"]
    run = asked(lambda: runner.load("run"))
    if run is None or run.verdict not in PASSES:
        return
    try:
        head = json.loads((folder / "run/run.json").read_text("utf-8"))
        if head["probe"] not in COMPARING:
            if verdict(before) not in PASSES:
                raise WrongPassError(f"{before} was {verdict(before)} and passes")
            return
        twice_or_too_few(folder / "run", head)
    except WrongPassError:
        raise
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, it is no evidence
        raise WrongPassError(f"it cannot be read whole ({type(error).__name__}: {error}), and passes") from None


def whole_parts(folder: Path) -> list[dict[str, Any]]:
    """The rows of the parts that can be read: what a torn one held is missing, or of no case that gates."""
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("[0-9]*.parquet")):
        with contextlib.suppress(pyarrow.ArrowException, OSError):
            rows += pyarrow.parquet.ParquetFile(path).read().to_pylist()
    return rows


def twice_or_too_few(run: Path, head: dict[str, Any]) -> None:
    seen, payloads = (whole_parts(run / kind) for kind in ("observations", "outcomes"))
    known = {row["id"]: repr([row.get(name) for name in PAYLOAD]) for row in payloads if "id" in row}
    names = ("probe", "subject", "kernels", "dtype", "input", "replica")
    roles = {tuple(case.get(n) or 0 for n in names): case["role"] for case in head.get("cases", ())}
    outcomes, batches = defaultdict(set), defaultdict(int)
    for row in seen:
        case = tuple(row.get(n) or 0 for n in names)
        if roles.get(case, Role.GATES) == Role.GATES and row["outcome"] is not None:
            outcomes[case].add(known[row["outcome"]])
            batches[row["batch"]] += 1
    if twice := [case for case, found in outcomes.items() if len(found) > 1]:
        raise WrongPassError(f"{twice[0]} has {len(outcomes[twice[0]])} outcomes")
    gates = [case for case in head.get("cases", ()) if case["role"] == Role.GATES]
    for step in head["schedule"]["steps"]:
        gating = (
            not head.get("cases")
            or (head["cases"][step["case"]] if step.get("case") is not None else gates[0]) in gates
        )
        lone = step.get("case") is not None or len(gates) < 2
        if gating and lone and batches[step["index"]] < step["rows"].count(0):
            raise WrongPassError(f"batch {step['index']} has too few samples")
    if not outcomes:
        raise WrongPassError("there is no sample of a case that gates")


@st.composite
def folders(draw: st.DrawFn) -> Files:
    name = draw(st.sampled_from(RUNS))
    files = dict(stored(name))
    for _ in range(draw(st.integers(1, 2))):
        file = draw(st.sampled_from(sorted(files) + ["run/run.json"] * 3))
        how = draw(st.sampled_from(("inside", "inside", "inside", "bytes", "gone")))
        if how == "gone":
            files.pop(file, None)
        elif how == "bytes" or file not in files:
            files[file] = draw(torn(files.get(file, b""), 1))
        elif file.endswith(".json"):
            document = json.loads(stored(name)[file])
            files[file] = draw(encoded(written(draw(changed(document)))))
        else:
            files[file] = draw(table(*rows(name, file)))
    return files | {"asked.json": json.dumps({"run": name}).encode()}


@st.composite
def table(draw: st.DrawFn, found: tuple[dict[str, Any], ...], types: dict[str, Any]) -> bytes:
    """The rows, changed; of the types that they had where they can have them."""
    import pyarrow as pa
    import pyarrow.parquet

    made = [dict(row) for row in found]
    names = sorted(made[0])
    for _ in range(draw(st.integers(0, 3))):
        n, name = draw(st.sampled_from(range(len(made)))), draw(st.sampled_from(names))
        how = draw(st.sampled_from(("cell", "cell", "column", "other", "drop", "again", "whole", "without")))
        if how == "cell":
            made[n][name] = draw(st.sampled_from(CELLS))
        elif how == "column":
            value = draw(st.sampled_from(CELLS))
            made = [row | {name: value} for row in made]
        elif how == "other":
            made[n][name] = made[draw(st.sampled_from(range(len(made))))].get(name)
        elif how == "drop" and len(made) > 1:
            del made[n]
        elif how == "again":
            made.append(dict(made[n]))
        elif how == "whole":
            made = [row | {name: str(row.get(name))} for row in made]
        else:
            made = [{k: v for k, v in row.items() if k != name} for row in made]
    columns = {
        name: column([row.get(name) for row in made], types.get(name)) for name in {k: 0 for row in made for k in row}
    }
    if draw(st.integers(0, 3)) == 0:
        columns = {n: c.dictionary_encode() if pa.types.is_string(c.type) else c for n, c in columns.items()}
    sink = pa.BufferOutputStream()
    try:
        pa.parquet.write_table(pa.table(columns), sink)
    except pa.ArrowException:
        return b"PAR1"
    return sink.getvalue().to_pybytes()


# Baselines: that of a run against another one.

BASES = (
    "completions-stock",
    "completions-both",
    "kernels",
    "matmul",
    "batch",
    "completions-turns",
    "server",
    "order",
    "bisect",
    "logprobs",
    "score",
)


@functools.cache
def baseline(name: str) -> dict[str, Any]:
    import tempfile

    from detcheck.storage import baselines

    with tempfile.TemporaryDirectory() as folder:
        baselines.write(Path(folder) / "b.json", runner.baseline_of(STORED / name / "run"))
        return json.loads((Path(folder) / "b.json").read_text())


@st.composite
def two_baselines(draw: st.DrawFn) -> Files:
    """Of one run, of which the second gave other outcomes in most of the examples."""
    name = draw(st.sampled_from(BASES))
    a = b = baseline(name)
    if draw(st.integers(0, 3)):
        text = json.dumps(b)
        every = sorted({o for case in b["cases"] for o in case["outcomes"]})
        for old in draw(st.lists(st.sampled_from(every), min_size=1, max_size=3)):
            text = text.replace(old, old[::-1])
        b = json.loads(text)
    most = draw(st.sampled_from(((0, 2), (2, 0), (1, 1))))
    return {
        "a.json": draw(torn(draw(encoded(written(draw(changed(a, most[0]))))), 8)),
        "b.json": draw(torn(draw(encoded(written(draw(changed(b, most[1]))))), 8)),
    }


def check_baselines(folder: Path) -> None:
    run = asked(lambda: runner.compare("a.json", "b.json"))
    if run is None or run.verdict not in PASSES:
        return
    try:
        a, b = (json.loads((folder / name).read_text("utf-8")) for name in ("a.json", "b.json"))
        first = {json.dumps([case["case"][n] for n in ("input", "dtype")]): [] for case in a["cases"]}
        for case in a["cases"]:
            first[json.dumps([case["case"][n] for n in ("input", "dtype")])].append(case)
        assert b["cases"], "no case"
        for case in b["cases"]:
            others = first[json.dumps([case["case"][n] for n in ("input", "dtype")])]
            assert any(not set(o["outcomes"]) ^ set(case["outcomes"]) for o in others), "it gave other outcomes"
            assert case["outcomes"] and not case["missing"], "samples are missing"
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, it is no evidence
        raise WrongPassError(f"{type(error).__name__}: {error}, and it passes") from None


def blind(*_: object) -> tuple:
    """A planted fault: two outcomes are not told apart."""
    return Verdict.IDENTICAL, ""


def same(*_: object) -> dict[str, Any]:
    """A planted fault: every case is as it was."""
    return {"verdict": Verdict.IDENTICAL, "note": ""}


TARGETS = (
    Target("runs", folders(), check, (conditions.batch, "why_they_differ", blind), 120),
    Target("baselines", two_baselines(), check_baselines, (comparisons, "judged", same), 120),
)
