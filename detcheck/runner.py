"""run(spec) -> Run: open the probe, take its schedule step by step, store as it goes, judge."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from detcheck import lookup, stderr
from detcheck.errors import DetcheckError, FailedError, UsageError
from detcheck.finding import Finding, Run
from detcheck.judge import comparisons, sides
from detcheck.judge.conditions import judge
from detcheck.probe import Probe, Session
from detcheck.records import Case, Condition, Observation, Outcome, Subject
from detcheck.resumed import Resumed, refuse_changes
from detcheck.signals import undisturbed
from detcheck.spec import Comparing, InputFormat, Judging, Kernels, Spec
from detcheck.storage import baselines
from detcheck.storage import collected as readers
from detcheck.storage.baselines import Baseline
from detcheck.storage.folder import RunFolder
from detcheck.storage.head import read_head, read_spec, read_subject
from detcheck.verdict import FailOn, Verdict
from detcheck.watch import FirstDivergence, OnProgress, Track, guarded, last_of_condition

log = logging.getLogger(__name__)
COMPARED = "compared.json"  # in a run's folder: the baseline that it was asked to be compared with

INTERRUPTED = "interrupted: judged on what was observed until then"
ENDED = ("the run ended early", "cannot write to")  # how warnings begin that say why nothing more was observed


def run(
    spec: Spec,
    output_dir: Path | str = "runs",
    on_progress: OnProgress | None = None,
    command: str | None = None,
    name: str | None = None,
) -> Run:
    """Run a probe. What was observed is stored and judged however the run ends: by an error, by Ctrl-C (`Run.interrupted`).

    `name`: of the run's folder; None: UTC time and probe. Raises UsageError where the question cannot be asked. A probe that cannot be opened gives a run with the verdict `failed`. An exception of `on_progress` is a warning of the run; only a KeyboardInterrupt of it ends the run.
    """
    probe = Probe(spec.probe)
    probe.check(spec)
    started = now()
    folder = RunFolder.create(Path(output_dir), spec.probe, name)
    head = Run(spec, command or spec.command(), started, ())
    with folder.locked():
        try:
            log.info("opening %s", spec.subject)
            opened = probe.open(spec)
        except FailedError as error:
            folder.discard()
            return replace(head, findings=(failed(spec, str(error)),))
        except BaseException:
            folder.discard()
            raise
        with closing(opened):
            try:
                if named := getattr(
                    spec.options, "baseline", None
                ):  # kept with the run, which is judged without it later
                    baselines.write(folder.path / COMPARED, baseline_of(Path(named)))
                folder.write_head(spec, opened.subject, head.command, started)  # last: whoever has it can go on
            except OSError as error:
                folder.discard()
                raise UsageError(
                    f"--output-dir {output_dir}: cannot write there: {error.strerror}. Give a folder with room"
                ) from None
            except UsageError:
                folder.discard()
                raise
            told = tuple(getattr(opened, "warnings", ()))
            head = replace(head, subject=opened.subject, path=folder.path, warnings=told)
            watch = FirstDivergence(spec.fail_on, dict(opened.subject.cases))
            return execute(head, opened, folder, on_progress, Resumed(), watch)


def resume(path: Path | str, on_progress: OnProgress | None = None) -> Run:
    """Go on with a run that ended early; what is stored is not observed again.

    Raises UsageError, naming what changed, where weights, versions, threads or anything else that can change bits differ.
    """
    path = Path(path)
    head, spec, stored_subject = read(path)
    folder = RunFolder(path)
    folder.refuse_links()
    with folder.locked(), closing(Probe(spec.probe).open(spec, planned=stored_subject.schedule)) as opened:
        refuse_changes(path, stored_subject, opened.subject)
        readable, before = folder.outcomes(), Resumed()
        watch = FirstDivergence(spec.fail_on, dict(stored_subject.cases))
        watch.see(before.noting(folder.observations()), readable.values())
        before.count(readable)
        folder.goes_on(lookup.find("formats", name).FILE for name in lookup.names("formats"))
        told = tuple(getattr(opened, "warnings", ()))
        base = Run(spec, head["command"], head["started"], (), subject=stored_subject, path=path, warnings=told)
        return execute(base, opened, folder, on_progress, before, watch)


def load(path: Path | str) -> Run:
    """A stored run, judged again. Needs no torch. Raises UsageError where it cannot be read."""
    path = Path(path)
    head, spec, subject = read(path)
    folder = RunFolder(path)
    interrupted, warnings = folder.read_end()
    run = Run(spec, head["command"], head["started"], (), subject, path, warnings, interrupted)
    log.info("read %s, which %s wrote", path, f"detcheck {subject.environment.detcheck}")
    return judged(run, folder)


def stored(path: Path | str) -> tuple[Run, Iterator[Observation], Mapping[str, Outcome]]:
    """A stored run, judged again, with what was observed. Raises UsageError where it cannot be read."""
    folder = RunFolder(Path(path))
    return load(path), folder.observations(), folder.outcomes()


def judge_file(
    path: Path | str,
    allow_unseen_batch: bool = False,
    fail_on: FailOn = FailOn.ANY,
    command: str | None = None,
    other: Path | str | None = None,
    input_format: InputFormat = InputFormat.AUTO,
) -> Run:
    """Judge completions that somebody else collected, of one system or of two (`other`). Raises UsageError where a file is not understood."""
    asked = Judging(str(path), None if other is None else str(other), input_format, allow_unseen_batch)
    spec = Spec("judge", asked, fail_on=fail_on)
    held = readers.Collected([Path(one) for one in (path, other) if one is not None], input_format)
    findings = judge((), None, held.observations(), held.outcomes, allow_unseen_batch, sides=held.sides)
    log.info("judged %d samples, %d of them distinct", sum(f.samples for f in findings), len(held.outcomes))
    return Run(spec, command or spec.command(), now(), findings, warnings=tuple(sides.unpaired(findings, held.prompts)))


def compare(a: Path | str, b: Path | str, fail_on: FailOn = FailOn.ANY, command: str | None = None) -> Run:
    """Two runs, or baselines of runs, against each other. Raises UsageError where one cannot be read, or both are one."""
    if Path(a).resolve() == Path(b).resolve():
        raise UsageError(f"{a} and {b} are the same run, so nothing would be compared. Give two")
    spec = Spec("compare", Comparing(str(a), str(b)), fail_on=fail_on)
    findings = comparisons.compare(baseline_of(Path(a)), baseline_of(Path(b)))
    return Run(spec, command or spec.command(), now(), findings)


def baseline_of(path: Path) -> Baseline:
    """Of a run's folder, judged again, or of a baseline's file. Raises UsageError."""
    if not path.is_dir():
        log.info("reading the baseline %s", path)
        return baselines.read(path)
    run, folder = load(path), RunFolder(path)
    return summary(run, folder)


def summary(run: Run, folder: RunFolder) -> Baseline:
    """What of a run can be compared with another's."""
    samples: dict[Case, dict[Condition, Counter[str]]] = {}
    outcomes = folder.outcomes()
    for o in folder.observations():
        conditions = samples.setdefault(o.case, {})
        if o.outcome in outcomes and not o.missing:
            conditions.setdefault(o.condition, Counter())[o.outcome] += 1
    return baselines.of_run(run.path.name, run.spec, run.subject, run.findings, samples, outcomes)


def read(path: Path) -> tuple[dict[str, object], Spec, Subject]:
    head = read_head(path)
    if str(head["probe"]).startswith("fleet "):
        raise UsageError(
            f"{path} is the folder of a fleet's run, which has a table for each distinct result and no samples. `detcheck report` shows it; "
            f"`detcheck compare` takes its tables: {path}/tables/*.json"
        )
    return head, read_spec(head, Probe(str(head.get("probe"))).options), read_subject(head)


def execute(
    run: Run,
    opened: Session,
    folder: RunFolder,
    on_progress: OnProgress | None,
    before: Resumed,
    watch: FirstDivergence,
) -> Run:
    """Observe every step that is not done, and judge what there is. `watch`: it has seen what was stored."""
    steps = run.subject.schedule.steps
    track = Track(run.spec, run.subject, before.done)
    where, samples = run.subject.environment.device, sum(step.samples for step in steps)
    log.info("opened %s on %s: %d steps, %d samples", run.subject.name, where, len(steps), samples)
    warnings, interrupted = list(run.warnings), False
    tell = guarded(on_progress, warnings)
    compared = Probe(run.spec.probe).compares
    try:
        tell(track.progress(0))
        for n, step in enumerate(track.pending, 1):
            log.info("step %d of %d: %s, repeat %d", n, len(track.pending), step.condition, step.trial + 1)
            observations, outcomes = opened.observe(step)
            found = watch.see(observations, outcomes)
            write(
                folder.append, [replace(o, process=before.process) for o in observations if before.lacks(o)], outcomes
            )
            tell(track.progress(n, found if compared else ()))
            if run.spec.fail_fast and watch.diverged and last_of_condition(steps, steps.index(step)):
                break
    except KeyboardInterrupt:
        interrupted = True
        warnings.append(INTERRUPTED)
    except CannotWriteError as error:
        warnings.append(f"cannot write to {folder.path}: {error}. Judged on what was observed; {error.remedy}")
    except DetcheckError as error:
        warnings.append(f"the run ended early: {error}")
    except Exception as error:  # noqa: BLE001  the boundary: whatever an engine dies of, what was observed is judged
        stderr.trace()
        warnings.append(f"the run ended early: {type(error).__name__}: {error}")

    def ended(interrupted: bool) -> Run:
        return concluded(replace(run, interrupted=interrupted, warnings=tuple(warnings)), folder)

    return at_last(ended, interrupted, warnings)


def at_last(ended: Callable[[bool], Run], interrupted: bool, warnings: list[str]) -> Run:
    """What `ended` gives, told whether the run was interrupted. Ctrl-C while it works is the run's too, unless it is the second."""
    try:
        return ended(interrupted)
    except KeyboardInterrupt:
        if interrupted:
            raise
        warnings.append(INTERRUPTED)
        return ended(True)


def concluded(run: Run, folder: RunFolder) -> Run:
    """All that is left to do once nothing more is observed: written, and judged. It may be done again."""
    try:
        with undisturbed():
            write(folder.flush)
            write(folder.write_end, run)
    except CannotWriteError as error:
        run = replace(run, warnings=(*dict.fromkeys((*run.warnings, f"cannot write to {folder.path}: {error}")),))
    run = judged(run, folder)
    with contextlib.suppress(OSError):  # the reports that are written next say so
        baselines.write(folder.path / baselines.FILE, summary(run, folder))
    return run


class CannotWriteError(Exception):
    """The run's folder takes no more."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        moved = error.errno == errno.ENOENT
        self.remedy = (
            "it was moved or removed: go on with --resume where it is now" if moved else "make room, then --resume"
        )


def write(call: Callable[..., None], *arguments: object) -> None:
    """Whole, whoever interrupts. Tells a disk that is full from an engine that dies of an OSError of its own."""
    try:
        with undisturbed():
            call(*arguments)
    except OSError as error:
        raise CannotWriteError(error) from error


def now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def judged(run: Run, folder: RunFolder) -> Run:
    subject = run.subject
    roles = dict(subject.cases)
    cases = list(roles) or [
        Case(run.spec.probe, subject.name, run.spec.kernels, subject.dtype, p.name) for p in subject.inputs
    ]
    outcomes = folder.outcomes()
    unseen = getattr(run.spec.options, "allow_unseen_batch", False)
    probe = Probe(run.spec.probe)
    whole = probe.whole(subject.schedule, outcomes, roles, run.spec.options)
    seen = folder.observations()
    findings = judge(
        cases, subject.schedule, seen, outcomes, unseen, roles, probe.judge, whole=whole, prompts=subject.inputs
    )
    log.info("judged %d samples, %d outcomes are distinct", sum(f.samples for f in findings), len(outcomes))
    ended = [warning for warning in run.warnings if warning.startswith(ENDED)]
    if not outcomes and ended and not run.interrupted:
        findings = (failed(run.spec, ended[0]),)
    run = replace(run, findings=findings)
    if getattr(run.spec.options, "baseline", None):
        findings += compared_with(folder.path / COMPARED, run, folder)
    return replace(run, findings=findings, warnings=(*run.warnings, *folder.warnings))


def compared_with(kept: Path, run: Run, folder: RunFolder) -> tuple[Finding, ...]:
    """What the comparison says that the run was asked for; no pass where the baseline was not kept whole."""
    try:
        return comparisons.compare(baselines.read(kept), summary(run, folder))
    except UsageError as error:
        first = run.findings[0].case
        why = f"not comparable: the baseline that the run was given is not in its folder any more: {error}"
        return (Finding(comparisons.of_comparison(first), Verdict.INCONCLUSIVE, why),)


def failed(spec: Spec, why: str) -> Finding:
    kernels = "user" if ":" in (getattr(spec.options, "op", None) or "") else spec.kernels
    kernels = Kernels.BATCH_INVARIANT if kernels is Kernels.BOTH else kernels
    case = Case(spec.probe, spec.subject, kernels, spec.dtype or "", "")
    return Finding(case, Verdict.FAILED, why)
