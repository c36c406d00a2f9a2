"""The commands as functions: `detcheck.completions(model=..., samples=100)`, `detcheck.judge(file)`, `detcheck.compare(a, b)`."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from os import PathLike
from typing import Any

from detcheck import finding, lookup, progress, runner
from detcheck.api import keywords
from detcheck.api.run import Run
from detcheck.errors import FailedError, UsageError
from detcheck.probe import Probe
from detcheck.spec import Comparing, Judging, Spec
from detcheck.text import article
from detcheck.verdict import Role, Verdict
from detcheck.watch import Progress

FOLDER = "runs"  # where the command puts them too
RETURNS = """

Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.
"""
MORE = {
    f"output_dir : str or path, default {FOLDER!r}": "Where the run's folder is made.",
    "progress : bool, or a function, default True": "Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.",
}
OF_PROBES = ("output_dir", "progress")

OnProgress = bool | Callable[[Progress], None]


def run(
    spec: Spec,
    output_dir: str | PathLike[str] = FOLDER,
    on_progress: Callable[[Progress], None] | None = None,
    command: str | None = None,
) -> Run:
    """Run a probe, asked as a `Spec`. What was observed is stored and judged however the run ends, by Ctrl-C too.

    Raises UsageError where the question cannot be asked, and FailedError where it could not be run.
    """
    return finished(runner.run(spec, a_path("output_dir", output_dir), on_progress, command))


def resume(path: str | PathLike[str] | Run, progress: OnProgress = True) -> Run:
    """Go on with a run that ended early; what is stored is not observed again.

    Raises UsageError, naming what changed, where weights, versions, threads or anything else that can change bits differ.
    """
    with showing(progress) as on_progress:
        return finished(runner.resume(folder(path), on_progress))


def load(path: str | PathLike[str]) -> Run:
    """A stored run, judged again. Needs no torch. Raises UsageError where it cannot be read."""
    return Run(runner.load(folder(path)))


def folder(path: str | PathLike[str] | Run) -> str | PathLike[str]:
    """A run's folder. Raises UsageError where it has none."""
    if isinstance(path, Run):
        if path.path is None:
            raise UsageError("path: that run has no folder, since it was not stored")
        return path.path
    return a_path("path", path)


def a_path(name: str, given: Any) -> str | PathLike[str]:
    """Raises UsageError for what names no place."""
    if not isinstance(given, str | PathLike):
        raise UsageError(f"{name} wants text or a path; got {given!r}, {article(type(given).__name__)}")
    return given


@functools.cache
def function(name: str) -> Callable[..., Run]:
    """The function of a command: of a probe, "judge" or "compare". Raises UsageError where there is none of that name."""
    others = {"judge": (Judging, JUDGES, judge), "compare": (Comparing, COMPARES, compare)}
    options, summary, act = (
        others[name] if name in others else (Probe(name).options, "", functools.partial(probe, name))
    )
    own, shared = keywords.declared(options)
    known = keywords.ordered(own, shared)
    more = () if name in others else OF_PROBES
    first = [one.name for one in known if one.knob.argument]

    def ask(*arguments: Any, **given: Any) -> Run:
        if len(arguments) > len(first):
            wants = f"{len(first)} at most ({', '.join(first)})" if first else "none"
            raise keywords.UnknownKeywordError(
                f"{name}() takes values without a keyword: {wants}; got {len(arguments)}. Name the others, like seed=1"
            )
        for place, value in zip(first, arguments, strict=False):
            if place in given:
                raise keywords.UnknownKeywordError(f"{name}() got {place} twice. Leave one of them out")
            given[place] = value
        passed = {key: given.pop(key) for key in more if key in given}
        read = keywords.values(name, known, given, more)
        if lacking := [one.name for one in known if one.knob.argument and read[one.name] == ""]:
            raise keywords.UnknownKeywordError(f"{name}() needs {' and '.join(lacking)}")
        by = [{one.name: read[one.name] for one in part} for part in (own, shared)]
        try:
            return act(options(**by[0]), by[1], frozenset(given), **passed)
        except UsageError as error:
            raise type(error)(keywords.in_python(str(error))) from None

    ask.__name__ = ask.__qualname__ = name
    ask.__module__ = "detcheck"
    ask.options = tuple(known)
    ask.__signature__ = signature(known, bool(more))
    ask.__doc__ = keywords.documented((summary or options.__doc__ or "") + RETURNS, known, MORE if more else {})
    return ask


JUDGES = "Judge completions that another harness collected; or two files, of two systems' answers to the same requests."
COMPARES = "Two runs, of two versions or machines: may they be compared, what changed, and do they give the same?"


def signature(options: list[Any], runs: bool) -> inspect.Signature:
    last = [
        inspect.Parameter("output_dir", inspect.Parameter.KEYWORD_ONLY, default=FOLDER, annotation="Named"),
        inspect.Parameter("progress", inspect.Parameter.KEYWORD_ONLY, default=True, annotation="OnProgress"),
    ]
    return inspect.Signature([*map(keywords.parameter, options), *(last if runs else ())], return_annotation=Run)


def probe(
    name: str,
    own: object,
    shared: Mapping[str, Any],
    named: frozenset[str],
    output_dir: str | PathLike[str] = FOLDER,
    progress: OnProgress = True,
) -> Run:
    place = a_path("output_dir", output_dir)
    spec = Probe(name).completed(Spec(name, own, **shared), named, runner.stored)
    with showing(progress) as on_progress:
        return finished(runner.run(spec, place, on_progress))


def judge(own: Judging, shared: Mapping[str, Any], named: frozenset[str]) -> Run:
    asked = own.allow_unseen_batch, shared["fail_on"], None, own.other, own.input_format
    return Run(runner.judge_file(own.file, *asked))


def compare(own: Comparing, shared: Mapping[str, Any], named: frozenset[str]) -> Run:
    return Run(runner.compare(own.a, own.b, shared["fail_on"]))


def showing(asked: OnProgress) -> Any:
    """A context that gives the callback."""
    return nullcontext(asked) if callable(asked) else progress.shown(quiet=not asked)


def finished(record: finding.Run) -> Run:
    """With the reports beside the data, as the command writes them. Raises FailedError where there is no data."""
    from detcheck.report import write_all

    if record.path is None and record.verdict is Verdict.FAILED:
        raise FailedError(next(f.note for f in record.findings if f.role is Role.GATES))
    for trouble in write_all(record):
        warnings.warn(trouble, stacklevel=3)
    return Run(record)


def names() -> list[str]:
    """The commands that are functions."""
    return [*lookup.names("probes"), "judge", "compare"]
