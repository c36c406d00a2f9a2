"""How a run is stored: a folder that can be read at any moment, however its writer ended.

    runs/20261124T041500Z-completions/
        run.json                      what was asked, of what, where; written before the first observation
        observations/00000.parquet    one row a sample
        outcomes/00000.parquet        one row a distinct outcome, written before the observations that name it
        end.json                      how it ended; a run without it was killed
        lock

A parquet file cannot be read before it is closed, so there are many small parts, each written beside its name and then moved
there. Only whole batches are written. Findings are not stored: they are judged again whenever a run is read.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from detcheck import strict_json
from detcheck.errors import UsageError
from detcheck.files import write_file
from detcheck.finding import Run
from detcheck.hashes import content_hash
from detcheck.records import (
    SCHEMA_VERSION,
    Observation,
    Outcome,
    Subject,
)
from detcheck.spec import Spec
from detcheck.storage.naming import cannot_write, new_folder, stamped
from detcheck.storage.tables import (
    as_declared,
    observation_row,
    outcome_row,
    read_observations,
    read_outcome,
    write_table,
)

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")
FLUSH_S = 1.0  # a kill loses at most what was observed in this time


class RunFolder:
    """A run on disk, and what is not written yet. `create` makes a new one; hold `locked` while writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.part = 0
        self._observations: list[Observation] = []
        self._outcomes: list[Outcome] = []
        self._known: set[str] = set()
        self._flushed = time.monotonic()

    @classmethod
    def create(cls, parent: Path, probe: str, name: str | None = None) -> RunFolder:
        """A new folder, named by UTC time and probe unless it has a name. Raises UsageError where it cannot be made or written to."""
        path = new_folder(parent, name or stamped(probe))
        try:
            for part in ("observations", "outcomes"):
                (path / part).mkdir()
            write_file(path / "lock", b"")
        except OSError as error:
            raise cannot_write(parent, error) from None
        return cls(path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for one writer. The system lets go when the process ends, however it ends."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / "lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(f"{self.path} is being written by another process. Wait for it, or stop it") from None
        except (OSError, NotImplementedError) as error:  # read-only, not ours, or a file system without locks
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"{self.path}: cannot lock it: {why}. Copy the run to where you may write") from None
        try:
            yield
        finally:
            lock.release()

    def refuse_links(self) -> None:
        """Raises UsageError for a link inside: what is written through it would leave the folder."""
        parts = (self.path, self.path / "observations", self.path / "outcomes")
        for one in (one for part in parts if part.is_dir() for one in sorted(part.iterdir())):
            if one.is_symlink():
                raise UsageError(
                    f"{one} is a link, and a run that goes on is written there. Copy the run whole: cp -rL"
                )

    def discard(self) -> None:
        """Removes a folder in which nothing was recorded."""
        with contextlib.suppress(OSError):
            for file in [path for path in self.path.iterdir() if path.is_file()]:
                file.unlink()
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
            "schedule": asdict(subject.schedule) | {"not_tried": list(map(str, subject.schedule.not_tried))},
            "cases": [asdict(case) | {"role": role} for case, role in subject.cases],
            "sources": {name: asdict(place) for name, place in subject.sources.items()},
        }
        write_file(self.path / "run.json", json.dumps(head, indent=1, sort_keys=True).encode())

    def write_end(self, run: Run) -> None:
        """How the run ended, for `report`. A run without it was killed."""
        end = {"interrupted": run.interrupted, "warnings": list(run.warnings)}
        write_file(self.path / "end.json", json.dumps(end, indent=1).encode())

    def goes_on(self, reports: Iterable[str | None]) -> None:
        """How it ended before is no more how it ended: killed from now on, it was killed, and its reports (files of these names) were of before."""
        for name in filter(None, ("end.json", *reports)):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()

    def read_end(self) -> tuple[bool, tuple[str, ...]]:
        """(interrupted, warnings)"""
        try:
            if not (self.path / "end.json").is_file():
                raise FileNotFoundError
            end = strict_json.loads((self.path / "end.json").read_text("utf-8"))
            return bool(end["interrupted"]), tuple(map(str, end["warnings"]))
        except FileNotFoundError:
            return False, ("the run was killed, or is still going: judged on what is written",)
        except (OSError, ValueError, KeyError, TypeError, strict_json.TwiceError) as error:
            return False, (f"end.json cannot be read ({type(error).__name__}): how the run ended is not known",)

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
        for kind in ("observations", "outcomes"):  # one that somebody removed; not where all was
            (self.path / kind).mkdir(exist_ok=True)
        if self._outcomes:
            write_table(self.path / "outcomes" / name, [outcome_row(o) for o in self._outcomes])
        if self._observations:
            write_table(self.path / "observations" / name, [observation_row(o) for o in self._observations])
        self.part += 1
        self._observations, self._outcomes = [], []
        self._flushed = time.monotonic()

    def outcomes(self) -> dict[str, Outcome]:
        """Everything that came out, by content hash. What does not hash to its name any more is left out, with a warning."""
        found = {o.id: o for o in self._outcomes}
        for row_id, read in self._read("outcomes", outcomes_of):
            if read.id == row_id:
                found[read.id] = read
            else:
                self._warn(f"outcome {row_id[:12]} is damaged: its bits are not those it is named by")
        self._known |= set(found)
        return found

    def observations(self) -> Iterator[Observation]:
        """Everything observed, stored and not yet stored."""
        yield from self._read("observations", read_observations)
        yield from self._observations

    def _read(self, kind: str, read: Callable[[pyarrow.Table], list[T]]) -> Iterator[T]:
        """The rows of all parts that can be read. A part is taken whole or, with a warning, not at all; a copy of one, not again."""
        import pyarrow.parquet

        known: dict[str, str] = {}
        for path in sorted((self.path / kind).glob("[0-9]*.parquet")):
            if not path.is_file():
                self._warn(f"{kind}/{path.name} is no file, and is not read")
                continue
            self.part = max(self.part, 1 + int("".join(itertools.takewhile(str.isdigit, path.name))))
            try:
                raw = path.read_bytes()  # pyarrow wants a path to be UTF-8, and a file system does not
                first = known.setdefault(content_hash(raw), path.name)
                with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(raw)) as file:
                    rows = read(as_declared(kind, file))
            except Exception as error:  # noqa: BLE001  damaged bytes make a reader raise anything
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                size = path.stat().st_size if path.is_file() else 0
                self._warn(
                    f"{kind}/{path.name} is torn ({size} bytes: {reason}); what only it held is not counted. --resume observes it again"
                )
                continue
            if first == path.name:
                yield from rows
            else:  # no two parts of a run are equal: each row says of which batch it is, and how long that took
                self._warn(f"{kind}/{path.name} is a copy of {first}: what it holds is counted once")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def outcomes_of(table: pyarrow.Table) -> list[tuple[str, Outcome]]:
    """(the name that it was stored under, what was read) of each row."""
    return [(row["id"], read_outcome(row)) for row in table.to_pylist()]
