"""How a fleet's run is stored: as it comes, and each thing once, however many have it.

runs/20261124T041500Z-fleet-kernels/
    run.json                  what was asked, of whom; written before the first answer
    members.jsonl             a line a member, as it came: its name, and the digests of its table and of its environment
    environments.jsonl        a line a distinct environment
    tables/0f3a....json       a file a distinct table: which outcome came under which condition, as hashes; `detcheck compare` reads it
    outcomes/00000.parquet    of the first members that differ, the outcomes that do
    end.json, lock            as of every run
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from detcheck import __version__, strict_json
from detcheck.errors import UsageError
from detcheck.files import write_file
from detcheck.fleet.members import Came, FleetMember, environment_digest, table_digest
from detcheck.records import SCHEMA_VERSION
from detcheck.spec import Spec
from detcheck.storage import baselines
from detcheck.storage.baselines import Baseline
from detcheck.storage.folder import RunFolder
from detcheck.verdict import Verdict

T = TypeVar("T")

MEMBERS, ENVIRONMENTS, TABLES = "members.jsonl", "environments.jsonl", "tables"
SHORT = 16  # characters of a digest in a file's name


class FleetFolder:
    """A fleet's run on disk. `known` are the digests of tables and environments that are there: all that memory holds of them."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.path = run, run.path
        self.known: set[str] = set()
        self.warnings: list[str] = []

    @classmethod
    def create(cls, parent: Path, probe: str) -> FleetFolder:
        """Raises UsageError where it cannot be made or written to."""
        made = cls(RunFolder.create(parent, probe.replace(" ", "-")))
        (made.path / TABLES).mkdir()
        return made

    def write_head(
        self, spec: Spec, command: str, started: str, members: Sequence[FleetMember], warnings: Sequence[str]
    ) -> None:
        head = {
            "schema_version": SCHEMA_VERSION,
            "detcheck_version": __version__,
            "command": command,
            "reproduce": spec.command(),
            "started": started,
            "probe": spec.probe,
            "spec": spec.flat(),
            "members": [member.name for member in members],
            "warnings": list(warnings),
        }
        write_file(self.path / "run.json", json.dumps(head, indent=1, sort_keys=True).encode())

    def add(self, came: Came, table: Mapping[str, Any] | None) -> None:
        """What a member sent, with its table where that is news. Raises OSError."""
        member = came.member
        if member.environment and member.environment not in self.known:
            self._line(ENVIRONMENTS, {"digest": member.environment, "environment": came.environment})
            self.known.add(member.environment)
        if table is not None:
            baselines.write_document(self.path / TABLES / f"{member.table[:SHORT]}.json", table)
            self.known.add(member.table)
        self._line(MEMBERS, asdict(member))

    def _line(self, file: str, record: Mapping[str, Any]) -> None:
        with (self.path / file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, sort_keys=True) + "\n")

    def table(self, digest: str) -> Baseline | None:
        """None, with a warning, where it is not there or cannot be read."""
        file = self.path / TABLES / f"{digest[:SHORT]}.json"
        try:
            found = baselines.read(file)
            if table_digest(json.loads(file.read_text("utf-8"))) != digest:
                raise UsageError(
                    f"{file}: its content is not what it is named by. It was changed: restore it from a copy"
                )
            for known in found.cases:
                Verdict(known.verdict)
        except (UsageError, ValueError) as error:
            why = str(error) if isinstance(error, UsageError) else f"{file}: not a table ({error})"
            if why not in self.warnings:
                self.warnings.append(why)
            return None
        return found

    def members(self, asked: Sequence[str]) -> list[FleetMember]:
        """All that came of those that were asked, in the order of their numbers. One of which two results are stored, or another's, is missing."""
        found: dict[int, FleetMember] = {}
        wrong: dict[int, str] = {}
        for member in self._lines(MEMBERS, read_member):
            n = member.number
            if not 1 <= n <= len(asked):
                self.warnings.append(f"{MEMBERS}: nobody was asked as number {n}, so its result is not counted")
            elif member.name != asked[n - 1]:
                wrong[n] = "its result has the name of another"
            elif n in found:
                wrong[n] = "several results of it are stored"
            else:
                found[n] = member
        for n, why in wrong.items():
            self.warnings.append(
                f"{MEMBERS}: {asked[n - 1]}: {why}, so none is counted. The file was changed: restore it from a copy"
            )
            found[n] = FleetMember(n, asked[n - 1], missing=why)
        return [found[n] for n in sorted(found)]

    def environments(self) -> dict[str, Mapping[str, Any]]:
        """By digest, those that are what their digest names."""
        found = {}
        for digest, around in self._lines(ENVIRONMENTS, read_environment):
            if environment_digest(around) == digest:
                found[digest] = around
            else:
                self.warnings.append(f"{ENVIRONMENTS}: {digest[:SHORT]} is not what it is named by, and not counted")
        return found

    def _lines(self, file: str, read: Callable[[Any], T]) -> Iterator[T]:
        """Those that can be read: the last may be torn."""
        path = self.path / file
        try:
            lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else None
        except OSError as error:
            self.warnings.append(f"{file} cannot be read: {error.strerror}")
            return
        if lines is None:
            if path.exists():
                self.warnings.append(f"{file} is no file, and is not read")
            return
        for n, line in enumerate(lines, 1):
            try:
                yield read(strict_json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, strict_json.TwiceError):
                self.warnings.append(f"{file}: line {n} is torn, and not counted")


def read_member(line: Any) -> FleetMember:
    """Raises ValueError, KeyError, TypeError where it is none."""
    made = FleetMember(**{name: line[name] for name in FleetMember.__dataclass_fields__ if name in line})
    made = replace(made, warnings=tuple(made.warnings))
    texts = (made.name, made.table, made.environment, made.note, made.missing, made.gpu, *made.warnings)
    if type(made.number) is not int or not all(isinstance(text, str) for text in texts):
        raise ValueError("no member")
    if not re.fullmatch("[0-9a-f]*", made.table) or not (made.missing or (made.table and Verdict(made.verdict))):
        raise ValueError("no answer")
    return made


def read_environment(line: Any) -> tuple[str, Mapping[str, Any]]:
    around = line["environment"]
    parts = [around.get(name, {}) for name in ("packages", "flags", "variables")]
    if not isinstance(line["digest"], str) or not all(isinstance(part, dict) for part in parts):
        raise ValueError("no environment")
    return line["digest"], around


def is_fleet(path: Path) -> bool:
    """Whether it is the folder of a fleet's run."""
    try:
        return str(strict_json.loads((path / "run.json").read_text("utf-8"))["probe"]).startswith("fleet ")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, strict_json.TwiceError):
        return False
