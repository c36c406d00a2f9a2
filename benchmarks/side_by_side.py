"""detcheck and four tools that ask neighbouring questions, on the same planted faults: what each says, and with which exit code.

python benchmarks/side_by_side.py                              # detcheck alone
python benchmarks/side_by_side.py --install /tmp/tools         # makes an environment for each other tool there, and asks all
python benchmarks/side_by_side.py --tool detllm=/path/to/venv --subjects batch,rare --output table.md

A row is a server on loopback or a model's folder with one fault, or none. A cell says whether the tool's answer was right, and its
exit code; of detcheck the verdict has to be right too. Where a tool does not ask about a fault by its own documentation, a pass is not held against it: "does not ask".
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from measured import record
from side_by_side_models import FOLDERS, make
from side_by_side_server import SERVERS, serving
from side_by_side_tools import TOOLS, Where

CHECKOUT = Path(__file__).resolve().parent.parent
LIMIT_S = 600.0  # for all commands of one tool on one subject


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one tool said of one subject."""

    judged: str
    """right, wrong, does not ask, or takes no such subject"""
    codes: tuple[int, ...]
    line: str
    seconds: float
    commands: tuple[str, ...]
    version: str = ""
    """of the tool; detcheck's is of this checkout"""
    date: str = ""

    @property
    def short(self) -> str:
        code = f", exit {self.codes[-1]}" if self.codes else ""
        return f"**{self.judged}**{code}" if self.judged == "wrong" else f"{self.judged}{code}"


def install(folder, tool, share):
    """An environment of its own for a tool: the path of its Python, or why there is none."""
    target = folder / tool.name
    python = target / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
        if share and tool.needs_torch:
            (site,) = (target / "lib").glob("python*/site-packages")
            (site / "shared.pth").write_text(f"{share}\n")
    done = subprocess.run([str(python), "-m", "pip", "install", "-q", tool.package], capture_output=True, text=True)
    return str(python), "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def ask(tool, python, fault, target, server, asked):
    with tempfile.TemporaryDirectory() as work:
        at = Where(target, server, python, Path(work), asked.samples)
        started, codes, output = time.monotonic(), [], ""
        commands = tool.commands(at)
        if not commands:
            return Cell("takes no such subject", (), "", 0.0, ())
        for command in commands:
            left = asked.limit_s - (time.monotonic() - started)
            try:
                done = subprocess.run(
                    command,
                    cwd=work,
                    env=environment(tool.name),
                    capture_output=True,
                    text=True,
                    timeout=max(1.0, left),
                )
            except subprocess.TimeoutExpired:
                return cell(tool, fault, at, [*codes, 124], f"no answer within {asked.limit_s:g} s", started, commands)
            codes.append(done.returncode)
            output += done.stdout + done.stderr
        return cell(tool, fault, at, codes, output, started, commands)


def cell(tool, fault, at, codes, output, started, commands):
    seconds = time.monotonic() - started
    try:
        answer, line = tool.read(at, codes, output)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        answer, line = "none", f"its output could not be read ({type(error).__name__}): {output.strip()[-200:]}"
    verdict = line.partition(":")[0]
    if answer == "none":
        judged = "no answer"
    elif answer in fault.right:
        judged = "right" if tool.name != "detcheck" or verdict in fault.verdicts else "wrong"
    else:
        judged = "wrong" if fault.name in tool.asks else "does not ask"
    shown = tuple(shown_as(command, at) for command in commands)
    return Cell(judged, tuple(codes), " ".join(line.split()), seconds, shown)


def shown_as(command, at):
    program, *rest = command
    rest = [word.replace(str(at.work), "WORK").replace(at.target, "SUBJECT") for word in rest]
    return shlex.join([Path(program).name, *(word.replace(str(CHECKOUT) + "/", "") for word in rest)])


def environment(name):
    """Others than detcheck see nothing of this checkout. vLLM on a CPU wants its memory said, and starts in this process."""
    given = {"HF_HUB_OFFLINE": "1", "TERM": "dumb", "COLUMNS": "200"}
    given |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    return os.environ | given | {"PYTHONPATH": str(CHECKOUT) if name == "detcheck" else ""}


@contextlib.contextmanager
def subject(fault, tool):
    """What the tool is pointed at: a fresh one for each."""
    if fault in SERVERS:
        with serving(fault, tool.halfway) as server:
            yield server.url, True
    else:
        with tempfile.TemporaryDirectory() as folder:
            make(fault, Path(folder))
            yield folder, False


def version(name, python):
    """What runs: of detcheck this checkout, whatever is installed."""
    if name == "detcheck":
        number = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
        git = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
        done = subprocess.run(git, capture_output=True, text=True)
        return f"{number} ({done.stdout.strip() or 'no commit known'})"
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    done = subprocess.run([python, "-c", code, name], capture_output=True, text=True, env=environment(name))
    return done.stdout.strip() or "of unknown version"


def asked_when(found, names):
    """Each tool, its version, and the days on which it was asked."""
    for name in names:
        days = sorted({cell.date for (_, tool), cell in found.items() if tool == name})
        (said,) = {cell.version for (_, tool), cell in found.items() if tool == name}
        yield f"{name} {said}, {' and '.join(days)}"


def table(found, faults, names):
    lines = ["| subject | what is wrong with it | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for fault in faults:
        cells = [found[fault.name, name].short for name in names]
        lines.append(f"| `{fault.name}` | {fault.what} | " + " | ".join(cells) + " |")
    return lines


def said(found, faults, names):
    lines = ["| subject | tool | exit codes | seconds | says |", "|---|---|---|---|---|"]
    for fault in faults:
        for name in names:
            one = found[fault.name, name]
            if one.codes:
                words = one.line.replace("|", "\\|")[:240]
                codes = ", ".join(map(str, one.codes))
                lines.append(f"| `{fault.name}` | {name} | {codes} | {one.seconds:.1f} | {words} |")
    return lines


def commands(found, faults, names):
    lines = []
    for name in names:
        for kind, group in (("server", SERVERS), ("folder", FOLDERS)):
            some = next((found[f.name, name] for f in faults if f in group and found[f.name, name].commands), None)
            if some:
                lines += [f"{name}, a {kind}:", "", "```sh", *some.commands, "```", ""]
    return lines


def read_results(file, versions, wanted):
    """Those of the versions that are asked now; others are asked again."""
    if not file or not file.exists():
        return {}
    rows = map(json.loads, file.read_text().splitlines())
    cells = {(fault, name): Cell(**cell | {"codes": tuple(cell["codes"])}) for fault, name, cell in rows}
    return {(f, n): c for (f, n), c in cells.items() if f in wanted and versions.get(n) == c.version}


def status(found, faults):
    """0 where all that detcheck said is right. A crash, or no answer in time, is not."""
    return 0 if all(found[fault.name, "detcheck"].judged == "right" for fault in faults) else 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tool", action="append", default=[], metavar="NAME=VENV", help="a tool that is installed there"
    )
    parser.add_argument("--install", type=Path, metavar="FOLDER", help="make environments for the other tools there")
    parser.add_argument("--share", metavar="SITE_PACKAGES", help="with --install: where those who need torch find it")
    parser.add_argument("--subjects", help="some alone, like batch,rare")
    parser.add_argument("--samples", type=int, default=100, help="completions that detcheck asks a server for")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="seconds for one tool on one subject")
    parser.add_argument(
        "--results", type=Path, help="answers are kept there, and those that are there are not asked for again"
    )
    parser.add_argument("--output", type=Path, help="also write the Markdown there")
    return parser.parse_args()


def main():
    asked = arguments()
    pythons, absent = {"detcheck": sys.executable}, {}
    for word in asked.tool:
        name, _, venv = word.partition("=")
        if name not in TOOLS or not Path(venv, "bin", "python").exists():
            sys.exit(f"--tool {word}: expected one of {', '.join(TOOLS)}, and an environment with bin/python")
        pythons[name] = str(Path(venv, "bin", "python").absolute())
    if asked.install:
        for tool in TOOLS.values():
            if tool.name not in pythons:
                python, why = install(asked.install, tool, asked.share)
                pythons |= {} if why else {tool.name: python}
                absent |= {tool.name: why} if why else {}
    every = [*SERVERS, *FOLDERS]
    wanted = asked.subjects.split(",") if asked.subjects else [fault.name for fault in every]
    if unknown := set(wanted) - {fault.name for fault in every}:
        sys.exit(f"--subjects: there is no {', '.join(sorted(unknown))}; there are {', '.join(f.name for f in every)}")
    faults = [fault for fault in every if fault.name in wanted]
    versions = {name: version(name, python) for name, python in pythons.items()}
    found = read_results(asked.results, versions, wanted)
    for fault in faults:
        for name, python in pythons.items():
            if (fault.name, name) in found:
                continue
            with subject(fault, TOOLS[name]) as (target, server):
                answered = ask(TOOLS[name], python, fault, target, server, asked)
            one = dataclasses.replace(answered, version=versions[name], date=time.strftime("%Y-%m-%d"))
            found[fault.name, name] = one
            if asked.results:
                with asked.results.open("a") as file:
                    file.write(json.dumps([fault.name, name, dataclasses.asdict(one)]) + "\n")
            print(
                f"{fault.name:10} {name:12} {one.short:28} {one.seconds:6.1f} s  {one.line[:100]}",
                file=sys.stderr,
                flush=True,
            )
    names = list(pythons)
    lines = [f"{'; '.join(asked_when(found, names))}; {platform.machine()}, "]
    lines[0] += f"{os.cpu_count()} cores, Python {platform.python_version()}."
    lines += [f"{name} was not installed: {why}" for name, why in absent.items()]
    for part in (table, said, commands):
        lines += ["", *part(found, faults, names)]
    text = "\n".join(lines)
    print(text)
    if asked.output:
        asked.output.write_text(text + "\n")
    right = sum(found[fault.name, "detcheck"].judged == "right" for fault in faults)
    record("side-by-side", [right / len(faults)], f"{right} of {len(faults)}")
    sys.exit(status(found, faults))


if __name__ == "__main__":
    main()
