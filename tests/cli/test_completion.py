"""Shell completion: each shell's script is written and works, and known values are offered."""

import os
import shutil
import subprocess
import sys

import pytest

SHELLS = ("bash", "zsh", "fish")
ON_THE_PATH = "import sys; sys.argv[0] = 'detcheck'; from detcheck.cli import main; main()"


@pytest.fixture
def offered(detcheck, monkeypatch):
    """What bash offers at the end of a line."""

    def ask(line):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        for name, value in ({"_DETCHECK_COMPLETE": "complete_bash"} | words).items():
            monkeypatch.setenv(name, value)
        result = detcheck()
        assert result.code == 0 and not result.err, result.err
        return result.out.split()

    return ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("detcheck comp", {"completions", "compare"}),
        ("detcheck report --format j", {"json", "junit"}),
        ("detcheck completions --kernels b", {"batch-invariant", "both"}),
        ("detcheck completions --engine ", {"auto", "transformers", "vllm"}),
        ("detcheck completions --conditions alone,wa", {"alone,wave"}),
        ("detcheck score --dtype bf", {"bf16", "bfloat16"}),
        ("detcheck kernels --op rm", {"rmsnorm"}),
        ("detcheck certify --op ro", set()),  # rotary has no Triton kernel
        ("detcheck certify --op rm", {"rmsnorm"}),
        ("detcheck certify --target sm_80,gf", {"sm_80,gfx942"}),
        ("detcheck order --form v", {"vector"}),
        ("detcheck reload --update files,s", {"files,shared", "files,sleep"}),
        ("detcheck completions --prompt-file ", set()),  # files: the shell's own completion
    ],
)
def test_known_values_are_offered(line, expected, offered):
    assert set(offered(line)) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_is_installed_and_shown(shell, tmp_path):
    """The shell is found by looking at the parent processes: here it is one that has that name."""
    wrapper = tmp_path / shell
    shutil.copy(shutil.which("bash"), wrapper)
    command = f'{sys.executable} -c "{ON_THE_PATH}" --show-completion; {sys.executable} -c "{ON_THE_PATH}" --install-completion; true'
    done = subprocess.run(
        [wrapper, "-c", command], capture_output=True, text=True, env=os.environ | {"HOME": str(tmp_path)}
    )
    assert done.returncode == 0 and f"complete_{shell}" in done.stdout, done.stdout + done.stderr
    (written,) = (p for p in tmp_path.rglob("*detcheck*") if p.is_file())
    assert str(written) in done.stdout and f"complete_{shell}" in written.read_text()


def test_bash_completes_with_the_installed_script(tmp_path):
    """In a real bash: the program is on the path, its script is installed and read, and a line is completed."""
    program = tmp_path / "detcheck"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{ON_THE_PATH}" "$@"\n')
    program.chmod(0o755)
    typed = """detcheck --install-completion
    . ~/.bash_completions/detcheck.sh
    COMP_WORDS=(detcheck comp) COMP_CWORD=1
    _detcheck_completion detcheck
    echo "${COMPREPLY[@]}" """
    there = os.environ | {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, env=there)
    assert done.stdout.splitlines()[-1] == "completions compare", done.stdout + done.stderr


def test_a_shell_that_is_not_known_is_a_usage_error(detcheck, monkeypatch):
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: None)
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: None)
    for option in ("--show-completion", "--install-completion"):
        result = detcheck(option)
        assert result.code == 2 and "bash, zsh, fish" in result.err
