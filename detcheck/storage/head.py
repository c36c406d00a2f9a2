"""run.json: what was asked, of what, where. Read with every type checked, since a file may have been changed by anybody."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import get_type_hints

from detcheck import strict_json
from detcheck.errors import UsageError
from detcheck.records import (
    SCHEMA_VERSION,
    Case,
    Environment,
    Load,
    NotTried,
    Problem,
    Prompt,
    Schedule,
    Setting,
    SourceLine,
    Step,
    Subject,
    Traffic,
)
from detcheck.spec import Kernels, Spec
from detcheck.storage import typed
from detcheck.verdict import FailOn, Role

STARTED = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z"


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
        head = strict_json.loads(file.read_text("utf-8"))
        version = head["schema_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, strict_json.TwiceError) as error:
        raise UsageError(
            f"{file} cannot be read ({type(error).__name__}: {error}). It may be damaged: restore it from a copy"
        ) from None
    if str(version).split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise UsageError(
            f"{file} has schema version {version}; this is detcheck for {SCHEMA_VERSION}. Read it with the detcheck that wrote it ({head.get('detcheck_version')})"
        )
    for name, form in (("probe", ""), ("command", ""), ("started", STARTED)):
        if not isinstance(head.get(name), str) or not re.match(form, head[name]):
            raise UsageError(
                f"{file} cannot be read: {name} is {head.get(name)!r}. It may be damaged: restore it from a copy"
            )
    return head


def read_spec(head: dict[str, object], options_type: type) -> Spec:
    """The spec as it was asked; `options_type` is the probe's `Options`. Raises UsageError where a knob is unknown."""
    try:
        flat = {name: tuple(v) if isinstance(v, list) else v for name, v in head["spec"].items()}
        own = {name: flat.pop(name) for name in options_type.__dataclass_fields__ if name in flat}
        kinds = {n: kind for n, kind in get_type_hints(options_type).items() if isinstance(kind, type)}
        own = {n: kinds[n](value) if n in kinds and issubclass(kinds[n], Enum) else value for n, value in own.items()}
        flat |= {"kernels": Kernels(flat["kernels"]), "fail_on": FailOn(flat["fail_on"])}
        spec = Spec(probe=head["probe"], options=options_type(**own), **flat)
        typed.check(spec)
        typed.check(spec.options)
        return spec
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(
            f"run.json holds a spec that this version does not know: {error}. Read it with detcheck {head.get('detcheck_version')}"
        ) from None


def not_tried(stored: str) -> NotTried:
    """What a schedule left out, stored as str(NotTried)."""
    what, _, reason = stored.partition(": ")
    return NotTried(what, reason)


def read_subject(head: dict[str, object]) -> Subject:
    """What the run opened. Fields that a later minor version added are passed over."""

    def record(kind: type, values: dict[str, object]) -> object:
        made = kind(
            **{
                name: tuple(v) if isinstance(v, list) else v
                for name, v in values.items()
                if name in kind.__dataclass_fields__
            }
        )
        typed.check(made)
        return made

    try:
        kinds = {"traffic": Traffic, "load": Load}
        steps = tuple(
            record(Step, s | {name: record(kind, s[name]) for name, kind in kinds.items() if s.get(name)})
            for s in head["schedule"]["steps"]
        )
        schedule = Schedule(
            steps, tuple(map(not_tried, head["schedule"]["not_tried"])), head["schedule"].get("max_rows")
        )
        inputs = tuple(record(Prompt, p | {"later": [tuple(t) for t in p.get("later", ())]}) for p in head["inputs"])
        around = head["environment"]
        listed = {"settings": Setting, "problems": Problem}
        kept = {name: [record(kind, one) for one in around.get(name, ())] for name, kind in listed.items()}
        environment = record(Environment, around | kept)
        cases = tuple((record(Case, c), Role(c["role"])) for c in head.get("cases", ()))
        known = head["subject"]["name"], head["subject"]["dtype"], head["digests"]
        sources = {name: record(SourceLine, place) for name, place in head.get("sources", {}).items()}
        made = Subject(*known, inputs, schedule, environment, cases, sources)
        for one in (schedule, made):
            typed.check(one)
        if wrong := next((s for s in steps if s.case is not None and not 0 <= s.case < len(cases)), None):
            raise ValueError(f"step {wrong.index} is of case {wrong.case}, and there are {len(cases)}")
        return made
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UsageError(
            f"run.json cannot be read: {type(error).__name__}: {error}. It may be damaged: restore it from a copy"
        ) from None
