"""The pre-commit hook, in a real repository: a commit with a kernel that the batch reaches is refused, and the line is named."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))}
KERNELS = (
    (ROOT / "examples" / "triton_sums.py").read_text("utf-8").replace('dtypes=("bf16", "fp16")', 'dtypes=("bf16",)')
)
SOUND = KERNELS.replace('"before": SUM, ', "")


@pytest.fixture
def commit(tmp_path, monkeypatch):
    """(path -> text) -> git's exit code and output. The hook runs as pre-commit runs it: the entry, then the staged files."""
    entry = shlex.split(HOOKS["detcheck-certify"]["entry"])
    assert entry[0] == "detcheck"
    asked = shlex.join([sys.executable, "-m", *entry, "--target", "sm_90"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    repository = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", repository], check=True)
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\nset -f\nexec {asked} $(git diff --cached --name-only --diff-filter=ACMR -- '*.py')\n")
    hook.chmod(0o755)

    def call(files):
        for name, text in files.items():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_text(text)
        git = "git", "-C", repository, "-c", "user.name=a", "-c", "user.email=a@example.org"
        subprocess.run([*git, "add", *files], check=True)
        done = subprocess.run([*git, "commit", "-qm", "a change"], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return call


def test_a_commit_is_refused_by_a_kernel_that_the_batch_reaches(commit):
    code, said = commit({"plain.py": "x = 1\n", "other.py": "'no kernels'\n"})
    assert code == 0 and "no kernel is declared in other.py, plain.py" in said  # and nothing is imported
    code, said = commit({"src/pkg/__init__.py": "", "src/pkg/sums.py": SOUND, "plain.py": "x = 2\n"})
    assert code == 0 and said.startswith("certified  certify · pkg.sums:after"), said
    code, said = commit({"src/pkg/sums.py": KERNELS})
    assert code == 1 and "pkg.sums:before" in said and "pkg/sums.py:19" in said


def test_both_hooks_ask_the_same_of_python_files_alone():
    ours, here = HOOKS["detcheck-certify"], HOOKS["detcheck-certify-here"]
    assert (ours["language"], here["language"]) == ("python", "system")
    assert all(hook["types"] == ["python"] and hook["require_serial"] for hook in (ours, here))
    assert ours["entry"] == here["entry"]
