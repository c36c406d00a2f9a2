"""`detcheck fleet PROBE`: one command for each probe that a fleet can be asked, with the probe's own options."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from detcheck.commands import Given, Storing, add, epilogue
from detcheck.fleet.options import ABOUT, EXAMPLES, WHOLE, asking, fleet_spec

if TYPE_CHECKING:
    from detcheck.finding import Run


def fleet_commands(finish: Callable[[Run, str], None], typed: Callable[[], str]) -> typer.Typer:
    """`finish`: shows a run, and ends with its exit code; `typed`: the command line."""
    made = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        help="Do all of a fleet give the same bits? A probe, asked of every device of a Ray cluster, or of every replica by its URL.\n\n"
        "A member that does not answer is missing, not equal. Exit codes: 0 identical, 1 divergent, 3 inconclusive, 4 nobody answered.",
        epilog=epilogue(WHOLE),
    )
    for probe, examples in EXAMPLES.items():
        options = asking(probe)
        act = functools.partial(ask, probe, finish, typed)
        add(made, probe, options, act, examples, Storing, help=ABOUT + options.__doc__)
    return made


def ask(probe: str, finish: Callable[[Run, str], None], typed: Callable[[], str], given: Given) -> None:
    from detcheck import progress
    from detcheck.fleet import run

    spec = fleet_spec(probe, given.own, given.shared)
    with progress.shown(given.quiet) as on_progress:
        found = run.ask(spec, given.output_dir, on_progress, typed())
    finish(found, given.format)
