"""docs/ci.md: every shell part of its recipes is run, with a run that passes and with one that does not, and what it promises is there.

detcheck itself is a stored run here: its folder appears where `--output-dir` says and the real `detcheck report` shows it, with its own exit code, so that
ten recipes cost seconds. The action's own shell is run in test_action.py with a real model, the hook in test_pre_commit.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
FILES = [yaml.safe_load(text) for language, text in BLOCKS if language == "yaml"]
SCRIPTS = [text for language, text in BLOCKS if language == "sh"]
RUNS = {0: "completions-both", 1: "completions-stock"}
CERTIFIED = {0: "certify", 1: "certify-refuted"}

DETCHECK = """
import pathlib, shutil, subprocess, sys
words = sys.argv[1:]
given = dict(zip(words, words[1:]))
run = pathlib.Path({run!r} if words[0] == "completions" else {certified!r})
folder = pathlib.Path(given.get("--output-dir", "runs")) / run.parent.name
shutil.copytree(run, folder)
sys.exit(subprocess.run([{python!r}, "-m", "detcheck", "report", str(folder), "--format", given.get("--format", "terminal")]).returncode)
"""


def parts():
    """(where it stands, shell text) of every shell part."""
    for file in FILES:
        for name, job in (file.get("jobs") or {}).items():
            yield (
                f"GitHub {name}",
                "\n".join(step["run"] for step in job["steps"] if "run" in step and "id" not in step),
            )
        for name, job in file.items():
            if isinstance(job, dict) and "script" in job:
                yield f"GitLab {name}", "\n".join(job["script"])
    for text in SCRIPTS:
        yield "Buildkite" if "buildkite-agent" in text else "shell", text


PARTS = list(parts())


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """(exit code that detcheck is to have, script) -> the shell's own exit code and output, in an empty folder."""
    tools, folder = tmp_path / "tools", tmp_path / "work"
    tools.mkdir()
    folder.mkdir()

    def tool(name, text):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    tool("pip", '#!/bin/sh\necho "$@" >> pip.log\n')
    tool("buildkite-agent", '#!/bin/sh\necho "$@" > agent.log\ncat > annotation.md\n')
    (tools / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def call(code, script):
        shutil.rmtree(folder)
        folder.mkdir()
        stored = {"run": RUNS, "certified": CERTIFIED}
        paths = {name: str(ROOT / "tests" / "stored" / one[code] / "run") for name, one in stored.items()}
        tool("detcheck", f"#!{sys.executable}\n" + DETCHECK.format(python=sys.executable, **paths))
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr, folder

    return call


def test_all_kinds_of_recipes_are_there():
    kinds = {where.split()[0] for where, _ in PARTS}
    assert kinds == {"GitHub", "GitLab", "Buildkite", "shell"} and len(PARTS) == 7


@pytest.mark.parametrize(
    ("where", "script"), [p for p in PARTS if "detcheck " in p[1]], ids=lambda v: v.split("\n")[0][:20]
)
def test_a_recipe_ends_as_detcheck_does(shell, where, script):
    for code in (0, 1):
        ended, out, err, folder = shell(code, script)
        assert ended == code, out + err
        if "completions" in script:
            assert list(folder.glob("*/*/run.json")), "the run is kept"
        if where == "GitLab bits":
            assert ET.parse(folder / "detcheck.xml").getroot().get("failures") == str(code)
        if where == "Buildkite":
            style = "error" if code else "success"
            assert (folder / "agent.log").read_text().split() == ["annotate", "--style", style, "--context", "detcheck"]
            assert (folder / "annotation.md").read_text().startswith("# detcheck: ")
        if where == "shell":
            assert out.endswith(
                "bits differ: report.html in detcheck-runs says where\n" if code else "the same bits every time\n"
            )
        if "certify" in script:
            assert list(folder.glob("detcheck-runs/*/run.json")), "where report.sarif is looked for"


def test_code_quality_has_the_lines(shell):
    """GitLab's own keys, from a file with a line in it."""
    (job,) = (f["kernels"] for f in FILES if "after_script" in (f.get("kernels") or {}))
    place = {"artifactLocation": {"uri": "my%20ops/a.py"}, "region": {"startLine": 19}}
    result = {"ruleId": "certify/refuted", "level": "error", "message": {"text": "why"}}
    result |= {"locations": [{"physicalLocation": place}], "partialFingerprints": {"primaryLocationLineHash": "f:1"}}
    log = json.dumps({"runs": [{"results": [result]}]})
    code, out, err, folder = shell(
        0, f"mkdir -p detcheck-runs/a; echo '{log}' > detcheck-runs/a/report.sarif\n" + "\n".join(job["after_script"])
    )
    assert code == 0, out + err
    assert json.loads((folder / "code-quality.json").read_text()) == [
        {"description": "why", "check_name": "certify/refuted", "fingerprint": "f:1", "severity": "major",
         "location": {"path": "my ops/a.py", "lines": {"begin": 19}}}
    ]  # fmt: skip
    code, out, err, folder = shell(0, "\n".join(job["after_script"]))
    assert code == 0 and json.loads((folder / "code-quality.json").read_text()) == [], err


def test_what_the_files_name_is_what_the_shell_makes():
    """An artifact's path is the folder that `--output-dir` names, and every other action has a version."""
    for text in (text for language, text in BLOCKS if language == "yaml"):
        for used in re.findall(r"uses: (\S+)", text):
            assert re.search(r"@(v\d+|main)$", used)
    (gitlab,) = (f["bits"] for f in FILES if "bits" in f)
    assert gitlab["artifacts"]["paths"] == ["detcheck-runs/"] and gitlab["artifacts"]["when"] == "always"
    assert all("--output-dir detcheck-runs" in script for _, script in PARTS if "completions" in script)


def test_the_action_has_what_the_page_gives_it_and_takes_from_it():
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    (step,) = (
        s for f in FILES for job in (f.get("jobs") or {}).values() for s in job["steps"] if s.get("id") == "bits"
    )
    assert set(step["with"]) <= set(action["inputs"])
    assert set(re.findall(r"steps\.bits\.outputs\.([\w-]+)", PAGE)) <= set(action["outputs"])


def test_the_hook_is_one_that_there_is():
    hooks = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))}
    (config,) = (f for f in FILES if "repos" in f)
    assert {hook["id"] for repo in config["repos"] for hook in repo["hooks"]} <= hooks
