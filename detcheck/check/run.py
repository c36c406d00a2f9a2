"""Asks what a config file asks, one question after the other, and keeps one report of all that is there after each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from detcheck import report, runner, stderr
from detcheck.check.file import Config
from detcheck.check.questions import questions
from detcheck.check.values import nearest
from detcheck.errors import DetcheckError, UsageError
from detcheck.finding import Run
from detcheck.spec import Comparing, Judging, Kernels, Spec
from detcheck.storage.naming import new_folder, stamped
from detcheck.suite import Member, Suite

Shown = Callable[[Member], AbstractContextManager[runner.OnProgress | None]]


@dataclass(frozen=True)
class Called:
    """What the command line says beside the file."""

    names: tuple[str, ...] = ()
    """of the file's probes; (): all"""
    output_dir: Path | None = None
    """None: the file's"""
    fail_fast: bool = False
    """whether the first that exits with 1 is the last"""
    command: str = "detcheck check"


def run(config: Config, called: Called, shown: Shown, on_member: Callable[[Member, Suite], None]) -> Suite:
    """Asks one after the other, as if each command were typed in the file's folder, and writes all reports after each.

    `shown`: gives the context in which one is asked, with its callback for progress. `on_member` is told what each came to. Raises
    UsageError (ConfigError) before anything is loaded. Whatever one dies of, the others are asked; Ctrl-C ends all, and the suite says so.
    """
    elsewhere = config.folder.resolve() != Path.cwd()
    begun = runner.now()
    with contextlib.chdir(config.folder):
        found = questions(config, named_folder=called.output_dir is not None)
    chosen = {name: found.specs[name] for name in names(called.names, found.specs, config)}
    parent = called.output_dir or config.folder / found.output_dir
    folder = new_folder(parent.absolute() if elsewhere else parent, stamped("check"))
    members = tuple(Member(name, spec) for name, spec in chosen.items())
    warnings = (*config.warnings, *of_ours(members))
    suite = written(Suite(config.path, called.command, begun, folder, members, warnings))
    with contextlib.chdir(config.folder):
        for n, member in enumerate(members):
            try:
                with shown(member) as on_progress:
                    began = time.monotonic()
                    run = ask(suite, member, on_progress)
                    suite = taken(suite, n, run, time.monotonic() - began)
                suite = kept(suite, n)
                on_member(suite.members[n], suite)
            except KeyboardInterrupt:  # at any moment: what was asked stays
                return kept(replace(suite, interrupted=True), n)
            if suite.interrupted or (called.fail_fast and suite.members[n].exit_code == 1):
                break
    return suite


def of_ours(members: Sequence[Member]) -> tuple[str, ...]:
    """A pass with the model that is built in is no pass of the reader's own."""
    found = [m for m in members if m.spec.embedded]
    if not found:
        return ()
    kernels = " with detcheck's own kernels," if all(m.spec.kernels is Kernels.BATCH_INVARIANT for m in found) else ""
    who = f"{', '.join(m.name for m in found)}: {'it asks' if len(found) == 1 else 'they ask'}"
    return (
        f"{who} the model that is built in,{kernels} which shows that the test works here, and says nothing of a model of yours. "
        'Name yours: model = "./model"',
    )


def names(wanted: tuple[str, ...], specs: Mapping[str, Spec], config: Config) -> tuple[str, ...]:
    """Of the probes to ask, each once."""
    for name in wanted:
        if name not in specs:
            raise UsageError(f"{config.path} asks no {name}{nearest(name, specs)}. It has {', '.join(specs)}")
    return tuple(dict.fromkeys(wanted or specs))


def written(suite: Suite) -> Suite:
    """Its reports on disk; with a warning where they could not be written."""
    return warned(suite, report.write_suite(suite))


def warned(suite: Suite, more: Sequence[str]) -> Suite:
    return replace(suite, warnings=tuple(dict.fromkeys((*suite.warnings, *more)))) if more else suite


def taken(suite: Suite, n: int, run: Run, seconds: float) -> Suite:
    """With what the one of that number came to."""
    folder = (run.path or suite.path / suite.members[n].name).name
    done = replace(suite.members[n], report=report.described(run), folder=folder, seconds=seconds)
    return replace(suite, members=(*suite.members[:n], done, *suite.members[n + 1 :]), interrupted=run.interrupted)


def kept(suite: Suite, n: int) -> Suite:
    """All reports on disk: those of that one, where it was asked, and those of all."""
    done = suite.members[n]
    return written(warned(suite, keep(done.report.run, suite.path / done.folder)) if done.report else suite)


def ask(suite: Suite, member: Member, on_progress: runner.OnProgress | None) -> Run:
    """One of them. What dies is `failed`, in words; nothing is asked a second time."""
    spec = member.spec
    began = runner.now()
    try:
        match spec.options:
            case Judging(file, other, input_format, unseen):
                return runner.judge_file(file, unseen, spec.fail_on, suite.command, other, input_format)
            case Comparing(a, b):
                return runner.compare(a, b, spec.fail_on, suite.command)
        return runner.run(spec, suite.path, on_progress, suite.command, member.name)
    except DetcheckError as error:
        why = str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  the boundary: the others are asked all the same
        stderr.trace()
        why = f"{type(error).__name__}: {error}"
    return Run(spec, suite.command, began, (runner.failed(spec, why),))


def keep(run: Run, folder: Path) -> list[str]:
    """Writes its reports: beside its data, or where it has none, into that folder. Returns what could not be written."""
    folder = run.path or folder
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        return [f"cannot write to {folder}: {error.strerror}"]
    return report.write_all(run, folder)
