"""Writes the pages beside this file from what the program declares: commands and their options, exit codes, conditions, the JSON report.

python docs/reference/write.py

They are committed, so that they can be read where no site is built; tests/cli/test_reference.py says when they are old.
"""

import inspect
import json
import os
import re
import typing
from dataclasses import fields
from enum import Enum
from pathlib import Path

import typer

from detcheck import lookup
from detcheck.cli import app
from detcheck.fleet.options import COMMAND
from detcheck.options import FLEET, flag, knob_of
from detcheck.probe import Probe
from detcheck.verdict import INTERRUPTED, Verdict

HERE = Path(__file__).parent
DOCS = HERE.parent
MADE = "<!-- Written by docs/reference/write.py; change what it reads. -->\n"
REPORT = Path(inspect.getfile(lookup)).parent / "formats" / "report.schema.json"
CONDITIONS = {  # where conditions are described -> who forms them
    "probes/completions.md": "`completions` on transformers",
    "engines/vllm.md": "`completions` in vLLM",
    "engines/server.md": "`completions` of a server",
    "probes/batch.md": "`batch`",
    "probes/score.md": "`score`",
    "probes/logprobs.md": "`logprobs`, of the trainer",
    "probes/kernels.md": "`kernels`",
}


def cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def table(heads: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """In Markdown; columns that are empty in all rows are left out."""
    kept = [n for n in range(len(heads)) if n == 0 or any(row[n] for row in rows)]
    lines = [[heads[n] for n in kept], ["---" for _ in kept], *([cell(row[n]) for n in kept] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def examples_of(command: str) -> list[str]:
    """The end of its --help: each command line behind what it does, as a comment."""
    (said,) = (one.epilog or "" for one in app.registered_commands if one.name == command)
    return shown(said)


def shown(said: str) -> list[str]:
    return [re.sub(r"(?<!\\)\[/?[a-z]+\]", "", line).replace("\\[", "[") for line in said.splitlines()[1:]]


def commands() -> dict[str, typing.Callable]:
    """Name -> the function that typer made a command of, in the order of `detcheck --help`."""
    return {
        one.name or one.callback.__name__.replace("_", "-"): one.callback
        for one in app.registered_commands
        if not one.hidden
    }


def engines_of(command: str) -> dict[str, tuple[str, ...]]:
    """Field of the command's options -> the engines that have it; () is all."""
    if command not in lookup.names("probes"):
        return {}
    return {one.name: made.engines for one in fields(Probe(command).options) if (made := knob_of(one))}


def value_of(hint: object, metavar: str | None) -> str:
    """What an option is given, in a word; "" for one that is given nothing."""
    kinds = [one for one in typing.get_args(hint) if one is not type(None)] or [hint]
    kind = kinds[0]
    if inspect.isclass(kind) and issubclass(kind, Enum):
        return ", ".join(f"`{one.value}`" for one in kind)
    if kind is bool:
        return ""
    if metavar:
        return metavar.lower()
    return {int: "whole number", float: "number", str: "text", Path: "path"}.get(kind, "text")


def default_of(default: object) -> str:
    if isinstance(default, Enum):
        default = default.value
    if default is None or isinstance(default, bool) or default in ("", (), inspect.Parameter.empty):
        return ""
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def options_of(command: str, act: typing.Callable) -> dict[str, list[tuple[object, ...]]]:
    """Heading -> its options, as rows: flags, value, default, help, engines."""
    engines, found = engines_of(command), {}
    for name, one in inspect.signature(act).parameters.items():
        hint, *notes = typing.get_args(one.annotation) or (one.annotation,)
        said = next((n for n in notes if hasattr(n, "help")), one.default if hasattr(one.default, "help") else None)
        if said is None or getattr(said, "hidden", False):
            continue
        default = getattr(one.default, "default", one.default)
        argument = type(said).__name__ == "ArgumentInfo"
        given = (
            said.default,
            *(said.param_decls or ()),
        )  # in an annotation, the first flag stands where a default would
        flags = [one for one in given if isinstance(one, str) and one.startswith("-")]
        flags = flags or [name.upper() if argument else flag(name)]
        row = (
            ", ".join(f"`{one}`" for one in flags),
            value_of(hint, said.metavar),
            "" if default is ... else default_of(default),
            said.help or "",
            ", ".join(engines.get(name, ())),
        )
        found.setdefault("Arguments" if argument else said.rich_help_panel or "Options", []).append(row)
    return found


def summary(act: typing.Callable) -> str:
    return " ".join(inspect.cleandoc(act.__doc__ or "").split("\n\n")[0].split())


def command_page(name: str, act: typing.Callable) -> str:
    about = next(
        (f"{folder}/{name}.md" for folder in ("probes", ".") if (DOCS / folder / f"{name}.md").is_file()), None
    )
    others = {"judge": "runs.md", "compare": "runs.md", "report": "runs.md", "init": "check.md"}
    more = about or others.get(name)
    parts = [f"# detcheck {name}\n", MADE, f"{summary(act)}\n"]
    if more:
        parts.append(f"How to use it: [{name}](../{more.removeprefix('./')}).\n")
    if examples := examples_of(name):
        parts.append(f"```sh{chr(10).join(examples)}\n```\n")
    for heading, rows in options_of(name, act).items():
        heads = ("argument" if heading == "Arguments" else "option", "value", "default", "what it does", "engines")
        parts += [f"## {heading}\n", table(heads, rows)]
    parts.append("`--help` prints the same. An option without a value is a switch, and is off unless it is given.\n")
    if engines_of(name) and any(map(bool, engines_of(name).values())):
        parts.append(
            "Where an option names engines, the others refuse it (exit 2). `server` is what `--base-url` asks.\n"
        )
    return "\n".join(parts)


def fleet_page() -> str:
    """Of the probes that it asks it has the same options."""
    (group,) = (one.typer_instance for one in app.registered_groups if one.name == COMMAND)
    probes = {one.name: one.callback for one in group.registered_commands}
    fleets = options_of(COMMAND, next(iter(probes.values())))[FLEET]
    heads = ("option", "value", "default", "what it does", "engines")
    parts = [
        f"# detcheck {COMMAND}\n",
        MADE,
        f"{fleet_summary(group)}\n",
        "How to use it: [Ask a fleet](../fleet.md).\n",
    ]
    parts += [f"```sh{chr(10).join(shown(group.info.epilog))}\n```\n", f"## {FLEET}\n", table(heads, fleets)]
    for name, act in probes.items():
        parts.append(f"## detcheck {COMMAND} {name}\n")
        parts.append(f"{summary(act)}\n\n```sh{chr(10).join(fleet_examples(group, name))}\n```\n")
        lost = sorted(set(flags_of(commands()[name])) - set(flags_of(act)))
        parts.append(f"It has the options of [detcheck {name}]({name}.md), but for {', '.join(lost)}.\n")
    return "\n".join(parts)


def fleet_summary(group: typer.Typer) -> str:
    return " ".join(group.info.help.split("\n\n")[0].split())


def fleet_examples(group: typer.Typer, command: str) -> list[str]:
    return next(shown(one.epilog) for one in group.registered_commands if one.name == command)


def flags_of(act: typing.Callable) -> list[str]:
    return [row[0] for rows in options_of("", act).values() for row in rows]


MEANS = {
    0: "every condition that was asked for happened, and nothing differed",
    1: "something differed, or the result is wrong",
    2: "the command line asks for something that cannot be done; nothing was run",
    3: "there was not enough evidence. This is not a pass",
    4: "it could not run, and nothing was observed",
    INTERRUPTED: "Ctrl-C, SIGTERM or SIGHUP. What was observed until then is reported and stored",
}


def index_page() -> str:
    verdicts = {code: [f"`{v}`" for v in Verdict if v.exit_code == code] for code in MEANS}
    formats = ", ".join(f"`{name}`" for name in lookup.names("formats"))
    files = ", ".join(f"`{file}`" for name in lookup.names("formats") if (file := lookup.find("formats", name).FILE))
    return "\n".join(
        [
            "# Reference\n",
            MADE,
            "## Commands\n",
            table(("command", "asks"), [(f"[`{n}`]({n}.md)", said) for n, said in summaries().items()]),
            "## Exit codes\n",
            table(("code", "verdicts", "means"), [(c, ", ".join(verdicts[c]), m) for c, m in MEANS.items()]),
            "Over several cases 1 wins over 4, 4 over 3, and 3 over 0. [Verdicts](../verdicts.md) says what each of them means, and "
            "what to do next.\n",
            "## Reports\n",
            f"`--format` prints one of {formats} on stdout. A run's folder has {files}. The names in the JSON report are in "
            "[JSON report](json.md).\n",
            "## Conditions\n",
            "What a probe does to the batch around a sample: [all names](conditions.md), for `--conditions` and for reading a report.\n",
        ]
    )


def summaries() -> dict[str, str]:
    (group,) = (one.typer_instance for one in app.registered_groups if one.name == COMMAND)
    return {name: summary(act) for name, act in commands().items()} | {COMMAND: fleet_summary(group)}


def rewritten(text: str, page: Path) -> str:
    """Links of that page, as they are from here."""

    def link(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        if target.startswith("http"):
            return found[0]
        there = (page.parent / target).resolve() if target else page
        return f"]({Path(os.path.relpath(there, HERE)).as_posix()}{anchor})"

    return re.sub(r"\]\(([^)#]*)(#[\w-]+)?\)", link, text)


def conditions_page() -> str:
    parts = [
        "# Conditions\n",
        MADE,
        "A condition is all that may change the bits of a sample and should not: the batch around it, its place there, the cache. Its name is a "
        "kind, and the sizes that go with it. N is a number of rows or requests, W a number of tokens, T tokens or threads. `--conditions` takes a "
        "name (`wave-8`) or a kind (`wave`), and several with commas between.\n",
    ]
    for place, who in CONDITIONS.items():
        page = DOCS / place
        (rows,) = re.findall(r"^\| condition \| is \|\n\|---\|---\|\n((?:\|.*\n)+)", page.read_text("utf-8"), re.M)
        parts += [f"## {who}\n", f"More: [{place.removesuffix('.md')}](../{place}).\n"]
        parts.append(f"| condition | is |\n|---|---|\n{rewritten(rows, page)}")
    return "\n".join(parts)


def kind_of_value(part: dict) -> str:
    if "enum" in part:
        return ", ".join(f"`{one}`" for one in part["enum"])
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(kind_of_value(one) for one in part["anyOf"]))
    kind = part.get("type", "any")
    kinds = " or ".join(kind) if isinstance(kind, list) else kind
    return kinds.replace("integer", "whole number")


def names_of(part: dict, shared: dict, path: str = "") -> list[tuple[str, str, str, bool]]:
    """(path, kind, description, whether it is always there) of every name below, in the schema's order."""
    rows = []
    for name, below in part.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        below, said = followed(below, shared)
        rows.append((here, kind_of_value(below), said, name in part.get("required", ())))
        inner = next((one for one in below.get("anyOf", ()) if "properties" in one), below)
        rows += names_of(inner, shared, here)
        if isinstance(items := below.get("items"), dict):
            rows += names_of(followed(items, shared)[0], shared, f"{here}[]")
        if isinstance(each := below.get("additionalProperties"), dict):
            rows += names_of(followed(each, shared)[0], shared, f"{here}.*")
    return rows


def followed(part: dict, shared: dict) -> tuple[dict, str]:
    """What a reference leads to, and the description that stands nearest."""
    there = shared[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    return there, part.get("description") or there.get("description", "")


def json_page() -> str:
    schema = json.loads(REPORT.read_text("utf-8"))
    found = names_of(schema, schema["$defs"])
    parts = [
        "# JSON report\n",
        MADE,
        f"{schema['description']} It is described by `detcheck/formats/report.schema.json` (JSON Schema 2020-12), which this page is made from: "
        "within a major version of `schema_version` names are added, and none is taken away or given another meaning.\n",
        "In a name, `[]` is an entry of a list and `*` any key. Names in *italics* are there only where they apply.\n",
    ]
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for path, kind, said, always in found:
        top = path.split(".")[0].split("[")[0]
        deep = "findings[].evidence" if path.startswith("findings[].evidence.") else top
        heading = (
            deep
            if path != top and deep in ("environment", "inputs", "summary", "findings", "findings[].evidence")
            else "report"
        )
        shown = f"`{path.removeprefix(heading).removeprefix('[]').removeprefix('.') if heading != 'report' else path}`"
        groups.setdefault(heading, []).append((shown if always else f"*{shown}*", kind, said))
    for heading, rows in groups.items():
        title = "The report" if heading == "report" else f"`{heading}`"
        parts += [f"## {title}\n", table(("name", "value", "is"), rows)]
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """File name -> its text."""
    made = {f"{name}.md": command_page(name, act) for name, act in commands().items()}
    made["fleet.md"] = fleet_page()
    return {"index.md": index_page(), "conditions.md": conditions_page(), "json.md": json_page(), **made}


if __name__ == "__main__":
    made = pages()
    for old in HERE.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (HERE / name).write_text(text, "utf-8")
