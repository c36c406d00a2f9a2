"""`detcheck check`: real probes, asked together; one verdict and exit code, and one report of all that is there after each."""

import importlib.resources
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import referencing
import warm
from conftest import only_run
from models import llama_like

from detcheck import github
from detcheck.check import file as configs
from detcheck.check import run

SOUND = '[probes.sound]\nprobe = "kernels"\nop = "rmsnorm"\nkernels = "batch-invariant"\ndtype = "float32"\nbatch-sizes = [1, 2]\n'
PLANTED = '[probes.planted]\nprobe = "kernels"\nop = "control"\ndtype = "float32"\nbatch-sizes = [1, 2, 8]\n'
COMPLETIONS = '[probes.completions]\nkernels = "batch-invariant"\nsamples = 4\nmax-tokens = 4\n'
ANSWERS = '[probes.answers]\nprobe = "judge"\nfile = "answers.jsonl"\n'
STORED = Path(__file__).parents[1] / "stored"
DOCS = (Path(__file__).parents[2] / "docs" / "check.md").read_text("utf-8")
FILES = {"index.html", "summary.md", "report.json", "junit.xml", "report.sarif"}


def answers(name="answers.jsonl", other=1, batch_size=2, text=""):
    """Two answers to one request, in batches of one and of `batch_size`; equal if `other` is 1."""
    rows = [{"tokens": [1], "batch_size": 1, "text": text}] * 2 + [{"tokens": [other], "batch_size": batch_size}] * 2
    rows = rows if batch_size else [{"tokens": row["tokens"]} for row in rows]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def check(detcheck):
    """Text of detcheck.toml, arguments -> exit code, stdout, stderr."""

    def call(text, *arguments):
        Path("detcheck.toml").write_text(text)
        return detcheck("check", *arguments)

    return call


def valid(document):
    formats = importlib.resources.files("detcheck") / "formats"
    schema, of_runs = (json.loads((formats / f"{name}.schema.json").read_text()) for name in ("check", "report"))
    jsonschema.Draft202012Validator.check_schema(schema)
    resource = referencing.Resource.from_contents(of_runs)
    registry = referencing.Registry().with_resource("report.schema.json", resource)
    jsonschema.Draft202012Validator(schema, registry=registry).validate(document)
    return document


def said(folder):
    return valid(json.loads((folder / "report.json").read_text()))


def test_the_file_of_the_docs_is_understood(tmp_path, monkeypatch):
    from detcheck.check.questions import questions

    monkeypatch.chdir(tmp_path)
    answers()
    llama_like(tmp_path / "model")
    shutil.copy(STORED / "completions-stock" / "run" / "baseline.json", tmp_path)
    Path("detcheck.toml").write_text(re.search(r"```toml\n(.*?)```", DOCS, re.S)[1])
    specs = questions(configs.find(Path())).specs
    assert list(specs) == ["completions", "in-vllm", "kernels", "answers"]
    assert specs["completions"].dtype == specs["kernels"].dtype == "bf16" and specs["in-vllm"].model == "./model"


class Links(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.tags = [], set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.found += [value for name, value in attributes if tag == "a" and name == "href"]


def test_a_sound_and_a_divergent_probe_exit_with_1(check, tmp_path):
    result = check(SOUND + PLANTED)
    assert result.code == 1, result.err
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [
        ["identical", "sound"],
        ["batch-variant", "planted"],
    ]
    assert lines[3] == "batch-variant  over 2 probes: 1 batch-variant, 1 identical; exit code 1"
    folder = only_run(tmp_path / "runs")
    shown = re.search(r"\$ detcheck check\n(.*?)```", DOCS, re.S)[1].splitlines()
    assert [re.sub(r"\S+-check", "#", line) for line in shown] == [re.sub(r"\S+-check", "#", line) for line in lines]
    where, files = lines[4].removeprefix("reports: ").split(": ")
    assert where == f"runs/{folder.name}" and where.endswith("Z-check") and set(files.split(", ")) == FILES
    assert {path.name for path in folder.iterdir()} == FILES | {"sound", "planted"}
    for name in ("sound", "planted"):  # ordinary runs, which every other command takes
        assert {"run.json", "report.html", "end.json"} <= {path.name for path in (folder / name).iterdir()}

    report = said(folder)
    assert (report["verdict"], report["exit_code"]) == ("batch-variant", 1)
    assert report["summary"] == {
        "probes": 2,
        "verdicts": {"batch-variant": 1, "identical": 1},
        "not_asked": [],
        "interrupted": False,
        "warnings": [],
    }
    assert [(p["name"], p["exit_code"], p["folder"]) for p in report["probes"]] == [
        ("sound", 0, "sound"),
        ("planted", 1, "planted"),
    ]
    assert report["probes"][1]["reproduce"] == "detcheck kernels --dtype float32 --batch-sizes 1,2,8 --op control"
    assert report["probes"][1]["report"]["findings"][0]["verdict"] == "batch-variant"

    sarif = json.loads((folder / "report.sarif").read_text())
    assert [run["automationDetails"]["id"] for run in sarif["runs"]] == [
        "detcheck/check/sound/",
        "detcheck/check/planted/",
    ]

    root = ET.parse(folder / "junit.xml").getroot()
    assert root.tag == "testsuites" and root.get("failures") == "1" and root.get("errors") == "0"
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["sound", "planted"]
    assert sum(int(suite.get("tests")) for suite in root) == int(root.get("tests")) == len(root.findall(".//testcase"))
    assert [case.get("classname") for case in root.iter("testcase") if case.find("failure") is not None] == [
        "detcheck.planted"
    ]

    page = (folder / "index.html").read_text()
    links = Links(page)
    assert links.found == ["sound/report.html", "planted/report.html"]
    assert all((folder / link).is_file() for link in links.found)
    assert "script" not in links.tags and "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")
    summary = (folder / "summary.md").read_text()
    assert "## planted" in summary and "## sound" not in summary and "detcheck kernels --dtype" in summary


def test_a_model_that_cannot_be_loaded_exits_with_4_and_the_others_are_asked(check, tmp_path):
    (llama_like(tmp_path / "model") / "model.safetensors").write_bytes(b"torn")
    answers()
    result = check('[probes.torn]\nprobe = "batch"\nmodel = "model"\n' + ANSWERS)
    assert result.code == 4
    folder = only_run(tmp_path / "runs")
    torn, judged = said(folder)["probes"]
    assert (torn["verdict"], torn["exit_code"], judged["verdict"]) == ("failed", 4, "identical")
    assert "cannot load" in torn["note"] and "cannot load" in (folder / "torn" / "report.md").read_text().replace(
        "&#58;", ":"
    )
    assert ET.parse(folder / "junit.xml").getroot().get("errors") == "1"
    assert Links((folder / "index.html").read_text()).found == ["torn/report.html", "answers/report.html"]
    assert (folder / "answers" / "report.html").is_file()


def test_a_doubt_and_a_pass_exit_with_3(check):
    answers(batch_size=None)
    result = check(SOUND + ANSWERS)
    assert result.code == 3 and "inconclusive  over 2 probes: 1 inconclusive, 1 identical; exit code 3" in result.out


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (["different", "doubt", "gone", "equal"], 1),
        (["doubt", "gone", "equal"], 4),
        (["doubt", "equal"], 3),
        (["equal"], 0),
    ],
)
def test_1_wins_over_4_4_over_3_and_3_over_0(check, found, code):
    answers("equal.jsonl")
    answers("different.jsonl", other=2)
    answers("doubt.jsonl", batch_size=None)
    Path("gone.jsonl").write_text("no JSON\n")  # known only when it is read
    result = check("".join(f'[probes.{name}]\nprobe = "judge"\nfile = "{name}.jsonl"\n' for name in found))
    assert result.code == code
    assert said(only_run(Path("runs")))["exit_code"] == code


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), SystemExit(0), MemoryError()])
def test_whatever_one_dies_of_the_others_are_asked(check, monkeypatch, error):
    def dies(*_):
        raise error

    monkeypatch.setattr("detcheck.runner.compare", dies)
    answers()
    result = check('[probes.dies]\nprobe = "compare"\na = "."\nb = "."\n' + ANSWERS)
    assert result.code == 4
    dies, judged = said(only_run(Path("runs")))["probes"]
    assert (dies["verdict"], judged["verdict"]) == ("failed", "identical") and type(error).__name__ in dies["note"]


def test_the_reports_on_disk_are_no_pass_until_all_is_asked(tmp_path, monkeypatch):
    """What a kill leaves: what was asked so far, and that the rest was not."""
    monkeypatch.chdir(tmp_path)
    answers()
    (tmp_path / "detcheck.toml").write_text(ANSWERS + ANSWERS.replace("probes.answers", "probes.again"))
    seen = []

    def shown(member):
        report = said(only_run(tmp_path / "runs"))
        seen.append((report["exit_code"], report["summary"]["not_asked"], report["probes"][0]["verdict"]))
        page = (only_run(tmp_path / "runs") / "index.html").read_text()
        assert page.count("not asked</span>") == 2 - len(seen) + 1
        junit = ET.parse(only_run(tmp_path / "runs") / "junit.xml").getroot()
        assert int(junit.get("errors")) == 2 - len(seen) + 1
        return nullcontext()

    suite = run.run(configs.find(tmp_path), run.Called(), shown, lambda *_: None)
    assert seen == [(3, ["answers", "again"], None), (3, ["again"], "identical")]
    assert suite.exit_code == said(suite.path)["exit_code"] == 0


def test_ctrl_c_exits_130_with_what_was_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers(other=2)
    long = '[probes.long]\nprobe = "kernels"\nkernels = "batch-invariant"\ntrials = 20\n'
    (tmp_path / "detcheck.toml").write_text(ANSWERS + long + ANSWERS.replace("probes.answers", "probes.never"))
    command = [sys.executable, "-m", "detcheck", "check", "--format", "json"]
    process = warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*/long/observations/*.parquet")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    report = valid(json.loads(out))
    assert report == said(only_run(tmp_path / "runs"))
    assert report["summary"]["interrupted"] and report["summary"]["not_asked"] == ["never"]
    assert [p["exit_code"] for p in report["probes"]] == [1, 130, None]
    page = (only_run(tmp_path / "runs") / "index.html").read_text()
    assert Links(page).found == ["answers/report.html", "long/report.html"] and "interrupted" in page


def test_ctrl_c_while_a_model_is_loaded_keeps_what_was_asked(check, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("detcheck.runner.compare", stop)
    answers()
    result = check(ANSWERS + '[probes.stopped]\nprobe = "compare"\na = "."\nb = "."\n')
    assert result.code == 130 and "interrupted" in result.out
    report = said(only_run(Path("runs")))
    assert report["exit_code"] == 130 and report["summary"]["not_asked"] == ["stopped"]


@pytest.mark.parametrize("where", ["detcheck.report.write_all", "detcheck.check.run.written", "on_member"])
def test_ctrl_c_behind_a_run_loses_nothing_of_it(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers(other=2)
    (tmp_path / "detcheck.toml").write_text(ANSWERS + ANSWERS.replace("probes.answers", "probes.never"))
    calls = []

    def stops(*given):
        calls.append(given)
        if len(calls) == (2 if where.endswith("written") else 1):  # the first writes that nothing is asked yet
            raise KeyboardInterrupt
        return [] if where != "detcheck.check.run.written" else given[0]

    if where != "on_member":
        monkeypatch.setattr(where, stops)
    told = stops if where == "on_member" else (lambda *_: None)
    suite = run.run(configs.find(tmp_path), run.Called(), lambda _: nullcontext(), told)
    assert suite.interrupted and suite.exit_code == 130
    assert [m.exit_code if m.report else None for m in suite.members] == [1, None]
    if where == "on_member":
        assert said(suite.path)["summary"]["interrupted"] and (suite.path / "answers" / "report.html").is_file()


def test_a_fault_in_the_file_exits_with_2_before_anything_is_asked(check, tmp_path):
    answers()
    result = check('output-dir = "../elsewhere"\nsmaples = 1\n' + ANSWERS)
    assert result.code == 2 and result.out == ""
    first, second = result.err.splitlines()
    assert first.startswith("detcheck: detcheck.toml: output-dir ../elsewhere leaves the folder")
    assert second.startswith("detcheck: detcheck.toml: smaples: no probe here has such an option")
    assert not (tmp_path / "runs").exists() and not (tmp_path.parent / "elsewhere").exists()
    assert "\\x1b" in check('[probes.matmul]\n"a\\u001bb" = 1\n').err


def test_the_command_line_may_write_elsewhere(check, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    answers()
    assert check('output-dir = "out"\n' + ANSWERS, "--output-dir", elsewhere).code == 0
    assert {path.name for path in only_run(elsewhere).iterdir()} > FILES and not Path("out").exists()
    assert check('output-dir = "out"\n' + ANSWERS).code == 0 and only_run(Path("out"))


def test_from_a_folder_below_paths_start_at_the_file(check, tmp_path, monkeypatch):
    answers()
    (tmp_path / "below").mkdir()
    check(ANSWERS)
    monkeypatch.chdir(tmp_path / "below")

    assert configs.find(Path()).folder == tmp_path
    result = subprocess.run([sys.executable, "-m", "detcheck", "check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"reports: {tmp_path}/runs/" in result.stdout and not (tmp_path / "below" / "runs").exists()


def test_two_checks_of_one_second_have_a_folder_each(check, monkeypatch):
    monkeypatch.setattr("detcheck.check.run.stamped", lambda what: f"20261130T000000Z-{what}")
    answers()
    assert [check(ANSWERS).code for _ in range(2)] == [0, 0]
    assert {path.name for path in Path("runs").iterdir()} == {"20261130T000000Z-check", "20261130T000000Z-check-2"}


def test_some_of_the_probes(check):
    answers()
    text = ANSWERS + SOUND + PLANTED
    result = check(text, "answers")
    assert result.code == 0 and [p["name"] for p in said(only_run(Path("runs")))["probes"]] == ["answers"]
    result = check(text, "answer")
    assert result.code == 2 and "asks no answer; the nearest is answers. It has answers, sound, planted" in result.err
    assert check(text + "[probes.nope]\n", "answers").code == 2  # the whole file is looked at


def test_fail_fast_asks_no_more_after_a_divergence(check):
    answers()
    answers("different.jsonl", other=2)
    different = ANSWERS.replace("answers", "different")
    result = check(ANSWERS + different + ANSWERS.replace("probes.answers", "probes.never"), "--fail-fast")
    assert result.code == 1 and "1 identical, 1 not asked" in result.out
    assert said(only_run(Path("runs")))["summary"]["not_asked"] == ["never"]


def test_one_report_alone_on_stdout_and_the_format_never_changes_the_code(check, tmp_path):
    answers(other=2)
    for name, file in {
        "json": "report.json",
        "junit": "junit.xml",
        "md": "summary.md",
        "html": "index.html",
        "sarif": "report.sarif",
    }.items():
        result = check(ANSWERS, "--format", name, "--quiet", "--output-dir", tmp_path / name)
        assert (result.code, result.err) == (1, "")
        assert result.out == (only_run(tmp_path / name) / file).read_text("utf-8")


def test_github_gets_one_summary_and_an_annotation_for_each_that_fails(check, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    answers()
    answers("different.jsonl", other=2)
    different = ANSWERS.replace("answers", "different")
    assert check(ANSWERS + different + different.replace("probes.different", "probes.too")).code == 1
    notes = [line for line in check(ANSWERS + different).err.splitlines() if line.startswith("::error")]
    assert len(notes) == 1 and notes[0].startswith("::error title=detcheck different::batch-variant: ")
    assert (tmp_path / "step.md").read_text().count("# detcheck: batch-variant\n") == 2  # of two calls


def test_what_was_interrupted_or_not_asked_is_said_in_every_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    answers()
    (tmp_path / "detcheck.toml").write_text(ANSWERS + ANSWERS.replace("probes.answers", "probes.never"))

    def stops(*_):
        raise KeyboardInterrupt

    config = configs.find(tmp_path)
    config = replace(config, warnings=("planted",))
    suite = run.run(config, run.Called(), lambda _: nullcontext(), stops)
    read = {name: (suite.path / name).read_text() for name in FILES}
    for name in FILES - {"report.json"}:
        assert "interrupted: judged on what was asked until then" in read[name], name
        assert "planted" in read[name] and "it was not asked" in read[name], name
    junit = ET.fromstring(read["junit.xml"])
    assert junit.get("errors") == "2" and junit.find(".//testcase[@name='interrupted']/error") is not None
    together, answered = json.loads(read["report.sarif"])["runs"]
    assert answered["automationDetails"]["id"] == "detcheck/check/answers/"
    (invocation,) = together["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 130)
    assert [n["message"]["text"] for n in invocation["toolExecutionNotifications"]] == [
        "planted", "interrupted: judged on what was asked until then", "never: it was not asked",
    ]  # fmt: skip
    github.publish_suite(suite)
    assert "interrupted: judged" in (tmp_path / "step.md").read_text()
    assert "::warning title=detcheck never::it was not asked\n" in capsys.readouterr().err


def test_what_fail_on_lets_pass_is_said_to_differ(check):
    answers(other=2)
    result = check('fail-on = "never"\n' + ANSWERS)
    assert result.code == 0 and result.out.splitlines()[0].endswith("(fail-on lets it pass)"), result.out
    assert "## answers" in (only_run(Path("runs")) / "summary.md").read_text()


def test_sarif_of_what_fail_fast_left_is_no_success(check):
    answers("different.jsonl", other=2)
    answers()
    assert check(ANSWERS.replace("answers", "different") + ANSWERS, "--fail-fast").code == 1
    together, _ = json.loads((only_run(Path("runs")) / "report.sarif").read_text())["runs"]
    assert not together["invocations"][0]["executionSuccessful"] and together["invocations"][0]["exitCode"] == 1


def test_a_baseline_of_the_file_s_folder(check, tmp_path):
    shutil.copy(STORED / "completions-stock" / "run" / "baseline.json", tmp_path)
    held = COMPLETIONS + 'baseline = "baseline.json"\n'
    assert check(held).code == 3  # of another prompt
    stored = only_run(tmp_path / "runs") / "completions" / "baseline.json"
    stored.replace(tmp_path / "baseline.json")
    result = check(held, "--output-dir", tmp_path / "second")
    assert result.code == 0 and "2 cases: 2 identical" in result.out, result.out


def test_hostile_text_is_shown_and_inert(check):
    answers(text="<script>alert(1)</script>")
    answers("other.jsonl", other=2, text="\x1b[31m<img src=x>")
    text = ANSWERS + ANSWERS.replace("probes.answers", "probes.other").replace("answers.jsonl", "other.jsonl")
    result = check(text)
    assert result.code == 1 and "\x1b" not in result.out
    folder = only_run(Path("runs"))
    assert not {"script", "img"} & Links((folder / "index.html").read_text()).tags
    assert "<img" not in (folder / "summary.md").read_text() and ET.parse(folder / "junit.xml")


def test_a_full_disk_is_said_and_changes_no_verdict(check, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    answers()
    monkeypatch.setattr("detcheck.report.write_file", full)
    result = check(ANSWERS)
    assert result.code == 0 and result.out.count("cannot write") == 2 * len(FILES)
