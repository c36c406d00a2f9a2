"""How a run is stored: a folder that can be read at any moment, however its writer ended.

    runs/20261124T041500Z-completions/
        run.json                      what was asked, of what, where; written before the first observation
        observations/00000.parquet    one row a sample
        outcomes/00000.parquet        one row a distinct outcome, written before the observations that name it
        lock

A parquet file cannot be read before it is closed, so there are many small parts, each written beside its name and then moved
there. Only whole batches are written. Findings are not stored: they are judged again whenever a run is read.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from detcheck.bits import as_integers
from detcheck.errors import UsageError
from detcheck.files import write_file
from detcheck.records import (
    SCHEMA_VERSION,
    Case,
    Condition,
    Environment,
    FailOn,
    Kernels,
    Observation,
    Outcome,
    Prompt,
    Schedule,
    Spec,
    Step,
    Subject,
)

FLUSH_S = 1.0  # a kill loses at most what was observed in this time


class RunFolder:
    """A run on disk. Make one with `create` or `open_run`; use as a context manager to hold its lock while writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.part = 0
        self._observations: list[Observation] = []
        self._outcomes: list[Outcome] = []
        self._known: set[str] = set()
        self._flushed = time.monotonic()

    @classmethod
    def create(cls, parent: Path, probe: str) -> RunFolder:
        """A new folder, named by UTC time and probe. Raises UsageError where it cannot be made or written to."""
        stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{probe}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path = next(
                p for n in range(1, 10_000) if (p := parent / (stem if n == 1 else f"{stem}-{n}")) and make_folder(p)
            )
            for part in ("observations", "outcomes"):
                (path / part).mkdir()
            write_file(path / "lock", b"")
        except OSError as error:
            raise UsageError(
                f"--output-dir {parent}: cannot write there: {error.strerror}. Give a folder with room that you may write to"
            ) from None
        return cls(path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for one writer. The system lets go when the process ends, however it ends."""
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.path / "lock", blocking=False):
                yield
        except Timeout:
            raise UsageError(f"{self.path} is being written by another process. Wait for it, or stop it") from None

    def discard(self) -> None:
        """Removes a folder in which nothing was recorded."""
        with contextlib.suppress(OSError):
            (self.path / "lock").unlink()
            for part in (self.path / "observations", self.path / "outcomes", self.path):
                part.rmdir()

    def write_head(self, spec: Spec, subject: Subject, command: str, started: str) -> None:
        head = {
            "schema_version": SCHEMA_VERSION,
            "detcheck_version": subject.environment.detcheck,
            "command": command,
            "reproduce": spec.command(),
            "started": started,
            "probe": spec.probe,
            "spec": spec.flat(),
            "subject": {"name": subject.name, "dtype": subject.dtype},
            "digests": dict(subject.digests),
            "environment": asdict(subject.environment),
            "inputs": [asdict(p) for p in subject.inputs],
            "schedule": asdict(subject.schedule),
        }
        write_file(self.path / "run.json", json.dumps(head, indent=1, sort_keys=True).encode())

    def append(self, observations: Sequence[Observation], outcomes: Sequence[Outcome]) -> None:
        """Takes whole batches; writes them out once a second. Raises OSError (disk full): what was taken stays in memory."""
        self._observations += observations
        self._outcomes += [o for o in outcomes if o.id not in self._known]
        self._known |= {o.id for o in outcomes}
        if time.monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        if not self._observations and not self._outcomes:
            return
        name = f"{self.part:05}.parquet"
        if self._outcomes:
            write_table(self.path / "outcomes" / name, [outcome_row(o) for o in self._outcomes])
        if self._observations:
            write_table(self.path / "observations" / name, [observation_row(o) for o in self._observations])
        self.part += 1
        self._observations, self._outcomes = [], []
        self._flushed = time.monotonic()

    def outcomes(self) -> dict[str, Outcome]:
        found = {o.id: o for o in self._outcomes}
        for row in self._rows("outcomes"):
            found[row["id"]] = read_outcome(row)
        self._known |= set(found)
        return found

    def observations(self) -> Iterator[Observation]:
        """Everything observed, stored and not yet stored."""
        for row in self._rows("observations"):
            yield read_observation(row)
        yield from self._observations

    def _rows(self, kind: str) -> Iterator[dict[str, object]]:
        import pyarrow
        import pyarrow.parquet

        for path in sorted((self.path / kind).glob("*.parquet")):
            self.part = max(self.part, int(path.stem) + 1)
            try:
                table = pyarrow.parquet.read_table(path)
            except (pyarrow.ArrowInvalid, OSError) as error:
                reason = str(error).splitlines()[0]
                self._warn(
                    f"{kind}/{path.name} is torn ({path.stat().st_size} bytes: {reason}); its samples count as missing. --resume observes them again"
                )
                continue
            yield from table.to_pylist()

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def read_head(path: Path) -> dict[str, object]:
    """run.json of a run's folder. Raises UsageError where there is none, or one that this version cannot read."""
    file = path / "run.json"
    if not path.is_dir():
        raise UsageError(f"{path}: no such run. Give the folder of a run, like runs/20261124T041500Z-completions")
    if not file.is_file():
        raise UsageError(
            f"{path} has no run.json: it is not a run's folder, or the run ended before anything was observed"
        )
    try:
        head = json.loads(file.read_text("utf-8"))
        version = head["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file} cannot be read ({type(error).__name__}: {error}). It may be damaged: restore it from a copy"
        ) from None
    if str(version).split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise UsageError(
            f"{file} has schema version {version}; this is detcheck for {SCHEMA_VERSION}. Read it with the detcheck that wrote it ({head.get('detcheck_version')})"
        )
    return head


def read_spec(head: dict[str, object], options_type: type) -> Spec:
    """The spec as it was asked; `options_type` is the probe's `Options`. Raises UsageError where a knob is unknown."""
    flat = {name: tuple(v) if isinstance(v, list) else v for name, v in head["spec"].items()}
    own = {name: flat.pop(name) for name in options_type.__dataclass_fields__ if name in flat}
    try:
        flat |= {"kernels": Kernels(flat["kernels"]), "fail_on": FailOn(flat["fail_on"])}
        return Spec(probe=head["probe"], options=options_type(**own), **flat)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(
            f"run.json holds a spec that this version does not know: {error}. Read it with detcheck {head.get('detcheck_version')}"
        ) from None


def read_subject(head: dict[str, object]) -> Subject:
    """What the run opened. Fields that a later minor version added are passed over."""

    def record(kind: type, values: dict[str, object]) -> object:
        return kind(
            **{
                name: tuple(v) if isinstance(v, list) else v
                for name, v in values.items()
                if name in kind.__dataclass_fields__
            }
        )

    try:
        steps = tuple(record(Step, s) for s in head["schedule"]["steps"])
        schedule = Schedule(steps, tuple(head["schedule"]["not_tried"]))
        inputs = tuple(record(Prompt, p) for p in head["inputs"])
        environment = record(Environment, head["environment"])
        return Subject(
            head["subject"]["name"], head["subject"]["dtype"], head["digests"], inputs, schedule, environment
        )
    except (TypeError, KeyError) as error:
        raise UsageError(
            f"run.json cannot be read: {type(error).__name__}: {error}. It may be damaged: restore it from a copy"
        ) from None


def make_folder(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema(path.parent.name)), sink)
    write_file(path, sink.getvalue().to_pybytes())


def schema(kind: str):  # noqa: ANN201  pyarrow is imported late
    import pyarrow as pa

    text, number = pa.dictionary(pa.int32(), pa.string()), pa.int32()
    if kind == "observations":
        columns = dict.fromkeys(
            ("probe", "subject", "kernels", "dtype", "input", "condition", "composition", "outcome", "missing"), text
        )
        columns |= dict.fromkeys(("batch_size", "slot", "threads", "trial", "batch", "sample", "process"), number)
        columns |= {"batch_sizes": pa.list_(number), "wall_s": pa.float64()}
    else:
        # Floats are stored as their bits: a parquet dictionary may merge NaNs, and -0.0 with 0.0.
        bits = pa.list_(pa.uint32())
        columns = {"id": pa.string(), "tokens": pa.list_(pa.int64()), "logprob_bits": bits, "margin_bits": bits}
        columns |= {"runners_up": pa.list_(pa.int64()), "finish_reason": pa.string(), "text": pa.string()}
    return pa.schema(list(columns.items()))


def observation_row(o: Observation) -> dict[str, object]:
    row = {name: getattr(o, name) for name in ("trial", "batch", "sample", "outcome", "process", "wall_s", "missing")}
    row |= asdict(o.case) | {"batch_sizes": list(o.batch_sizes), "condition": o.condition.name}
    return row | {name: getattr(o.condition, name) for name in ("batch_size", "slot", "composition", "threads")}


def read_observation(row: dict[str, object]) -> Observation:
    case = Case(*(row[name] for name in ("probe", "subject", "kernels", "dtype", "input")))
    condition = Condition(row["condition"], row["batch_size"], row["slot"], row["composition"], row["threads"])
    rest = (row["process"], row["wall_s"], row["missing"])
    which = (row["trial"], row["batch"], row["sample"])
    return Observation(case, condition, *which, row["outcome"], tuple(row["batch_sizes"]), *rest)


def outcome_row(o: Outcome) -> dict[str, object]:
    return {
        "id": o.id,
        "tokens": o.tokens,
        "logprob_bits": None if o.logprobs is None else as_integers(o.logprobs),
        "margin_bits": None if o.margins is None else as_integers(o.margins),
        "runners_up": o.runners_up,
        "finish_reason": o.finish_reason,
        "text": o.text.encode("utf-8", "replace").decode("utf-8"),
    }


def read_outcome(row: dict[str, object]) -> Outcome:
    def floats(bits: list[int] | None) -> np.ndarray | None:
        return None if bits is None else np.asarray(bits, np.uint32).view(np.float32)

    runners_up = None if row["runners_up"] is None else np.asarray(row["runners_up"], np.int64)
    tokens = np.asarray(row["tokens"], np.int64)
    return Outcome(
        row["id"],
        tokens,
        floats(row["logprob_bits"]),
        row["finish_reason"],
        floats(row["margin_bits"]),
        runners_up,
        row["text"],
    )
