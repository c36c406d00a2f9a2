"""SARIF: on the lines that a kernel is refuted by, in the form that code scanning takes, and stable while lines move."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from detcheck import runner
from detcheck.report import render
from detcheck.verdict import FailOn

STORED = Path(__file__).parents[1] / "stored"
NAMES = sorted(path.parent.name for path in STORED.glob("*/run"))
EXAMPLES = Path(__file__).parents[2] / "examples"

TEXT = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string", "minLength": 1}},
    "additionalProperties": False,
}
LEVEL = {"enum": ["none", "note", "warning", "error"]}


def closed(required, **optional):
    """An object that has all of these, perhaps some of those, and nothing else."""
    return {
        "type": "object",
        "required": list(required),
        "properties": required | optional,
        "additionalProperties": False,
    }


# What of SARIF 2.1.0 detcheck writes, and no more: names, types and enums as in the standard's schema; `locations` as GitHub demands them.
PLACE = closed({
    "physicalLocation": closed({
        "artifactLocation": closed({"uri": {"type": "string", "pattern": r"^(?![/~]|[A-Za-z]+:|\.\.)[\w./%-]+$"}, "uriBaseId": {"const": "%SRCROOT%"}}),
        "region": closed({"startLine": {"type": "integer", "minimum": 1}}),
    })
})  # fmt: skip
RULE = closed({
    "id": {"type": "string", "pattern": r"^[a-z]+/[a-z-]+$"}, "name": {"type": "string", "pattern": "^[A-Z][A-Za-z]+$"},
    "shortDescription": TEXT, "fullDescription": TEXT, "help": TEXT, "defaultConfiguration": closed({"level": LEVEL}),
    "properties": closed({"tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}),
})  # fmt: skip
RESULT = closed({
    "ruleId": {"type": "string"}, "ruleIndex": {"type": "integer", "minimum": 0}, "level": LEVEL, "message": TEXT,
    "locations": {"type": "array", "minItems": 1, "items": PLACE},
    "partialFingerprints": closed({"primaryLocationLineHash": {"type": "string", "pattern": r"^[0-9a-f]{32}:\d+$"}}),
})  # fmt: skip
INVOCATION = closed({
    "commandLine": {"type": "string"}, "executionSuccessful": {"type": "boolean"}, "exitCode": {"type": "integer"},
    "exitCodeDescription": {"type": "string"}, "startTimeUtc": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
    "toolExecutionNotifications": {"type": "array", "items": closed({"level": LEVEL, "message": TEXT})},
})  # fmt: skip
RUN = closed({
    "tool": closed({"driver": closed({"name": {"const": "detcheck"}, "semanticVersion": {"type": "string"}, "rules": {"type": "array", "items": RULE}})}),
    "automationDetails": closed({"id": {"type": "string", "pattern": "/$"}}),
    "invocations": {"type": "array", "minItems": 1, "maxItems": 1, "items": INVOCATION},
    "results": {"type": "array", "items": RESULT}, "columnKind": {"const": "unicodeCodePoints"},
})  # fmt: skip
LOG = closed({
    "$schema": {"type": "string", "pattern": "sarif-schema-2.1.0.json$"}, "version": {"const": "2.1.0"},
    "runs": {"type": "array", "minItems": 1, "maxItems": 1, "items": RUN},
})  # fmt: skip


def read(text):
    """The one run in it, valid."""
    log = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    jsonschema.Draft202012Validator.check_schema(LOG)
    jsonschema.validate(log, LOG)
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    assert all(rules[result["ruleIndex"]]["id"] == result["ruleId"] for result in run["results"])
    assert len(set(prints(run))) == len(run["results"])
    return run


def shown(run):
    """(rule, file, line, level) of each result."""
    found = []
    for result in run["results"]:
        where = result["locations"][0]["physicalLocation"]
        found.append(
            (result["ruleId"], where["artifactLocation"]["uri"], where["region"]["startLine"], result["level"])
        )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_probe_gives_a_valid_file_and_says_all_that_failed(name, monkeypatch):
    """A finding that has no line in the repository is a notification: a result without a place makes GitHub refuse the file."""
    monkeypatch.chdir(STORED / name)
    run = runner.load("run")
    said = read(render(run, "sarif"))
    (invocation,) = said["invocations"]
    assert invocation["exitCode"] == run.exit_code
    assert not said["results"]  # the stored ones were made where no source is
    told = [note["message"]["text"].split(":")[0] for note in invocation["toolExecutionNotifications"]]
    assert all(told.count(str(f.verdict)) for f in run.findings)
    levels = {note["level"] for note in invocation["toolExecutionNotifications"]}
    assert ("error" in levels) == any(f.exit_code(run.spec.fail_on) in (1, 4) for f in run.findings)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with the examples in a folder whose name has a space, which is the current one."""
    folder = tmp_path / "my ops"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for file in ("triton_sums.py", "my_kernels.py"):
        (folder / file).write_text((EXAMPLES / file).read_text())
    monkeypatch.chdir(folder)
    for name in ("triton_sums", "my_kernels"):  # other tests may have imported them from elsewhere
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("triton_sums", "my_kernels"):
        sys.modules.pop(name, None)


def asked(detcheck, repository, *arguments):
    """Exit code, and the report, which is the file beside the run's data too. Nowhere is the machine's own path."""
    here = Path.cwd()
    assert here == repository / "my ops"
    result = detcheck(*arguments, "--format", "sarif", "-q")
    stored = max((here / "runs").iterdir()) / "report.sarif"
    assert result.out == stored.read_text("utf-8") and str(repository) not in result.out
    return result.code, read(result.out), runner.load(stored.parent)


def test_certify_names_the_lines_and_fingerprints_do_not_follow_them(detcheck, repository):
    question = "certify", "--op", "triton_sums:before", "--target", "sm_90", "--dtype", "bf16"
    code, before, run = asked(detcheck, repository, *question)
    assert code == 1
    lines = (EXAMPLES / "triton_sums.py").read_text().splitlines()
    rules, files, places, levels = zip(*shown(before), strict=True)
    assert set(files) == {"my%20ops/triton_sums.py"} and levels[0] == "error"
    assert set(zip(rules, levels, strict=True)) <= {("certify/refuted", "error"), ("certify/undecided", "warning")}
    assert "for k in range(0, n, step)" in lines[places[0] - 1]
    assert "follows rows" in before["results"][0]["message"]["text"]

    (finding,) = run.findings

    def said_of(found):
        other = replace(finding, detail=replace(finding.detail, found=tuple(found)))
        return read(render(replace(run, findings=(other,)), "sarif"))

    lower = said_of(replace(f, line=f.line + 3) for f in finding.detail.found)
    assert [line for _, _, line, _ in shown(lower)] == [line + 3 for line in places]
    assert prints(lower) == prints(before)
    of_another = said_of(
        replace(f, why=replace(f.why, values=f.why.values | {"batch": "columns"})) for f in finding.detail.found
    )
    assert not set(prints(of_another)) & set(prints(before))
    unclear = said_of(replace(f, refutes=n == 0) for n, f in enumerate(finding.detail.found))
    assert [(rule, level) for rule, _, _, level in shown(unclear)][-1] == ("certify/undecided", "warning")
    outside = said_of(replace(f, file=f"/srv/{f.file}") for f in finding.detail.found)
    assert not outside["results"] and outside["invocations"][0]["toolExecutionNotifications"]


def prints(run):
    return [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]


def test_kernels_names_the_function(detcheck, repository):
    code, said, run = asked(detcheck, repository, "kernels", "--op", "my_kernels:split_sum", "--batch-sizes", "1,2,8")
    lines = (EXAMPLES / "my_kernels.py").read_text().splitlines()
    line = 1 + next(n for n, text in enumerate(lines) if text.startswith("def split_sum"))
    assert code == 1 and shown(said) == [("kernels/batch-variant", "my%20ops/my_kernels.py", line, "error")]
    forgiven = read(render(replace(run, spec=replace(run.spec, fail_on=FailOn.NEVER)), "sarif"))
    assert [level for *_, level in shown(forgiven)] == ["note"]


def test_what_passes_makes_no_alert(detcheck, repository):
    code, said, _ = asked(detcheck, repository, "kernels", "--op", "my_kernels:norm", "--batch-sizes", "1,2,8")
    assert code == 0 and not said["results"]
    told = [note["message"]["text"] for note in said["invocations"][0]["toolExecutionNotifications"]]
    assert any(text.startswith("identical: kernels · my_kernels:norm") for text in told)
