"""Every format: complete, valid, and with hostile text shown but inert."""

import importlib.resources
import json
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from detcheck import runner
from detcheck.advice import advice
from detcheck.finding import Finding
from detcheck.formats import terminal
from detcheck.records import Case
from detcheck.report import described, render
from detcheck.verdict import Verdict

HOSTILE = [
    "[/INST] </s> <|im_end|>",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "| a | b |\n|---|---|\n`code` ``` ~~~ # h [link](http://x) @someone www.example.com **bold** <b>x</b>",
    "]]> <![CDATA[ &amp; \x00 \x0b \ufffe",
    "lone \ud800 surrogate",
    "right \u202e to left \u2066 \u200f",
    "[bold red]markup[/] :smile: {{ jinja }} {% raw %}",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose completions, errors and file name are all hostile."""
    path = tmp_path_factory.mktemp("hostile") / "a | b <script>alert(1) \x1b[31m.jsonl"
    rows = [{"tokens": [n, 1], "text": text, "prompt": "p"} for n, text in enumerate(HOSTILE)]
    rows += [{"tokens": None, "error": text, "prompt": "p"} for text in HOSTILE]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return runner.judge_file(path)


def all_formats(run):
    return {name: render(run, name) for name in ("terminal", "json", "md", "html", "junit")}


def test_json_is_described_by_its_schema(diverging, hostile):
    schema = json.loads((importlib.resources.files("detcheck") / "formats" / "report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for run in (diverging, hostile):
        report = json.loads(render(run, "json"), parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))
        jsonschema.validate(report, schema)
        assert list(report) == sorted(report)
        for finding in report["findings"]:
            assert set(finding) == set(schema["$defs"]["finding"]["properties"])


def test_every_report_holds_what_is_needed_to_repeat_the_run(diverging):
    run = diverging
    for name, text in all_formats(run).items():
        assert "detcheck completions --samples 16 --max-tokens 32" in text, name
        assert "Total samples: 16, Unique samples: " in text or name == "json"
        for digest in run.subject.digests.values():
            assert digest[:12] in text, name


def test_no_control_character_leaves_in_any_format(hostile):
    for name, text in all_formats(hostile).items():
        text.encode("utf-8")  # no lone surrogate
        bad = {
            c for c in text if c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066\u200f\ufffe")
        }
        assert not bad, name


def test_nothing_of_a_stored_run_reaches_a_terminal_as_a_command(tmp_path, monkeypatch):
    """Its folder may be anybody's: every text of its environment, in colour too."""
    shutil.copytree(Path(__file__).parents[1] / "stored" / "completions-stock" / "run", tmp_path / "run")
    head = json.loads((tmp_path / "run" / "run.json").read_text())

    def forged(value):
        if isinstance(value, dict):
            return {key: forged(one) for key, one in value.items()}
        return f"{value}\x1b[2J\nidentical" if isinstance(value, str) else value

    head["environment"] |= {name: forged(head["environment"][name]) for name in ("processor", "device", "packages")}
    head["digests"] = {f"{name}\x1b[2J\n": digest for name, digest in head["digests"].items()}
    (tmp_path / "run" / "run.json").write_text(json.dumps(head))
    run = runner.load(tmp_path / "run")
    shown = terminal.render(described(run))
    assert "\x1b" not in shown and "\nidentical\n" not in shown and "\\x1b[2J" in shown
    assert "\x1b[2J" not in terminal.render(described(run), colour=True)


def test_hostile_text_is_shown(hostile):
    for name in ("terminal", "html", "md"):
        assert "\\x1b[31mred" in render(hostile, name).replace("&#91;", "[").replace("&#92;", "\\"), name
    assert "[bold red]markup" in render(hostile, "terminal")


def test_html_has_no_tag_of_the_models(hostile):
    tags, scripts = Counter(), []

    class Collect(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags[tag] += 1
            assert not any(name.startswith("on") for name, _ in attrs)

        def handle_data(self, data):
            if self.cdata_elem == "script":
                scripts.append(data)

    Collect().feed(render(hostile, "html"))
    assert not tags.keys() & {"img", "b", "iframe", "object"}
    ours = (importlib.resources.files("detcheck") / "page" / "page.js").read_text("utf-8")
    assert tags["script"] == 1 and "".join(scripts) == ours


def test_markdown_has_no_mark_of_the_models(hostile):
    text = render(hostile, "md")
    outside = text.split("Reproduce:")[0]
    assert (
        "<script" not in outside
        and "](http" not in outside
        and "@someone" not in outside
        and "www.example" not in outside
    )
    for line in outside.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 7  # of the table of conditions


def test_junit_is_xml_with_one_case_a_finding(diverging, hostile):
    for run in (diverging, hostile):
        suite = ET.fromstring(render(run, "junit"))
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "1", "0")
        assert suite.find("testcase/failure").get("type") == run.verdict


def test_junit_counts_a_doubt_as_an_error_and_a_pass_as_a_pass(tmp_path):
    file = tmp_path / "c.jsonl"
    file.write_text('{"tokens": [1]}\n' * 3)
    doubt = ET.fromstring(render(runner.judge_file(file), "junit"))
    assert doubt.get("errors") == "1" and doubt.find("testcase/error").get("type") == "inconclusive"
    passed = ET.fromstring(render(runner.judge_file(file, allow_unseen_batch=True), "junit"))
    assert (passed.get("errors"), passed.get("failures")) == ("0", "0")


def test_a_fork_of_thousands_stays_readable(tmp_path):
    file = tmp_path / "c.jsonl"
    file.write_text("".join(json.dumps({"tokens": [n, 1]}) + "\n" for n in range(3000)))
    run = runner.judge_file(file)
    assert len(json.loads(render(run, "json"))["findings"][0]["forks"][0]["branches"]) == 3000
    for name in ("terminal", "md", "html"):
        text = render(run, name)
        assert "more ways on" in text and len(text) < 60_000, name


def test_zero_divergences_are_given_with_their_bound(tmp_path):
    file = tmp_path / "c.jsonl"
    file.write_text("".join(json.dumps({"tokens": [1, 2], "batch_size": 1 + n % 2}) + "\n" for n in range(300)))
    out = render(runner.judge_file(file), "terminal")
    assert out.startswith("identical")
    assert "no batch of 225 left the mode: at most 1.63% do under this schedule (95%)" in out


def test_advice_is_for_whoever_can_follow_it():
    """Torch's flags are no use to somebody who asks a URL."""
    case = Case("completions", "model", "stock", "float32", "0")
    noisy = Finding(case, Verdict.RUN_VARIANT, "")
    assert "use_deterministic_algorithms" in advice(noisy)
    asked = advice(replace(noisy, case=replace(case, dtype="")))
    assert "torch" not in asked and "whoever runs it" in asked
    ours = replace(noisy, verdict=Verdict.BATCH_VARIANT, evidence={"coverage": {"overridden": {"aten::mm": 3}}})
    assert "detcheck bisect --kernels batch-invariant" in advice(ours) and "Serve with" not in advice(ours)
    assert "Serve with batch-invariant kernels" in advice(replace(ours, evidence={}))
