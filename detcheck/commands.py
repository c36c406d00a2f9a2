"""Commands, made from options: each field of `Options`, and each of `Spec` that `Options.SHARED` names, becomes an option of the command."""

from __future__ import annotations

import errno
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from detcheck import lookup, stderr
from detcheck.errors import LongNameError, UsageError
from detcheck.options import MODEL, PANELS, SERVER, VERDICT, Knob, completions, flag, knob, knob_of, same, shown
from detcheck.spec import Spec

Format = StrEnum("Format", {name.upper(): name for name in lookup.names("formats")})


@dataclass(frozen=True)
class Output:
    """What every command has beside its question."""

    format: Format = knob(
        Format.TERMINAL, help=f"On stdout: {', '.join(sorted(Format))}.", metavar="NAME", panel=VERDICT
    )
    quiet: bool = knob(False, "--quiet", "-q", help="Nothing but errors on stderr.", panel=VERDICT)
    verbose: bool = knob(False, help="Each step, and what engines print, on stderr.", panel=VERDICT)


@dataclass(frozen=True)
class Telling:
    """What a command has that makes no report: how much it says on stderr."""

    quiet: bool = same(Output, "quiet")
    verbose: bool = same(Output, "verbose")


@dataclass(frozen=True)
class Storing(Output):
    """What commands have that leave a run's folder."""

    output_dir: Path = knob(Path("runs"), help="Where the run's folder is made.", panel=VERDICT)


@dataclass(frozen=True)
class Running(Storing):
    """What commands that run something have."""

    resume: Path | None = knob(None, help="Go on with this run; its options hold.", panel=VERDICT)


@dataclass(frozen=True)
class Estimating(Running):
    """What commands have whose cost can be told beforehand."""

    dry_run: bool = knob(False, help="Say how many requests and tokens it would send, and send none.", panel=SERVER)


@dataclass(frozen=True)
class Given:
    """What a command line says."""

    own: Mapping[str, Any]
    """by the name of the field of `Options`"""
    shared: Mapping[str, Any]
    """by the name of the field of `Spec`"""
    named: frozenset[str]
    """those that stand on the command line"""
    format: str = "terminal"
    output_dir: Path = Path("runs")
    resume: Path | None = None
    quiet: bool = False
    verbose: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Option:
    """A field as an option of a command."""

    name: str
    knob: Knob
    hint: Any
    """its type"""
    default: Any

    def parameter(self) -> inspect.Parameter:
        """As a parameter of the function that typer makes a command of."""
        said, default, hint = self.knob, self.default, self.hint
        if said.repeated:
            hint, default = list[str] | None, None
        elif said.read:
            hint, default = (str | None, None) if default is None else (str, shown(default))
        if said.argument:
            made = typer.Argument(help=said.help, show_default=False, metavar=said.metavar)
        else:
            flags = said.flags or (flag(self.name),)
            offered = (lambda incomplete: completions(said, incomplete)) if said.values else None
            made = typer.Option(
                *flags, help=said.help, rich_help_panel=said.panel, metavar=said.metavar, autocompletion=offered
            )
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[hint, made],
            default=inspect.Parameter.empty if said.argument and default == "" else default,
        )  # fmt: skip

    def value(self, given: Any) -> Any:
        """What the field holds for what typer read. Raises UsageError."""
        if self.knob.repeated:
            return tuple(given or ())
        if not self.knob.read or given is None or given == shown(self.default):
            return self.default if self.knob.read else given
        try:
            return self.knob.read(given)
        except ValueError as error:
            raise UsageError(f"{flag(self.name)} {error}") from None


def options_of(
    kind: type, changed: Mapping[str, Mapping[str, Any]] | None = None, defaults: Mapping[str, Any] | None = None
) -> Iterator[Option]:
    """Those fields of a dataclass that are options; of `changed` alone where it is given, with what it says otherwise."""
    hints, there = typing.get_type_hints(kind), {one.name: one for one in fields(kind)}
    for one in there.values() if changed is None else (there[name] for name in changed):
        if said := knob_of(one):
            said = replace(said, **(changed or {}).get(one.name, {}))
            yield Option(one.name, said, hints[one.name], (defaults or {}).get(one.name, one.default))


def add(
    app: typer.Typer,
    name: str,
    options: type,
    act: Callable[[Given], None],
    examples: Sequence[str],
    output: type = Output,
    help: str | None = None,
) -> None:
    """A command that asks with these options. `examples`: see `epilogue`; `help`: None: the docstring of `act`."""
    own = list(options_of(options))
    shared = list(options_of(Spec, getattr(options, "SHARED", {}), getattr(options, "DEFAULTS", {})))
    last = list(options_of(output))

    def run(context: typer.Context, **given: Any) -> None:
        named = frozenset(n for n in given if str(context.get_parameter_source(n)).endswith("COMMANDLINE"))
        read = {one.name: one.value(given[one.name]) for one in (*own, *shared, *last)}
        by = [{one.name: read[one.name] for one in part} for part in (own, shared, last)]
        asked = Given(by[0], by[1], named, **by[2])
        if asked.quiet and asked.verbose:
            raise UsageError("--quiet and --verbose say the opposite of each other. Leave one out")
        try:
            with stderr.told(asked.quiet, asked.verbose):
                act(asked)
        except (OSError, EOFError) as error:
            if getattr(error, "errno", None) == errno.ENAMETOOLONG:
                raise LongNameError(error.filename) from None
            # an uncaught exception like any other: typer would exit with 1
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    ranked = [(rank, one) for rank, part in enumerate((own, shared, last)) for one in part]
    # What is asked about stands first: of a model what all probes have, elsewhere what the probe has of its own.
    ranked.sort(key=lambda found: (place(found[1].knob), -found[0] if found[1].knob.panel == MODEL else found[0]))
    run.__signature__ = inspect.Signature([context, *(one.parameter() for _, one in ranked)])
    run.__doc__ = inspect.cleandoc(help or act.__doc__ or "")
    app.command(name, epilog=epilogue(examples))(run)


def epilogue(examples: Sequence[str]) -> str:
    """The end of a page of help, in rich's markup: examples, each written as `command  # what it does`."""
    lines = ["[bold]Examples[/bold]"]
    for example in examples:
        command, does = (part.replace("[", r"\[") for part in example.split("  # "))
        lines += ["", f"[dim]# {does}[/dim]", command]
    return "\n".join(lines)


def place(one: Knob) -> int:
    """Where it stands in the help: arguments first, then the panels in their order."""
    return -1 if one.argument else PANELS.index(one.panel)
