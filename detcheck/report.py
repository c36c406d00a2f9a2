"""Run -> Report -> text. A probe describes its findings in blocks, and a format in `formats/` draws them with `render(report) -> str`."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from detcheck import lookup, samples
from detcheck.blocks import Block, Report, Section
from detcheck.files import write_file
from detcheck.finding import Finding, Run
from detcheck.meaning import meaning
from detcheck.probe import Probe
from detcheck.records import Case, Environment, SourceLine
from detcheck.suite import Suite
from detcheck.text import visible
from detcheck.verdict import MEANING, ROLES, SEVERITY, Role

log = logging.getLogger(__name__)

OF_A_MODEL = (
    "task",
    "pooling",
    "padding",
    "logits",
    "weights",
    "tensors not used",
    "adapter",
    "adapter effect",
    "other adapters",
    "seam",
)  # flags that say what ran, not how


def render(run: Run, name: str) -> str:
    """The run in that format. Raises UsageError for a format there is not."""
    return lookup.find("formats", name).render(described(run))


def render_suite(suite: Suite, name: str) -> str:
    """Several together, in that format."""
    return lookup.find("formats", name).render_suite(suite)


def write_all(run: Run, folder: Path | None = None) -> list[str]:
    """Puts every rendered report beside the run's data, or into that folder. Returns what could not be written: a full disk changes no verdict.

    Raises KeyboardInterrupt; where that is the first of the run, all of them are written before.
    """

    def write() -> list[str]:
        report = described(run)
        parts = (lookup.find("formats", name) for name in lookup.names("formats"))
        return written(folder or run.path, ((part.FILE, lambda part=part: part.render(report)) for part in parts))

    try:
        return write()
    except KeyboardInterrupt:
        if not run.interrupted:
            write()
        raise


def write_suite(suite: Suite) -> list[str]:
    """The same for several runs together: what there is of them so far."""
    parts = (lookup.find("formats", name) for name in lookup.names("formats"))
    return written(suite.path, ((part.SUITE_FILE, lambda part=part: part.render_suite(suite)) for part in parts))


def suite_files() -> list[str]:
    """What the reports of several runs are called, in their folder."""
    parts = (lookup.find("formats", name) for name in lookup.names("formats"))
    return sorted(part.SUITE_FILE for part in parts if part.SUITE_FILE)


def written(folder: Path, files: Iterable[tuple[str | None, Callable[[], str]]]) -> list[str]:
    """Renders and writes each that has a name. Returns what could not be written."""
    troubles = []
    for name, render in files:
        try:
            if name:
                write_file(folder / name, render().encode("utf-8"))
                log.info("wrote %s", folder / name)
        except OSError as error:
            troubles.append(f"cannot write {folder / name}: {error.strerror or error}")
    return troubles


def described(run: Run) -> Report:
    """What formats draw, the worst first."""
    sources = run.subject.sources if run.subject else {}
    sections = [section(finding, sources) for finding in worst_first(run)]
    return Report(
        run,
        gating=tuple(s for s in sections if s.finding.role is Role.GATES),
        controls=tuple(s for s in sections if s.finding.role is not Role.GATES),
        judged="cases" if run.subject and run.subject.cases else "prompts",
        tally=tally_line(run),
        asked=asked(run.subject.environment) if run.subject else (),
    )


def section(finding: Finding, sources: Mapping[str, SourceLine]) -> Section:
    note = visible(finding.note) or MEANING[finding.verdict]
    source = sources.get(finding.case.subject)
    blocks = describer(finding.case.probe)(finding)
    return Section(finding, subject_line(finding), note, blocks, source, meaning(finding))


def describer(asked: str) -> Callable[[Finding], tuple[Block, ...]]:
    """A probe's own, or that of a command that is no probe and has a folder of its own."""
    if asked in lookup.names("probes"):
        return Probe(asked).describe
    own = f"detcheck.{asked}.describe"
    there = asked in lookup.names("") and importlib.util.find_spec(own)
    return importlib.import_module(own).describe if there else samples.describe


def worst_first(run: Run) -> list[Finding]:
    """Those that gate first, then the controls."""
    return sorted(
        run.findings, key=lambda f: (f.role is not Role.GATES, SEVERITY.index(f.verdict), f.mode_count - f.samples)
    )


def subject_line(finding: Finding) -> str:
    case = finding.case
    return (
        " · ".join(
            part
            for part in (
                case.probe,
                visible(case.subject),
                replica(case),
                case.kernels,
                case.dtype,
                visible(case.input),
            )
            if part
        )
        + ROLES[finding.role]
    )


def replica(case: Case) -> str:
    return f"replica {case.replica}" if case.replica else ""


def tally_line(run: Run) -> str:
    counts = {v: sum(f.verdict is v for f in run.findings if f.role is Role.GATES) for v in SEVERITY}
    return ", ".join(f"{n} {v}" for v, n in counts.items() if n)


def asked(environment: Environment) -> tuple[tuple[str, str], ...]:
    """What each server is, and what it was found to do; of a model that runs here, what was made of its folder."""
    if environment.threads:
        said = [f"{name}: {environment.flags[name]}" for name in OF_A_MODEL if name in environment.flags]
        return (("model", visible("; ".join(said))),) if said else ()
    found: dict[str, list[str]] = {}
    for name, said in environment.flags.items():
        server, _, what = name.partition(".")
        found.setdefault(server, []).append(f"{what}: {said}" if what else said)
    return tuple((visible(server), visible("; ".join(said))) for server, said in found.items())
