"""The action, run step by step as GitHub's runner would: its inputs are data, its outputs are the report's, and the job's end is detcheck's exit code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
STEPS = ACTION["runs"]["steps"]
DEFAULTS = {name: one.get("default", "") for name, one in ACTION["inputs"].items()}
SMALL = {
    "samples": "6",
    "kernels": "stock",
    "engine": "transformers",
    "args": "--max-tokens 8 --conditions alone,batch-4",
}


class Job:
    """A job whose only step is the action: the contexts that its expressions read, and the files that its steps write."""

    def __init__(self, folder, **given):
        assert set(given) <= set(DEFAULTS)
        self.folder, self.inputs, self.outputs, self.log = folder, DEFAULTS | given, {}, ""
        self.summary = folder.parent / "summary.md"

    def value(self, text):
        """A value of the action with its expressions filled in."""

        def of(expression):
            if expression.startswith("inputs."):
                return self.inputs[expression.removeprefix("inputs.")]
            if found := re.fullmatch(r"steps\.([\w-]+)\.outputs\.([\w-]+)", expression):
                return self.outputs.get(found[1], {}).get(found[2], "")
            return {"github.action_path": str(ROOT), "runner.os": "Linux", "runner.arch": "X64"}[expression]

        return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: of(found[1]), text)

    def run(self, name, **environment):
        """The step of that name, by the shell that GitHub runs it with. Returns its exit code."""
        (step,) = (one for one in STEPS if one.get("name") == name)
        assert step["shell"] == "bash"
        script, said = self.folder.parent / "step.sh", self.folder.parent / "output"
        script.write_text(step["run"])
        said.write_text("")
        files = {"GITHUB_OUTPUT": said, "GITHUB_STEP_SUMMARY": self.summary, "GITHUB_WORKSPACE": self.folder}
        given = {key: self.value(text) for key, text in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=self.folder / self.value(step.get("working-directory", ".")),
            env=os.environ | {"GITHUB_ACTIONS": "true"} | {k: str(v) for k, v in files.items()} | given | environment,
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.log += done.stdout + done.stderr
        self.outputs[step.get("id", name)] = dict(line.split("=", 1) for line in said.read_text().splitlines())
        return done.returncode

    def ask(self):
        """Asks, and ends the job: the action's outputs, and its exit code."""
        assert self.run("Ask") == 0, self.log
        said = {name: self.value(one["value"]) for name, one in ACTION["outputs"].items()}
        return said, self.run("Pass or fail")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty checkout, with the tests' Python first on the path."""
    (tmp_path / "workspace").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{before}:{ROOT}" if before else str(ROOT))
    return tmp_path / "workspace"


def test_nothing_that_is_given_stands_in_a_script():
    """An expression in a script is pasted into it before a shell reads it: an input could then be a command."""
    scripts = [step["run"] for step in STEPS if "run" in step]
    assert len(scripts) >= 4 and not any("${{" in script for script in scripts)
    assert all(step["shell"] == "bash" for step in STEPS if "run" in step)


def test_other_actions_are_named_by_their_major_version():
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert {name.partition("@")[0] for name in used} == {
        "actions/setup-python",
        "actions/cache",
        "actions/upload-artifact",
    }
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", name) for name in used)


def test_the_report_is_uploaded_whatever_it_says_and_the_job_ends_after_it():
    names = [step.get("name", step.get("uses", "").partition("@")[0]) for step in STEPS]
    assert names[-3:] == ["Ask", "actions/upload-artifact", "Pass or fail"]
    assert STEPS[-2]["if"].startswith("always() && ")


def test_every_input_is_used_and_described():
    whole = (ROOT / "action.yml").read_text("utf-8").partition("\nruns:")[2]
    for name, one in ACTION["inputs"].items():
        assert f"inputs.{name}" in whole and len(one["description"]) > 10, name
    assert {"verdict", "distinct", "report"} <= set(ACTION["outputs"])


def test_unequal_bits_fail_the_job_after_the_outputs_are_there(workspace, reacting):
    """The fault is planted: a stock that adds in another order in another batch. An older report lies there, and is not taken for this one;
    nor are the workspace's own modules for Python's or for detcheck."""
    for name in ("detcheck", "json", "random", "shlex", "tomllib"):
        (workspace / f"{name}.py").write_text("raise SystemExit(0)")
    (workspace / "out" / "20990101T000000Z-completions").mkdir(parents=True)
    (workspace / "out" / "20990101T000000Z-completions" / "report.json").write_text("{}")
    job = Job(workspace, **SMALL, **{"output-dir": "out"})
    said, code = job.ask()
    assert code == 1 and said["exit-code"] == "1" and said["verdict"] == "batch-variant", job.log
    (finding,) = json.loads((workspace / said["report"] / "report.json").read_text())["findings"]
    assert said["distinct"] == str(max(finding["distinct"], finding["distinct_bits"])) != "1"
    assert said["report"].startswith("out/") and finding["samples"] == 6
    assert {"report.html", "junit.xml", "report.sarif"} <= {p.name for p in (workspace / said["report"]).iterdir()}
    assert job.summary.read_text().startswith("# detcheck: batch-variant")
    assert job.log.count("::error title=detcheck completions::batch-variant") == 1


def test_what_left_no_report_is_no_pass(workspace):
    job = Job(workspace, kernels="stock", args="--help")
    said, code = job.ask()
    assert code == 4 and said["verdict"] == "" and "::error title=detcheck::detcheck left no report" in job.log


@pytest.mark.parametrize(
    "given",
    [
        {"config": "detcheck.toml", "model": "./model"},
        {"config": "detcheck.toml", "kernels": "both"},
        {"args": "--samples 2 --output-dir elsewhere"},
        {"args": "--output-dir=elsewhere"},
        {"args": "--resume runs/a"},
    ],
)
def test_what_would_be_passed_over_is_refused(workspace, given):
    """Two inputs that say what is asked; a report that would lie where no output names it."""
    answers(workspace, "detcheck.toml", 1, 1, 1, 1)
    job = Job(workspace, **given)
    assert job.run("Ask") == 2 and job.log.startswith("::error title=detcheck::") and len(job.log.splitlines()) == 1
    assert not (workspace / "detcheck-runs").exists()


def answers(workspace, config, *tokens):
    """A config file that asks about answers to one request, alone and in a batch of two."""
    rows = [{"tokens": [token], "batch_size": 1 + (n > 1)} for n, token in enumerate(tokens)]
    (workspace / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = "tool.detcheck." * (config == "pyproject.toml") + "probes.answers"
    (workspace / config).write_text(f'[{table}]\nprobe = "judge"\nfile = "answers.jsonl"\n')


def test_a_config_file_that_is_found_is_asked_in_full(workspace):
    for name, tokens, code in (("detcheck.toml", (1, 1, 2, 2), 1), ("pyproject.toml", (1, 1, 1, 1), 0)):
        for old in workspace.glob("*.toml"):
            old.unlink()
        answers(workspace, name, *tokens)
        (workspace / "below").mkdir(exist_ok=True)
        job = Job(workspace, **{"working-directory": "below", "output-dir": "../detcheck-runs"} if code else {})
        said, ended = job.ask()
        assert ended == code and said["verdict"] == ("batch-variant" if code else "identical"), job.log
        assert said["distinct"] == str(1 + code) and said["report"].endswith("-check")
        assert (workspace / said["report"] / "answers").is_dir() and job.log.count("::error") == code


def test_a_config_file_that_is_given_is_asked_and_a_model_that_is_given_is_not_passed_over(workspace):
    answers(workspace, "detcheck.toml", 1, 1, 2, 2)
    (workspace / "ours").mkdir()
    answers(workspace / "ours", "bits.toml", 1, 1, 1, 1)
    said, ended = Job(workspace, config="ours/bits.toml").ask()
    assert ended == 0 and said["verdict"] == "identical"
    for given in ({"model": "./no-such-model"}, {"kernels": "mine"}):
        job = Job(workspace, **given)
        said, ended = job.ask()
        assert (
            said["exit-code"] == str(ended) in "24"
            and said["verdict"] == said["report"] == ""
            and next(iter(given.values())) in job.log
        )
    (workspace / "detcheck.toml").unlink()
    (workspace / "pyproject.toml").write_text('[project]\nname = "tool.detcheck."\n')  # says nothing to detcheck
    (workspace / "answers.jsonl").unlink()
    job = Job(workspace, args="--nonsense")
    assert job.ask()[1] == 2 and "detcheck completions" in job.log


HOSTILE = [
    '"; touch pwned; "',
    "$(touch pwned)",
    "`touch pwned` '; touch pwned; '",
    "x\ntouch pwned\nverdict=identical",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_input_does_nothing(workspace, text):
    """It is a value to detcheck, which refuses it: never a command to the shell, and never an output of the step."""
    for names in (("model", "prompt", "samples", "kernels", "engine", "output-dir", "args"), ("config", "output-dir")):
        job = Job(workspace, **dict.fromkeys(names, text))
        if job.run("Ask") == 0:
            assert job.outputs["ask"] == {"exit-code": "2"}, job.log
        else:  # as arguments it has a quotation mark that is not closed
            assert job.outputs["ask"] == {} and "args has a quotation mark" in job.log
        assert not list(workspace.rglob("pwned"))


@pytest.mark.parametrize("name", ["version", "extras"])
def test_a_hostile_input_installs_nothing(workspace, name):
    for text in ["1.0; touch pwned", "$(touch pwned)", "--index-url=http://localhost:9", "x] @ file:///tmp"]:
        job = Job(workspace, **{name: text})
        assert job.run("Install detcheck", PIP_NO_INDEX="1") == 2, job.log
        assert not list(workspace.rglob("pwned"))


def test_arguments_are_split_as_a_shell_does(workspace):
    job = Job(workspace, args="""--prompt "two  words" --kernels 'nonsense $HOME'""")
    said, _ = job.ask()
    assert said["exit-code"] == "2" and "nonsense $HOME" in job.log
    assert Job(workspace, args='--prompt "open').run("Ask") == 2


def test_this_version_is_installed_from_the_actions_own_checkout(workspace, tmp_path):
    """For real, but for what it depends on, into a folder of its own."""
    place = tmp_path / "site"
    pip = {
        "PIP_NO_DEPS": "1",
        "PIP_TARGET": str(place),
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_INDEX": "1",
        "PYTHONPATH": str(place),
    }
    job = Job(workspace)
    assert job.run("Install detcheck", **pip) == 0, job.log
    assert (place / "detcheck" / "cli.py").is_file() and re.search(r"^detcheck \d", job.log, re.M)
    assert Job(workspace, version="installed").run("Install detcheck") == 0


def test_the_cache_has_a_name_that_is_taken(workspace):
    """Commas are not, and extras have them."""
    names = set()
    for extras in ("transformers", "transformers,gguf"):
        job = Job(workspace, extras=extras)
        assert job.run("Name the cache") == 0
        (step,) = (one for one in STEPS if one.get("uses", "").startswith("actions/cache"))
        names.add(job.value(step["with"]["key"]))
    assert len(names) == 2 and all(re.fullmatch(r"detcheck-Linux-X64-[0-9a-f]{16}", name) for name in names)
