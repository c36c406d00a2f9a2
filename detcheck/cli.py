"""The command line: options -> Spec, print, exit code. One command per probe, made from what the probe declares."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from detcheck import colours, lookup, signals, stderr
from detcheck.check.options import BEGUN, CHECKED, Checking, Starting
from detcheck.commands import Estimating, Given, Output, Running, Telling, add, epilogue
from detcheck.env.usable import ListingFormat
from detcheck.errors import DetcheckError, UsageError
from detcheck.fleet.command import fleet_commands
from detcheck.options import VERDICT, knob
from detcheck.output import NoCommands, annotate_error, emit, listens
from detcheck.probe import Probe, refuse_more_than_can_be_had
from detcheck.redacted import HIDDEN
from detcheck.spec import Comparing, Judging, Spec
from detcheck.stderr import say
from detcheck.verdict import INTERRUPTED, Role, Verdict

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from detcheck.finding import Run
    from detcheck.suite import Member, Suite
    from detcheck.watch import OnProgress

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Does an LLM inference stack give the same bits for the same request, and if not: where, why, and how often?\n\n"
    "Exit codes: 0 identical, 1 divergent, 2 usage, 3 inconclusive, 4 failed, 130 interrupted.",
    epilog=epilogue(
        (
            "detcheck completions --kernels both  # the embedded model, offline: stock kernels, then ours",
            "detcheck completions --model ./model -n 1000  # your own model",
        )
    ),
)


def print_version(asked: bool) -> None:
    if asked:
        from detcheck import __version__

        emit(f"detcheck {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=print_version, is_eager=True),
) -> None:
    """Read before any command is: `print_version` needs none."""


def ask(probe: Probe, given: Given) -> None:
    """Run a probe, or go on with a run, and finish."""
    from detcheck import progress, runner

    unless_told = getattr(probe.options, "DEFAULTS", {})  # of fields that are no options of its command too
    spec = Spec(probe.name, probe.options(**given.own), **(unless_told | given.shared))
    if given.dry_run:
        refuse_more_than_can_be_had(spec)
        emit(probe.estimate(spec))
        return
    spec = probe.completed(spec, given.named, runner.stored)
    with progress.shown(given.quiet) as on_progress:
        if given.resume:
            refuse_other_options(given, spec, runner.read(given.resume)[1])
            run = runner.resume(given.resume, on_progress)
        else:
            run = runner.run(spec, given.output_dir, on_progress, command=typed())
    finish(run, given.format)


def typed() -> str:
    """The command line, as it was given, but for who is named in a URL: between // and the last @."""
    words = [
        re.sub(r"//.*@", f"//{HIDDEN}@", word, flags=re.DOTALL) if "://" in word else word for word in sys.argv[1:]
    ]
    return shlex.join(["detcheck", *words])


def refuse_other_options(given: Given, asked: Spec, stored: Spec) -> None:
    """A run that is resumed has its options: one that is given all the same must not say otherwise."""
    for name, value in asked.flat().items():
        if name in given.named and value != stored.flat()[name]:
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"--resume goes on with the run's own options, and it has {option} {stored.flat()[name]}, not {value}. Leave {option} out"
            )


def judge(given: Given) -> None:
    """Judge completions that another harness collected; or two files, of two systems' answers to the same requests."""
    from detcheck import runner

    own = given.own
    run = runner.judge_file(
        own["file"], own["allow_unseen_batch"], given.shared["fail_on"], typed(), own["other"], own["input_format"]
    )
    finish(run, given.format)


def compare(given: Given) -> None:
    """Two runs, of two versions or machines: may they be compared, what changed, and do they give the same?

    Exit codes: 0 the same, 1 not the same, 3 not comparable.
    """
    from detcheck import runner

    finish(runner.compare(given.own["a"], given.own["b"], given.shared["fail_on"], command=typed()), given.format)


def report(given: Given) -> None:
    """Judge a stored run again and show it in any format. Exits with the run's own code; needs no torch."""
    from detcheck import runner
    from detcheck.fleet import run as fleet
    from detcheck.fleet.folder import is_fleet

    path = Path(given.own["run"])
    show(fleet.load(path) if is_fleet(path) else runner.load(path), given.format)


def check(given: Given) -> None:
    """The entry for CI: all that detcheck.toml or pyproject.toml lists, with one verdict, one exit code and one folder of reports.

    Exit codes: 1 if anything differs, else 4 if a probe could not run, else 3 if there is a doubt, else 0; 2 for a fault in the file.
    """
    from detcheck import github, progress
    from detcheck.check import file, run
    from detcheck.formats.terminal import render_end, render_member
    from detcheck.report import render_suite

    own, lines = given.own, given.format == "terminal"

    def show_member(member: Member, suite: Suite) -> None:
        width = max(len(m.title) for m in suite.members)
        if lines:
            emit(render_member(member, width, colours.wanted(sys.stdout)))
        elif not given.quiet:
            print(render_member(member, width), end="", file=sys.stderr)

    def shown(member: Member) -> AbstractContextManager[OnProgress | None]:
        if not given.quiet:
            say(f"asking {member.name}")
        return progress.shown(given.quiet)

    config = file.read(own["config"]) if own["config"] else file.find(Path())
    called = run.Called(own["names"], own["output_dir"], own["fail_fast"], typed())
    suite = run.run(config, called, shown, show_member)
    github.publish_suite(suite)
    emit(render_end(suite, colours.wanted(sys.stdout)) if lines else render_suite(suite, given.format), given.format)
    raise typer.Exit(suite.exit_code)


def init(given: Given) -> None:
    """Write a commented config file for `detcheck check`, fitted to this machine."""
    from detcheck.check import starter
    from detcheck.check.file import OWN, SHARED

    own = given.own
    if own["pyproject"] and (other := given.named & {"config", "force"}):
        raise UsageError(f"--{min(other)} is about a file of its own, and --pyproject adds to {SHARED}. Leave one out")
    path, found = Path(SHARED) if own["pyproject"] else own["config"], starter.look()
    if own["pyproject"]:
        starter.extend(path, found)
    else:
        starter.write(path, found, own["force"])
    emit(f"wrote {path}, for {found}\n")
    if not own["pyproject"] and (path.parent / SHARED).is_file():
        emit(f"{SHARED} is here too: --pyproject adds the same to it, as [tool.detcheck]\n")
    command = shlex.join(
        ["detcheck", "check", *(["--config", str(path)] if path.parts not in ((OWN,), (SHARED,)) else [])]
    )
    emit(f"next: {command if found.transformers else 'take the # from a probe that can run here'}\n")


def env(given: Given) -> None:
    """What is here: processor and GPUs, versions, settings that bear on bits, which engines and kernels can run, and each problem with its remedy.

    Exits with 0 whatever it finds: it is a listing. --verbose imports vLLM, too.
    """
    from detcheck.env import listing, render

    emit(render.render(listing.look(thorough=given.verbose), given.format), given.format)


@dataclass(frozen=True)
class Nothing:
    """What `detcheck env` is asked."""


@dataclass(frozen=True)
class Listed(Output):
    """Formats of a listing, which has no verdict."""

    format: ListingFormat = knob(ListingFormat.TERMINAL, help="What to print on stdout.", panel=VERDICT)


@dataclass(frozen=True)
class Stored:
    """What `detcheck report` is asked."""

    run: str = knob("", help="A run's folder.", argument=True)


for name in lookup.names("probes"):
    found = Probe(name)
    kind = Estimating if found.estimate else Running
    add(app, name, found.options, functools.partial(ask, found), found.examples, kind, help=found.options.__doc__)
JUDGED = (
    "detcheck judge completions.jsonl  # completions of one system",
    "detcheck judge before.jsonl after.jsonl  # the same requests, answered by two systems",
)
COMPARED = (
    "detcheck compare runs/20261124T041500Z-batch runs/20261124T051500Z-batch  # two runs",
    "detcheck compare baseline.json runs/20261124T051500Z-completions  # a run against a baseline that was kept",
)
SHOWN = (
    "detcheck report runs/20261124T041500Z-completions  # what the run found, once more",
    "detcheck report runs/20261124T041500Z-completions --format html > report.html  # one page, to open in a browser",
)
add(app, "judge", Judging, judge, JUDGED)
add(app, "compare", Comparing, compare, COMPARED)
add(app, "report", Stored, report, SHOWN)
add(app, "check", Checking, check, CHECKED)
add(app, "init", Starting, init, BEGUN, Telling)
LISTED = (
    "detcheck env  # what can run here, and what stands in the way",
    "detcheck env --format json > env.json  # the same, for a bug report or a program",
)
add(app, "env", Nothing, env, LISTED, Listed)
app.add_typer(fleet_commands(lambda *shown: finish(*shown), typed), name="fleet")


def finish(run: Run, format: str) -> None:
    """Reports beside the data, the chosen one on stdout, and the exit code."""
    from detcheck import github
    from detcheck.report import write_all

    github.publish(run)
    for trouble in write_all(run) if run.path else ():
        say(trouble)
    show(run, format)


def show(run: Run, format: str) -> None:
    from detcheck.report import described, render

    if format == "terminal":
        from detcheck.formats.terminal import render as terminal

        text = terminal(described(run), colour=colours.wanted(sys.stdout))
    else:
        text = render(run, format)
    emit(text, format)
    if run.verdict is Verdict.FAILED:
        say(min(run.findings, key=lambda f: (f.role is not Role.GATES, f.verdict is not Verdict.FAILED)).note)
    raise typer.Exit(run.exit_code)


def main() -> None:
    """The entry point. Whatever happens, the exit code means what DESIGN says: an uncaught exception is 4, never 1."""
    if sys.stdout is None:  # closed before this process began: nobody wants it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  it lives as long as the process
    with (
        contextlib.redirect_stderr(stderr.unbroken()) as kept,
        contextlib.redirect_stderr(NoCommands(kept)) if listens() else contextlib.nullcontext(),
        signals.as_ctrl_c(),
    ):
        try:
            answered()
        finally:
            sys.stderr.flush()


def answered() -> None:
    """Ends Python with the exit code."""
    colours.teach_typer()
    try:
        app(prog_name="detcheck")  # also where it was started as `python -m detcheck`
    except SystemExit as stop:
        if stop.code == 1 and {"--install-completion", "--show-completion"} & set(
            sys.argv[1:2]
        ):  # typer's own way to say so
            say("it is not known which shell this is, or it has no completion. Run it in bash, zsh, fish or PowerShell")
            sys.exit(UsageError.exit_code)
        if stop.code == UsageError.exit_code:  # typer said why
            annotate_error("the command line cannot be understood; the step's log says why")
        raise
    except DetcheckError as error:
        for line in error.lines:
            say(line)
        if error.exit_code:
            annotate_error("\n".join(error.lines))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception:  # noqa: BLE001  the last boundary
        stderr.trace()
        print(
            "detcheck: this is a defect in detcheck, not a verdict; please report it with the lines above",
            file=sys.stderr,
        )
        annotate_error("a defect in detcheck, and no verdict; the step's log has its traceback")
        sys.exit(4)
