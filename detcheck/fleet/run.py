"""Asks a fleet: connects, takes answers as they come, stores each, judges what there is. The same for a stored one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detcheck import runner
from detcheck.environment import observe_client
from detcheck.errors import DetcheckError, UsageError
from detcheck.finding import Run
from detcheck.fleet import cluster, judge, options, places, replicas
from detcheck.fleet.folder import FleetFolder
from detcheck.fleet.groups import Recorded
from detcheck.fleet.members import Came, FleetMember
from detcheck.fleet.said import listed
from detcheck.fleet.watching import Watch
from detcheck.records import Schedule, Subject
from detcheck.runner import INTERRUPTED
from detcheck.spec import Spec
from detcheck.storage.folder import RunFolder
from detcheck.storage.head import read_head, read_spec
from detcheck.text import visible
from detcheck.verdict import Role
from detcheck.watch import OnProgress, guarded

MOST_ENVIRONMENTS = 20  # that reports list
NAMED_TOGETHER = 12  # members of one environment, in a line


def ask(spec: Spec, output_dir: Path | str, on_progress: OnProgress | None, command: str) -> Run:
    """Raises UsageError where the question cannot be asked, of anybody."""
    options.check(spec)
    with contextlib.ExitStack() as stack:
        members, reached = replicas.named(spec), None
        if not members:
            gpus = not spec.device.startswith("cpu")
            reached = stack.enter_context(cluster.connected(spec.options.address, spec.options.per, gpus))
            members = places.named(reached.places, spec.options.workers)
        warnings = [f"not asked: {one}" for one in reached.left_out] if reached else []
        made = FleetFolder.create(Path(output_dir), spec.probe)
        head = Run(spec, command, runner.now(), (), path=made.path)
        stack.enter_context(made.run.locked())
        try:
            made.write_head(spec, command, head.started, members, warnings)
        except OSError as error:
            raise UsageError(f"--output-dir {output_dir}: cannot write there: {error.strerror}") from None
        return collected(head, made, members, answers(spec, members, reached), on_progress, warnings)


def answers(spec: Spec, members: Sequence[FleetMember], reached: cluster.Cluster | None) -> Generator[Came]:
    asked = options.probe_spec(spec)
    if reached:
        yield from reached.answers(members, asked, spec.options.worker_timeout, os.getcwd())
    else:
        yield from replicas.answers(members, asked)


def collected(
    head: Run,
    made: FleetFolder,
    members: Sequence[FleetMember],
    coming: Generator[Came],
    on_progress: OnProgress | None,
    warnings: list[str],
) -> Run:
    """Takes what comes, and judges it however it ends."""
    watch, interrupted = Watch(made, len(members)), False
    tell = guarded(on_progress, warnings)
    try:
        tell(watch.progress())
        with contextlib.closing(coming):
            for came in coming:
                tell(watch.take(came))
                if head.spec.fail_fast and watch.differ:
                    warnings.append(
                        "stopped at the first divergence (--fail-fast): those that had not answered are missing"
                    )
                    break
    except KeyboardInterrupt:
        interrupted = True
        warnings.append(INTERRUPTED)
    except OSError as error:
        warnings.append(
            f"cannot write to {made.path}: {error.strerror or error}. Judged on what was observed until then"
        )
    except DetcheckError as error:
        warnings.append(f"the run ended early: {error}")

    def ended(interrupted: bool) -> Run:
        run = replace(head, interrupted=interrupted, warnings=tuple(warnings))
        try:
            made.run.flush()
            made.run.write_end(run)
        except OSError as error:
            run = replace(run, warnings=(*run.warnings, f"cannot write to {made.path}: {error.strerror or error}"))
        return judged(run, made, [member.name for member in members], watch.members)

    return runner.at_last(ended, interrupted, warnings)


def load(path: Path | str) -> Run:
    """A stored fleet's run, judged again. Needs neither torch nor Ray. Raises UsageError where it cannot be read."""
    path = Path(path)
    head = read_head(path)
    spec = read_spec(head, options.asking(str(head["probe"]).partition(" ")[2]))
    asked = head.get("members")
    if not isinstance(asked, list) or not asked or not all(isinstance(name, str) for name in asked):
        raise UsageError(f"{path / 'run.json'} names no members. It may be damaged: restore it from a copy")
    made = FleetFolder(RunFolder(path))
    interrupted, warnings = made.run.read_end()
    run = Run(spec, head["command"], head["started"], (), None, path, warnings, interrupted)
    return judged(run, made, asked, made.members(asked))


def judged(run: Run, made: FleetFolder, asked: Sequence[str], members: Sequence[FleetMember]) -> Run:
    environments = made.environments()
    seen = Recorded(asked, members, made.table, environments, made.run.outcomes())
    nothing = runner.failed(options.probe_spec(run.spec), "").case
    findings = judge.findings(seen, replace(nothing, probe=judge.FLEET))
    subject = subject_of(run.spec, seen)
    warnings = (
        *run.warnings,
        *not_recorded(seen),
        *other_versions(seen),
        *of_members(seen),
        *made.warnings,
        *made.run.warnings,
    )
    return replace(run, findings=findings, subject=subject, warnings=tuple(dict.fromkeys(warnings)))


def of_members(fleet: Recorded) -> Iterator[str]:
    """What their own runs warned of, once for all who say the same."""
    who: dict[str, list[str]] = {}
    for member in fleet.answered:
        for warning in member.warnings:
            who.setdefault(warning, []).append(visible(member.name))
    yield from (f"{listed(names)}: {visible(warning)}" for warning, names in who.items())


def not_recorded(fleet: Recorded) -> Iterator[str]:
    if names := [visible(m.name) for m in fleet.answered if not fleet.recorded(m)]:
        yield f"the environment of {listed(names)} is not recorded, so what is different about them is not known"


def other_versions(fleet: Recorded) -> Iterator[str]:
    """Members with another detcheck than most: their schedules and hashes may be others."""
    versions: dict[str, list[str]] = {}
    for member in filter(fleet.recorded, fleet.answered):
        version = str(fleet.environments.get(member.environment, {}).get("detcheck", "an unknown version"))
        versions.setdefault(version, []).append(visible(member.name))
    usual = max(versions, key=lambda one: len(versions[one]), default="")
    for version, names in versions.items():
        if version != usual:
            yield f"{listed(names)} has detcheck {visible(version)}, and most have {visible(usual)}: install one version everywhere"


def subject_of(spec: Spec, fleet: Recorded) -> Subject:
    """What reports say of all together: a line for each environment, with who has it."""
    together: dict[str, list[FleetMember]] = {}
    for member in fleet.answered:
        together.setdefault(member.environment, []).append(member)
    flags = {
        f"environment {n}": f"{ran_on(fleet.environments.get(digest, {}))}: {who(members)}"
        for n, (digest, members) in enumerate(list(together.items())[:MOST_ENVIRONMENTS], 1)
    }
    if len(together) > MOST_ENVIRONMENTS:
        flags["other environments"] = f"{len(together) - MOST_ENVIRONMENTS}; environments.jsonl has all"
    table = next((fleet.table(m.table) for m in fleet.answered), None)
    around = observe_client(f"a fleet of {len(fleet.asked)}", flags)
    cases = tuple((known.case, Role.GATES) for known in table.cases) if table else ()
    return Subject(spec.subject, "", dict(table.digests) if table else {}, (), Schedule(()), around, cases)


def who(members: Sequence[FleetMember]) -> str:
    names = [m.name for m in members]
    more = f" and {len(names) - NAMED_TOGETHER} more" if len(names) > NAMED_TOGETHER else ""
    return ", ".join(names[:NAMED_TOGETHER]) + more


def ran_on(environment: Mapping[str, Any]) -> str:
    packages, flags = environment.get("packages") or {}, environment.get("flags") or {}
    said = [environment.get("device"), environment.get("processor"), flags.get("driver"), flags.get("server")]
    said += [f"{environment['threads']} threads"] if environment.get("threads") else []
    said += [f"{name} {packages[name]}" for name in ("torch", "transformers", "httpx") if name in packages]
    return ", ".join(str(one) for one in said if one)
