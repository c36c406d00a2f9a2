"""The tables of a config file -> what is asked. All that is wrong in the file is found together, before anything is loaded."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from detcheck import lookup, report
from detcheck.check import command, values
from detcheck.check.command import Command
from detcheck.check.file import Config
from detcheck.check.values import nearest
from detcheck.commands import Option
from detcheck.errors import LongNameError, NothingToAskError, UsageError
from detcheck.spec import Spec

PROBES, PROBE, OUTPUT_DIR = "probes", "probe", "output_dir"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class ConfigError(UsageError):
    """All that is wrong in a config file."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(dict.fromkeys(faults))

    @property
    def lines(self) -> tuple[str, ...]:
        return self.faults


@dataclass(frozen=True)
class Questions:
    """What the file asks."""

    specs: Mapping[str, Spec]
    """by name, in the file's order"""
    output_dir: Path


def questions(config: Config, named_folder: bool = False) -> Questions:
    """Reads all of it; the current folder has to be the file's. `named_folder`: results go where the command line says. Raises ConfigError."""
    faults: list[str] = []
    tables = dict(tables_of(config, faults))
    commands = {name: found for name, table in tables.items() if (found := asks(config, name, table, faults))}
    defaults = keys(config.where(), {k: v for k, v in config.table.items() if k != PROBES}, faults)
    folder = defaults.pop(OUTPUT_DIR, "runs")
    folder = Path() if named_folder else output_dir(config, folder, faults)
    of_all = {name: option for one in commands.values() for name, option in one.options.items()}
    if commands:
        for name in (n for n in defaults if n not in of_all):
            said = unknown(name, defaults[name], of_all, "no probe here has such an option", "PROBE")
            faults.append(f"{config.where()}: {said}")
    specs = {}
    for name, one in commands.items():
        try:
            specs[name] = question(config, name, tables[name], one, defaults)
        except ConfigError as error:
            faults += error.faults
        except (
            NothingToAskError
        ) as error:  # a pass for the hook that names what changed; here the rest would pass unasked
            faults.append(
                f"{config.where(PROBES, name)}: {error}. This file names what there is to ask, so allow-none is no pass here: "
                "name a file that declares a kernel, or leave the table out"
            )
        except UsageError as error:
            faults.append(f"{config.where(PROBES, name)}: {error}")
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            faults.append(f"{config.where(PROBES, name)}: {LongNameError(error.filename)}")
    if faults:
        raise ConfigError(faults)
    return Questions(specs, folder)


def tables_of(config: Config, faults: list[str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Name and table of each question."""
    tables, like = config.table.get(PROBES, {}), f"[{'.'.join(filter(None, [config.within, PROBES, 'completions']))}]"
    if not isinstance(tables, dict):
        faults.append(f"{config.where()}: {PROBES} wants tables, like {like}; got {tables!r}")
        return
    if not tables:
        faults.append(f"{config.where()}: nothing is asked. Add a table, like {like}; `detcheck init` writes a starter")
    seen: dict[str, str] = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            faults.append(f"{config.where(PROBES)}: {name} wants a table, like {like}; got {table!r}")
        elif not NAME.fullmatch(name):
            faults.append(
                f"{config.where(PROBES, name)}: the name is a folder's too. Use letters, digits, -, _ and dots, at most 100"
            )
        elif name.lower() in (own := report.suite_files()):
            faults.append(
                f"{config.where(PROBES, name)}: so a report of all is called, as are {', '.join(own)}. Rename it"
            )
        elif (other := seen.setdefault(name.lower(), name)) != name:
            faults.append(f"{config.where(PROBES, name)}: {other} is the same but for capitals. Rename one")
        else:
            yield name, table


def asks(config: Config, name: str, table: Mapping[str, object], faults: list[str]) -> Command | None:
    """The command that it asks: its key `probe` says so, else its name."""
    there, asked = command.names(), table.get(PROBE, name)
    if asked in there:
        return Command.of(asked)
    near = f"{nearest(str(asked), there)}. There are {', '.join(there)}"
    if PROBE in table:
        faults.append(f"{config.where(PROBES, name)}: {PROBE}: there is no {asked!r}{near}")
    else:
        faults.append(f'{config.where(PROBES, name)}: {name} is no probe; say which it asks, {PROBE} = "..."{near}')
    return None


def question(
    config: Config, name: str, table: Mapping[str, object], asked: Command, defaults: Mapping[str, object]
) -> Spec:
    """One of them. Raises ConfigError for its keys and values, UsageError for what cannot be asked."""
    faults: list[str] = []
    top, where = config.where(), config.where(PROBES, name)
    own = keys(where, {k: v for k, v in table.items() if k != PROBE}, faults)
    given = {}
    for key, place, value in [(k, top, v) for k, v in defaults.items()] + [(k, where, v) for k, v in own.items()]:
        if option := asked.options.get(key):
            try:
                given[key] = values.read(option, value)
            except UsageError as error:
                faults.append(f"{place}: {hyphens(key)} {error}")
        elif place == where:
            said = unknown(key, value, asked.options, f"{asked.name} has no such option", asked.name)
            faults.append(f"{where}: {said}")
    if faults:
        raise ConfigError(faults)
    return asked.spec(given, own.keys())


def keys(where: str, table: Mapping[str, object], faults: list[str]) -> dict[str, object]:
    """Values by the option's name: a key has hyphens as on the command line, or underscores."""
    found: dict[str, object] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in found:
            faults.append(f"{where}: {key} is there twice, with - and with _. Leave one out")
        found[name] = value
    return found


def unknown(name: str, value: object, options: Mapping[str, Option], why: str, probe: str) -> str:
    """What is said of a key that is none. `probe`: whose help has them all."""
    key = hyphens(name)
    if isinstance(value, dict):
        near = nearest(key, [PROBES]) or f"; a question is a table below {PROBES}, like {PROBES}.{key}"
        return f"there is no table {key}{near}. Rename it, or leave it out"
    if name == OUTPUT_DIR:
        return f"{key} is one for all. Write it above the tables"
    if name == PROBE:
        return f"{key} says what a table below {PROBES} asks. Write it there"
    flags = {flag.lstrip("-"): option.name for option in options.values() for flag in option.knob.flags}
    if key in flags:
        return f"{key}: write {hyphens(flags[key])}"
    near = nearest(key, map(hyphens, options))
    others = [probe for probe in lookup.names("probes") if name in Command.of(probe).options]
    there = f"; it is one of {', '.join(others)}" if others else ""
    return f"{key}: {why}{near}{there}. Rename it or leave it out; `detcheck {probe} --help` names all"


def hyphens(name: str) -> str:
    return name.replace("_", "-")


def output_dir(config: Config, value: object, faults: list[str]) -> Path:
    """The file's stays inside the file's folder: who only checks out a project has nothing written elsewhere."""
    if not isinstance(value, str):
        faults.append(f"{config.where()}: {hyphens(OUTPUT_DIR)} {values.wants('text in quotes', value)}")
        return Path()
    try:
        inside = Path(value).resolve().is_relative_to(Path.cwd())
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, too long a name, links in a circle
        why = getattr(error, "strerror", None) or error
        faults.append(
            f"{config.where()}: {hyphens(OUTPUT_DIR)} {values.SHORTLY.repr(value)} is no folder's name: {why}"
        )
        return Path()
    if not inside:
        said = f"{hyphens(OUTPUT_DIR)} {value} leaves the folder {Path.cwd()}. Name one inside it, or give --output-dir on the command line"
        if Path(value).is_symlink():  # perhaps nobody wrote the setting: a larger disk is linked in
            said = (
                f"{value}, where results go, is a link to {os.readlink(value)}, outside of the folder {Path.cwd()}: a file alone may not lead "
                f'there. If it is yours, say so: --output-dir "$(readlink -f {shlex.quote(value)})"'
            )
        faults.append(f"{config.where()}: {said}")
    return Path(value)
