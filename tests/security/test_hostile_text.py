"""Whatever a model, a server, a file or a name says, in every format: it is shown, and runs, marks and forges nothing.

The runs are real; who judges is a parser of each format: a browser, a Markdown renderer, an XML parser, a JSON and a CSV reader, a terminal's grammar.
"""

import contextlib
import csv
import html.parser
import io
import json
import re
import shutil
import sys
import unicodedata
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import browsers
import pytest
from conftest import Bytes
from hostile import FORGED, MARK, PAYLOADS
from misbehaving import completion, serving

import detcheck as api
from detcheck import github, output, progress, runner
from detcheck.check import file as config_file
from detcheck.check import run as check_run
from detcheck.formats import terminal
from detcheck.report import described, render, render_suite, worst_first
from detcheck.suite import Suite
from detcheck.text import visible
from detcheck.verdict import Role, Verdict
from detcheck.watch import Progress

STORED = Path(__file__).parents[1] / "stored"
TEXTS = list(PAYLOADS.values())
ALL = "\n".join(TEXTS)
NAME = "".join(
    PAYLOADS[n] for n in ("ansi", "script", "markdown table", "wrapped", "mention", "mathtext", "github command")
)
FORMATS = ("terminal", "md", "html", "junit", "sarif", "json")
Asked = namedtuple("Asked", "made code out err summary folder")


class Terminal(Bytes):
    def isatty(self):
        return True


def ask(folder, *arguments, err=Bytes, **variables):
    """The command line in this process, with a GitHub runner that listens."""
    from detcheck.cli import main

    publish = github.publish
    out, err, code, kept = Bytes(), err(), 0, []
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        for name, value in {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "summary.md", **variables}.items():
            patch.setenv(name, value)
        patch.setattr(github, "publish", lambda run: kept.append(run) or publish(run))
        patch.setattr(sys, "argv", ["detcheck", *map(str, arguments)])
        patch.syspath_prepend(str(folder))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as stop:
                code = stop.code
    summary = folder / "summary.md"
    return *kept, code, out.text(), err.text(), summary.read_text("utf-8") if summary.exists() else "", folder


def from_a_server(folder, **how):
    """Answers, ends, errors, the model's name and the server's, its headers, and the prompt."""

    def answer(handler, body, number, together):
        text = TEXTS[number % len(TEXTS)]
        if number < 12:  # it is still found out what the server can do
            return completion(handler.server, body, number, choice={"text": text})
        if number % 9 == 0:
            return handler.send({"error": {"message": text}}, 500)
        if number % 9 == 1:
            return handler.send(text.encode("utf-8", "replace"), content_type=visible(text)[:200])
        return completion(
            handler.server,
            body,
            number,
            choice={"text": text, "finish_reason": text if number % 5 == 0 else "stop"},
            id=text,
        )

    prompt = ALL.replace("\0", "").encode("utf-8", "ignore").decode()
    served = {"ids": False, "logprobs": False, "model": NAME, "version": ALL[:80], "takes_s": 0.0}
    with serving(answer, **served) as server:
        said = ask(
            folder, "completions", "--base-url", server.url, "--prompt", prompt, "-n", len(TEXTS) + 9, "--max-tokens", 8,
            "--conditions", "alone,wave-8", **how,
        )  # fmt: skip
    return Asked(*said)


def from_a_file(folder):
    """Words, texts, prompts, errors, ends, and the file's own name."""
    rows = [{"tokens": [text, "b"], "text": text, "finish_reason": text, "prompt": ALL} for text in TEXTS]
    rows += [{"tokens": None, "error": text, "prompt": ALL} for text in TEXTS]
    rows += [{"tokens": ["a", "b"], "finish_reason": text, "prompt": text} for text in TEXTS for _ in range(2)]
    file = folder / (re.sub(r"[/\0\ud800-\udfff]", "", NAME).encode()[:200].decode("utf-8", "ignore") + ".jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Asked(*ask(folder, "judge", file.name))


def from_log_probabilities(folder):
    """Texts of tokens that two sides scored differently."""
    rows = [
        {"id": text, "prompt": text, "tokens": [n, 1], "text": text, "logprobs": [-1.0, -0.5]}
        for n, text in enumerate(TEXTS)
    ]
    for name, by in (("sampler", 0.0), ("trainer", 1e-3)):
        made = [row | {"logprobs": [v - by for v in row["logprobs"]]} for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    said = ask(folder, "logprobs", "sampler.jsonl", "trainer.jsonl")
    return Asked(*said)


def from_a_stored_run(folder):
    """A run's folder of somebody else's: all that run.json and end.json say in words."""
    shutil.copytree(STORED / "completions-stock" / "run", folder / "run")
    head = json.loads((folder / "run" / "run.json").read_text())

    def forged(value):
        if isinstance(value, dict):
            return {f"{key}{NAME}": forged(one) for key, one in value.items()}
        return [*map(forged, value)] if isinstance(value, list) else ALL + NAME if isinstance(value, str) else value

    around = head["environment"]
    around |= {
        name: forged(around[name]) for name in ("packages", "flags", "variables", "processor", "platform", "device")
    }
    around["settings"] = [{"name": NAME, "requested": ALL, "effective": NAME}]
    around["problems"] = [{"what": NAME, "found": ALL, "remedy": ALL}]
    around["flags"] |= {"engine": ALL}
    head["digests"] = {f"{name}{NAME}": digest for name, digest in head["digests"].items()}
    head["inputs"] = [one | {"text": ALL} for one in head["inputs"]]
    head["schedule"]["not_tried"] = [f"{NAME}: {ALL}"]
    head |= {"command": ALL, "sources": {NAME: {"file": "../../x](javascript:1)", "line": 3}}}
    (folder / "run" / "run.json").write_text(json.dumps(head))
    (folder / "run" / "end.json").write_text(json.dumps({"interrupted": False, "warnings": [*TEXTS, NAME]}))
    said = ask(folder, "report", "run")
    return Asked(runner.load(folder / "run"), *said)


def from_an_op(folder):
    """What a user's op raises, and what its probe dies of."""
    (folder / "evil_op.py").write_text(
        f"import torch\ndef make_inputs(rows, dtype, seed):\n    return (torch.ones(rows, 4, dtype=dtype),)\n"
        f"def run(x):\n    raise ValueError({ALL + NAME!a})\n"
    )
    said = ask(folder, "kernels", "--op", "evil_op:run", "--batch-sizes", "1,2", "--dtype", "float32")
    return Asked(*said)


def from_a_config(folder):
    """Several runs together: an index, one file of each format."""
    from_a_file(folder)
    (file,) = folder.glob("*.jsonl")
    shutil.copy(file, folder / "words.jsonl")
    tables = {"words": {"probe": "judge", "file": file.name}, "again": {"probe": "judge", "file": "words.jsonl"}}
    lines = [
        line
        for name, table in tables.items()
        for line in (f"[probes.{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items()))
    ]
    (folder / "detcheck.toml").write_text("\n".join(lines))
    (folder / "summary.md").unlink()
    said = ask(folder, "check")
    with contextlib.chdir(folder):
        kept = []
        called = check_run.Called(command=ALL)
        suite = check_run.run(
            config_file.find(Path()), called, lambda member: contextlib.nullcontext(), lambda *_: kept.append(1)
        )
    return Asked(replace(suite, warnings=(*suite.warnings, *TEXTS), config=Path(NAME)), *said)


ENTRANCES = {
    "server": from_a_server, "file": from_a_file, "logprobs": from_log_probabilities, "stored": from_a_stored_run, "op": from_an_op,
    "config": from_a_config,
}  # fmt: skip


@pytest.fixture(scope="module")
def entered(tmp_path_factory):
    """Name of an entrance -> what was asked through it, once."""
    made = {}

    def call(name):
        if name not in made:
            made[name] = ENTRANCES[name](tmp_path_factory.mktemp(name))
        return made[name]

    return call


def rendered(made, format):
    return render_suite(made, format) if isinstance(made, Suite) else render(made, format)


every_entrance = pytest.mark.parametrize("entrance", ENTRANCES)


def unseen(text, allowed="\n"):
    """Characters that no reader sees, or that a terminal obeys."""
    return {c for c in text if c not in allowed and visible(c) != c}


def forges_a_verdict(text):
    """Lines that read as a pass, or as ours where none of ours is one."""
    return [
        line
        for line in text.split("\n")
        if unicodedata.normalize("NFKC", line).casefold().startswith(("identical", "certified"))
    ]


@every_entrance
def test_a_terminal_obeys_nothing_and_reads_no_verdict_that_is_not_ours(entered, entrance, monkeypatch):
    made = entered(entrance).made
    for width in ("60", "101"):
        monkeypatch.setenv("COLUMNS", width)
        plain = rendered(made, "terminal")
        assert MARK in plain and not unseen(plain) and forges_a_verdict(plain) == []
    report = made if isinstance(made, Suite) else described(made)
    coloured = (terminal.render_suite if isinstance(made, Suite) else terminal.render)(report, colour=True)
    assert not unseen(re.sub(r"\x1b\[[\d;]*m", "", coloured)) and "\x1b[" in coloured


def test_no_place_of_a_break_makes_a_verdict_of_what_is_quoted(entered):
    """A line is broken at spaces: whoever knows the width knows where."""
    run = entered("file").made
    for pad in range(1, 101, 3):
        for said in (
            "x" * pad + " " + FORGED,
            " " * pad + FORGED,
            "ab " * pad + FORGED.upper(),
            "ｉｄｅｎｔｉｃａｌ " * pad,
        ):
            finding = replace(run.findings[0], note=said, case=replace(run.findings[0].case, subject=said))
            shown = terminal.render(described(replace(run, findings=(finding, finding), warnings=(said,))))
            assert forges_a_verdict(shown) == [], (pad, said)


def test_our_own_verdict_begins_its_line():
    run = runner.load(STORED / "completions-both" / "run")
    assert forges_a_verdict(render(run, "terminal"))


@every_entrance
def test_what_is_printed_as_it_goes_holds_no_command(entered, entrance):
    """stderr of the real command, and GitHub's runner: only ours is a command, and only its own lines begin with a verdict."""
    asked = entered(entrance)
    assert not unseen(asked.err) and not unseen(asked.out)
    commands = re.findall(r"^\s*::.*|##(?:vso|teamcity)?\[.*", asked.out + asked.err, re.M)
    assert all(re.match(r"::(error|warning) (file=[^:]*,line=\d+,)?title=detcheck", one) for one in commands), commands
    assert (
        len(commands) == (asked.code != 0) * (2 if entrance == "config" else 1)
        or asked.made.spec.probe == "completions"
    )
    assert forges_a_verdict(asked.out) == forges_a_verdict(asked.err) == []
    assert MARK in asked.out


@pytest.mark.parametrize("service", [{"TF_BUILD": "True"}, {"TEAMCITY_VERSION": "2026.1"}, {"GITHUB_ACTIONS": "true"}])
def test_no_service_that_listens_finds_a_command(service, monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    for name, value in service.items():
        monkeypatch.setenv(name, value)
    said, stream = "a ##vso[task.complete] ##teamcity[x] ##[error] ##VSO[x]\n::error::x\n", io.StringIO()
    assert output.listens()
    err = output.NoCommands(stream)
    err.write(said)
    err.flush()
    assert not re.search(r"##(vso|teamcity)?\[|^::", stream.getvalue(), re.M | re.I)
    assert json.loads(output.no_command(json.dumps(said), json=True)) == said
    assert not re.search(r"##(vso|teamcity)?\[", output.no_command(json.dumps(said), json=True), re.I)


def test_a_bar_that_is_drawn_obeys_nothing(tmp_path):
    asked = from_a_server(tmp_path, err=Terminal, TERM="xterm", COLUMNS="100", GITHUB_ACTIONS="")
    assert "first divergence" in asked.err and "\x1b[" in asked.err
    assert (
        not unseen(without_colours(asked.err), "\n\r")
        and forges_a_verdict(without_colours(asked.err).replace("\r", "\n")) == []
    )


def without_colours(text):
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


def test_a_word_that_a_model_said_begins_no_line_beside_a_bar(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for pad in range(62, 82):
        found = SimpleNamespace(sentence="x" * pad + " " + FORGED, arm=SimpleNamespace(role=Role.GATES))
        with contextlib.redirect_stderr(Terminal()) as err, progress.bar() as callback:
            callback(Progress(1, 2, found=(found,)))
        said = without_colours(err.text())
        assert forges_a_verdict(said.replace("\r", "\n")) == [] and " ".join(FORGED.split()) in " ".join(said.split())


OURS = re.compile(r"<!-- -->|</?(code|details|summary)>|<details><summary>.*</summary>|</details>")


class Shown(html.parser.HTMLParser):
    """Texts that GitHub looks for mentions and emoji in: parted by tags and comments, not within code."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.wrong, self.inside = [""], [], 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.wrong += [(tag, attrs)] * (
            bool(attrs) and tag not in ("code", "td", "th")
        )  # a fence's language, a column's side
        self.inside += tag in ("code", "pre")
        self.texts.append("")

    def handle_endtag(self, tag):
        self.inside -= tag in ("code", "pre")
        self.texts.append("")

    def handle_comment(self, data):
        self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += "" if self.inside else data


def markdown(text):
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def tokens(found):
    for token in found:
        yield token
        yield from tokens(token.children or ())


def marks(text, verdict):
    """What of a Markdown text is not ours."""
    parser = markdown(text)
    found, wrong = list(tokens(parser.parse(text))), []
    for before, token in zip([None, *found], found, strict=False):
        if token.type in ("link_open", "image", "code_block", "hr", "s_open", "em_open"):
            wrong.append((token.type, token.content, token.attrs))
        if token.type in ("html_inline", "html_block"):
            wrong += [
                ("html", part)
                for part in token.content.splitlines()
                if part.strip() and not OURS.fullmatch(part.strip())
            ]
        if token.type == "fence" and token.info != "text":
            wrong.append(("fence", token.info))
        if token.type == "inline" and before is not None and before.type == "heading_open":
            wrong += (
                [("heading", token.content)] if token.content.startswith(("identical", "detcheck: identical")) else []
            )
            wrong += (
                [("title", token.content)] if before.tag == "h1" and token.content != f"detcheck: {verdict}" else []
            )
    shown = Shown(parser.render(text))
    wrong += shown.wrong
    for said in shown.texts:
        wrong += [("github", m[0]) for m in re.finditer(r"(?<!\w)@\w+|#\d+|(?<!:):[a-z_]+:(?!:)", said)]
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.S | re.M)
    return wrong + re.findall(r"https?://|www\.|mailto:", re.sub(r"`[^`]+`", "", outside))


@every_entrance
def test_markdown_has_no_mark_link_mention_or_heading_that_is_not_ours(entered, entrance):
    asked = entered(entrance)
    text = rendered(asked.made, "md")
    assert MARK in text and not unseen(text)
    assert marks(text, asked.made.verdict) == []
    assert marks(asked.summary, asked.made.verdict) == []  # GitHub's, as the command wrote it


@pytest.mark.parametrize(
    "text",
    [
        "[a](http://x)",
        "<b>x</b>",
        "# detcheck: identical",
        "@someone",
        ":smile:",
        "~~~\nx\n~~~",
        "![](x)",
        "x\n\n---\n",
    ],
)
def test_a_mark_that_slips_in_is_seen(text):
    assert marks(text, "divergent")


@pytest.fixture(scope="module")
def page(entered):
    """A browser's page that notes whatever ran, was refused or was asked for. What is asked runs before: Playwright has an event loop of its own."""
    for name in ENTRANCES:
        entered(name)
    with browsers.opened() as browser:
        page = browser.new_context(offline=True).new_page()
        page.noted = []
        page.add_init_script(
            "addEventListener('securitypolicyviolation', e => (window.refused ??= []).push(e.violatedDirective))"
        )
        page.on("console", lambda message: page.noted.append(message.text))
        page.on("pageerror", lambda error: page.noted.append(str(error)))
        page.on("dialog", lambda dialog: page.noted.append(dialog.message))
        page.on(
            "request",
            lambda request: page.noted.extend([request.url] * (not request.url.startswith(("file:", "data:")))),
        )
        page.on(
            "framenavigated",
            lambda frame: page.noted.extend([frame.url] * (not frame.url.startswith(("file:", "about:")))),
        )
        yield page


def opened(page, tmp_path, text):
    """What happened when that was opened, and all was unfolded."""
    file = tmp_path / "page.html"
    file.write_text(text, "utf-8")
    page.noted.clear()
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    for select in page.locator("select").all():
        for n in range(min(select.locator("option").count(), 12)):
            select.select_option(index=n)
    return [*page.noted, *page.evaluate("[window.pwned, parent.pwned, ...(window.refused ?? [])].filter(Boolean)")]


@pytest.mark.browser
@every_entrance
def test_a_page_runs_nothing_loads_nothing_and_links_nowhere_else(entered, entrance, page, tmp_path):
    made = entered(entrance).made
    text = rendered(made, "html")
    assert opened(page, tmp_path, text) == []
    assert page.locator("script").count() == (not isinstance(made, Suite))
    assert (
        page.locator(
            ":is(img, iframe, object, embed, form, base, body style, body link, body meta, svg[onload], input)"
        ).count()
        == 0
    )
    links = page.evaluate("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    assert all(re.fullmatch(r"#[\w-]+|[\w.-]+/report\.html", link) for link in links), links
    assert not [
        a
        for a in page.evaluate("[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())")
        if a.startswith("on")
    ]
    said = page.locator("body").text_content()
    assert MARK in said and not unseen(said.replace("\n", ""), "\t")
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert (
        policy.startswith("default-src 'none'; ")
        and "base-uri 'none'; form-action 'none'" in policy
        and "script-src 'unsafe" not in policy
    )
    assert page.locator("h1").inner_text() == f"detcheck: {made.verdict}"


@pytest.mark.browser
def test_what_slips_in_is_refused_by_the_policy_and_seen(entered, page, tmp_path):
    for name in ("file", "config"):
        slipped = rendered(entered(name).made, "html").replace("<main>", f"<main>{PAYLOADS['script']}{PAYLOADS['svg']}")
        assert any(
            str(one).startswith(("script-src", "img-src", "default-src")) for one in opened(page, tmp_path, slipped)
        )
        assert page.evaluate("window.pwned ?? null") is None


@pytest.mark.browser
@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name != "config"])
def test_a_notebook_runs_nothing(entered, entrance, page, tmp_path):
    """A notebook has no policy of its own: only that nothing is markup."""
    run = api.Run(entered(entrance).made)
    assert opened(page, tmp_path, f"<!doctype html><title>x</title><body>{run._repr_html_()}") == []
    tags = page.evaluate("[...new Set([...document.body.querySelectorAll('*')].map(e => e.tagName))]")
    assert set(tags) <= {"DIV", "B", "CODE", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD", "A"}
    said = page.locator("body").text_content()
    assert (
        (MARK in said or entrance == "logprobs")
        and not unseen(said, "\n")
        and not unseen(repr(run))
        and forges_a_verdict(repr(run)) == []
    )
    assert opened(page, tmp_path, f"<!doctype html><title>x</title><body>{run.findings.to_html()}") == []


@every_entrance
def test_xml_has_the_cases_that_are_ours(entered, entrance):
    made = entered(entrance).made
    text = rendered(made, "junit")
    assert "<!DOCTYPE" not in text and MARK in text and not unseen(text)
    root = ET.fromstring(text)
    cases = root.findall(".//testcase")
    reports = [m.report for m in made.members] if isinstance(made, Suite) else [described(made)]
    sections = [section for report in reports for section in report.sections]
    assert len(cases) == len(sections) == sum(int(suite.get("tests")) for suite in root.iter("testsuite"))
    for found, section in zip(cases, sections, strict=True):
        ill = [one.tag for one in found if one.tag in ("failure", "error")]
        assert bool(ill) == bool(section.finding.verdict.exit_code)
    assert {one.tag for one in root.iter()} <= {
        "testsuites",
        "testsuite",
        "testcase",
        "failure",
        "error",
        "system-out",
        "properties",
        "property",
    }


@every_entrance
def test_sarif_links_nowhere_and_names_no_file_outside(entered, entrance):
    text = rendered(entered(entrance).made, "sarif")
    assert not unseen(text) and (MARK in text or entrance == "logprobs")
    for run in json.loads(text)["runs"]:
        said = [
            one["message"]["text"] for one in (*run["results"], *run["invocations"][0]["toolExecutionNotifications"])
        ]
        link = re.compile(r"(?:^|[^\\])\[(?:\\.|[^\]\\])*\]\(.*?\)")  # as Microsoft's viewer looks for one
        assert not [one for one in said if link.search(one)]
        for result in run["results"]:
            (place,) = result["locations"]
            assert ".." not in place["physicalLocation"]["artifactLocation"]["uri"]
    assert json.loads(text)["version"] == "2.1.0"


@every_entrance
def test_json_has_one_verdict(entered, entrance):
    made = entered(entrance).made
    text = rendered(made, "json")

    def once(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    read = json.loads(text, object_pairs_hook=once)
    assert (read["verdict"], read["exit_code"]) == (made.verdict, made.exit_code) and text.isascii()


@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name != "config"])
def test_tables_keep_what_was_said_and_a_csv_of_them_has_their_rows(entered, entrance):
    """Tables are data: nothing in them is changed. In the file no text makes a row or a cell of its own."""
    asked = entered(entrance)
    run = api.Run(asked.made)
    with contextlib.chdir(asked.folder):
        tables = (run.findings, run.outcomes, run.observations, run.conditions)
    for table in tables:
        out = io.StringIO()
        table.to_csv(out, index=False, quoting=csv.QUOTE_ALL)  # pandas leaves a lone carriage return bare otherwise
        head, *rows = csv.reader(io.StringIO(out.getvalue(), newline=""), strict=True)
        assert head == list(table.columns) and len(rows) == len(table) and all(len(row) == len(head) for row in rows)
    if entrance == "server":
        assert len({*TEXTS} & {*run.outcomes["text"]}) > 20


@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name != "config"])
def test_a_picture_draws_just_the_text(entered, entrance):
    from matplotlib import cbook
    from matplotlib.figure import Figure

    made = entered(entrance).made
    findings = tuple(
        replace(f, case=replace(f.case, subject=text, input=f"{n}:{text}"))
        for f, (n, text) in zip(
            worst_first(made)[:1] * 5,
            enumerate(
                [NAME[-400:], *(PAYLOADS[n] for n in ("mathtext", "leading underscore", "lone surrogates", "bidi"))]
            ),
            strict=False,
        )
    )
    run = api.Run(replace(made, findings=findings))
    for kind in ("histogram", "survival", "verdicts", "curve", "time"):
        figure = Figure()
        ax = figure.add_subplot()
        with contextlib.suppress(api.UsageError):
            run.plot(kind, ax=ax)
            figure.savefig(io.BytesIO(), format="svg")
            labels = [text.get_text() for text in (ax.get_legend().get_texts() if ax.get_legend() else ())]
            assert not any(
                cbook.is_math_text(one) if hasattr(cbook, "is_math_text") else ax.xaxis.label._preprocess_math(one)[1]
                for one in labels
            )
            assert not any(unseen(one) for one in labels) and len(labels) in (0, 2, len(findings))


def test_a_traceback_holds_no_line_of_ours(capsys):
    from detcheck import stderr

    try:
        raise RuntimeError(ALL)
    except RuntimeError:
        stderr.trace()
    said = capsys.readouterr().err
    assert "RuntimeError" in said and not unseen(said) and all(line.startswith("  ") for line in said.splitlines())


def test_the_pytest_summary_shows_a_name_as_it_is():
    from detcheck.pytest_plugin import said

    shown = said({"function": ALL, "batch_sizes": [1, 2], "calls": 4, "max_ulp": None, "max_abs": None})
    assert MARK in shown and not unseen(shown, "")


def test_every_payload_is_one():
    """Those that hide nothing are for the other readers."""
    assert sum(bool(unseen(text, "")) for text in TEXTS) > 15
    assert all(MARK in text for text in TEXTS) and Verdict.IDENTICAL in FORGED
