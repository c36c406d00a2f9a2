"""Docs cannot rot: the help block is the help, every command is one that detcheck takes, every example runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import warm

from detcheck.report import render

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
ELSEWHERE = [
    b
    for path in sorted((ROOT / "docs").rglob("*.md"))
    for b in re.findall(r"```(\w+)\n(.*?)```", path.read_text("utf-8"), re.S)
]
COMPLETION = ("--install-completion", "--show-completion")
COMMANDS = list(
    dict.fromkeys(  # some stand on several pages
        line.split("#")[0].strip().removeprefix("$ ").removeprefix("- run: ").split(" > ")[0].split(" || ")[0]
        for language, block in BLOCKS + ELSEWHERE
        if language in ("sh", "console", "yaml")
        for line in block.splitlines()
        if re.match(r"(\$ |- run: )?(detcheck|make) ", line)
    )
)


def test_the_help_block_is_the_help():
    (block,) = (b for _, b in ELSEWHERE if b.startswith("$ detcheck completions --help"))
    environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS")} | {
        "COLUMNS": "100",
        "TERM": "dumb",
    }
    code = "import sys; sys.argv[0] = 'detcheck'; from detcheck.cli import main; main()"
    real = subprocess.run(
        [sys.executable, "-c", code, "completions", "--help"], capture_output=True, text=True, env=environment
    ).stdout
    shown, said = ([line.rstrip() for line in text.splitlines() if line.strip()] for text in (block, real))
    assert shown[1:] == said


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_is_taken(command, detcheck, monkeypatch, tmp_path):
    program, *arguments = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M)
        return
    asked = []

    def stop(*given, **_):
        asked.append(given)
        raise KeyboardInterrupt

    for name in ("run", "load", "resume", "judge_file", "compare"):
        monkeypatch.setattr(f"detcheck.runner.{name}", stop)
    monkeypatch.setattr("detcheck.env.listing.look", stop)
    monkeypatch.setattr("detcheck.fleet.run.ask", stop)
    monkeypatch.setattr("detcheck.cli.refuse_other_options", lambda *_: None)
    monkeypatch.setattr("detcheck.runner.read", lambda path: (None, None, None))
    if arguments[0] == "check":
        tables = "".join(f'[probes.{name}]\nprobe = "matmul"\n' for name in ("completions", "in-vllm", "kernels"))
        for file in ("detcheck.toml", "gpu.toml"):
            (tmp_path / file).write_text(tables)
    if "--pyproject" in arguments:
        (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    monkeypatch.setenv("HOME", str(tmp_path))  # where completion is installed
    for module in ("completion", "_completion_shared"):
        monkeypatch.setattr(f"typer.{module}._get_shell_name", lambda: "bash")
    result = detcheck(*arguments)
    says_only = {"--help", "--dry-run", "init", *COMPLETION} & set(arguments)
    assert result.code == (0 if says_only else 130), result.err
    assert asked or says_only


def test_the_python_examples_run(tmp_path, reacting):
    """Each in a process of its own."""
    said = []
    for code in (b for language, b in BLOCKS + ELSEWHERE if language == "python"):
        done = warm.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        said.append(done.stdout)
    assert "['aten::mm']\n" in said and any(text.startswith("batch-variant 1 ") for text in said)


def test_verdicts_and_codes_are_as_said():
    from detcheck.verdict import Verdict

    table = dict(re.findall(r"^\| `([\w-]+)` \| .* \| (\d) \|$", (ROOT / "docs/verdicts.md").read_text("utf-8"), re.M))
    assert {name: Verdict(name).exit_code for name in table} == {name: int(code) for name, code in table.items()}
    assert set(table) == {str(v) for v in Verdict}


def test_the_excerpt_is_what_is_printed(diverging):
    """Line by line, but for the figures, and for what only a machine's own stock tells: what its bits go with, and where first."""

    def shape(text):
        text = re.sub(
            r"; the prompt alone, padded as in the batch, has other bits already(, and batches [\w ]+ alone)?", "", text
        )
        text = re.sub(r"first in [\w-]+: the bits depend on \w+(, \w+)*", "first in #: the bits depend on #", text)
        return re.sub(r"[\d.]+(e[+-]\d+)?%?", "#", text)

    excerpt = README.split("$ detcheck completions -n 24 --max-tokens 48\n")[1].split("...\n")[0]
    printed = shape(" ".join(render(diverging, "terminal").split()))
    left_out = (" ", "├", "│", "from the row alone")
    lines = [line for line in excerpt.splitlines() if line and not line.startswith(left_out)]
    if (shared := "log-probabilities of shared tokens") not in printed:  # where they part at once they share none
        lines = [line for line in lines if not line.startswith(shared)]
    assert len(lines) > 6
    for line in lines:
        assert shape(" ".join(re.sub(r"█+ *\d+", "", line).split())) in printed, line


SECTION = README.split('## "Are my kernels')[1].split("\n## ")[0]
OPS = [line.split("#")[0].strip() for line in re.findall(r"^(?:\$ )?detcheck .*", SECTION.replace("$ ", ""), re.M)]


@pytest.mark.parametrize("command", OPS)
def test_commands_about_ops_run_where_it_says(command, detcheck, monkeypatch, tmp_path):
    """From the checkout's root: nothing but the exit code of what they find, and where output is shown, that output."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    fewer = () if "certify" in command else ("--batch-sizes", "1,2,8")
    result = detcheck(*shlex.split(command)[1:], *fewer, "-q", "--output-dir", tmp_path)
    _, program, *_ = command.split()
    assert result.code == (0 if program == "kernels" else 1), result.out + result.err
    for shown in re.findall(rf"^\$ {re.escape(command)}\n(.*?)\.\.\.\n", SECTION, re.M | re.S):
        assert " ".join(result.out.split()).startswith(" ".join(shown.split()))


def test_there_are_commands_about_ops():
    assert [command.split()[1] for command in OPS] == ["kernels", "order", "certify", "certify"]


def test_figures_name_scripts_that_exist():
    named = re.findall(r"`(\w+\.py)` \|$", README, re.M)
    assert len(named) >= 3
    for script in named:
        assert (ROOT / "benchmarks" / script).is_file()


def test_conditions_of_vllm_are_all_described():
    from detcheck.schedules import adapters, lone
    from detcheck.schedules.arrivals import COLD, KINDS

    described = (ROOT / "docs/engines/vllm.md").read_text("utf-8")
    found = set(re.findall(r"^\| `(\w+)(?:-N)?` \|", described.split("## Kernels")[0], re.M))
    assert found == {*KINDS, COLD, adapters.KIND, *lone.KINDS}


def test_conditions_and_levels_of_servers_are_all_described():
    from detcheck.judge.level import LEVELS
    from detcheck.schedules.load import KINDS

    described = (ROOT / "docs/engines/server.md").read_text("utf-8")
    assert set(
        re.findall(r"^\| `(\w+)(?:-N)?` \|", described.split("## Loads")[1].split("## Verdicts")[0], re.M)
    ) == set(KINDS)
    assert set(
        re.findall(r"^\| `(\w+)` \|", described.split("## What each level proves")[1].split("## Loads")[0], re.M)
    ) == set(LEVELS)


def test_columns_of_a_file_are_all_described():
    from detcheck.storage.inputs.detcheck import COLUMNS

    described = (ROOT / "docs/runs.md").read_text("utf-8").split("## Completions of others")[1]
    assert all(f"`{column}`" in described for column in COLUMNS)


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+?)(?:#[\w-]*)?\)", page.read_text("utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_probe_and_engine_has_a_page():
    from detcheck import lookup

    assert {p.stem for p in (ROOT / "docs/probes").glob("*.md")} == set(lookup.names("probes"))
    assert {p.stem for p in (ROOT / "docs/engines").glob("*.md")} == set(lookup.names("engines"))
