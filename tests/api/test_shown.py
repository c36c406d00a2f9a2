"""How a run looks in a notebook: plots by kind, HTML that is escaped and runs nothing, text for a console. Stored runs, no torch."""

import html.parser
import io
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest

mpl.use("Agg")

import detcheck
from detcheck.api import plots
from detcheck.errors import UsageError

STORED = Path(__file__).parents[1] / "stored"
RUNS = sorted(path.parent.name for path in STORED.glob("*/run"))


def load(name):
    return detcheck.load(STORED / name / "run")


@pytest.fixture(autouse=True)
def closed():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.mark.parametrize("name", RUNS)
def test_every_stored_run_has_its_tables_and_pictures(name):
    run = load(name)
    assert len(run.findings) == len(run.record.findings) and run.observations["outcome"].isin(run.outcomes["id"]).sum()
    assert run.conditions["samples"].sum() == sum(
        c["samples"] for f in run.record.findings for c in f.evidence.get("conditions", {}).values()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in plots.kinds(run.record):
            run.plot(kind).figure.canvas.draw()


def test_a_histogram_has_the_counts_of_the_finding():
    run = load("completions-both")
    stock = next(f for f in run.record.findings if f.histogram)
    ax = run.plot()
    assert [bar.get_height() for bar in ax.patches] == [count for _, count in stock.histogram]
    assert ax.get_xlabel() == "first token that leaves the most common one"
    assert [t.get_text() for t in ax.get_xticklabels()] == [str(index) for index, _ in stock.histogram]


def test_survival_ends_at_the_share_of_the_mode():
    run = load("completions-both")
    lines = {line.get_label(): line.get_ydata() for line in run.plot("survival").lines}
    for f in run.record.findings:
        drawn = next(y for label, y in lines.items() if f" {f.case.kernels} " in label)
        assert drawn[0] == 1 and drawn[-1] == pytest.approx(f.mode_count / f.samples)


def test_other_kinds_draw_what_the_findings_hold():
    from matplotlib.figure import Figure

    mine = Figure().add_subplot()
    run = load("kernels")
    assert run.plot("time", ax=mine) is mine and mine.get_xlabel() == "batch size, rows"
    sizes = next(f for f in run.record.findings if f.case.kernels == "batch-invariant").evidence["sizes"]
    drawn = {line.get_label().split(":")[0]: list(line.get_ydata()) for line in mine.lines}
    assert drawn == {whose: [s[f"{whose}_ms"] for s in sizes.values() if "ours_ms" in s] for whose in ("stock", "ours")}
    batch = load("batch").plot("conditions")  # stock is alone in having other bits in batches, ours nowhere
    bars = {box.get_label().split(" · ")[1]: [bar.get_height() for bar in box] for box in batch.containers}
    assert set(bars["batch-invariant"]) == {0} and max(bars["stock"]) == 1 and len(bars["stock"]) == 5
    assert load("logprobs").plot("curve").get_yscale() == "log"
    assert [bar.get_width() for bar in load("bisect").plot().patches] == [len(load("bisect").findings)]


def test_a_kind_that_is_not_there_names_those_that_are():
    with pytest.raises(UsageError, match=r"this run of certify has no plot 'histogram'; it has verdicts\.$"):
        load("certify").plot("histogram")
    with pytest.raises(
        UsageError, match=r"it has conditions, survival and verdicts\. All kinds are histogram, curve, time"
    ):
        load("matmul").plot("pie")


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src") or name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def test_the_page_is_escaped_and_runs_nothing(tmp_path, monkeypatch):
    hostile = "<script>alert(1)</script>\x1b[31m"
    folder = tmp_path / "a b&c"
    shutil.copytree(STORED / "completions-both" / "run", folder)
    (folder / "report.html").write_text("")
    monkeypatch.chdir(tmp_path)
    run = detcheck.load("a b&c")
    bad = [replace(f, note=hostile, case=replace(f.case, subject=hostile)) for f in run.record.findings]
    run = detcheck.Run(replace(run.record, findings=tuple(bad) * 5, warnings=(hostile,)))
    page = Page(run._repr_html_())
    assert set(page.tags) == {"div", "b", "code", "table", "thead", "tbody", "tr", "th", "td", "a"}
    assert page.links == ["a%20b%26c/report.html"]
    assert page.text.count("<script>alert(1)</script>") == 8 * 2 + 1 and "\x1b" not in page.text
    assert "and 2 more: see .findings" in page.text and page.text.startswith(str(run.verdict))


def test_a_console_shows_the_same():
    from rich.console import Console

    run = load("completions-both")
    assert repr(run).startswith("<detcheck.Run completions: identical, exit code 0, in ") and "batch-variant: " in repr(
        run
    )
    out = io.StringIO()
    Console(file=out, width=150).print(run)
    assert re.search(r"identical +amplifier · batch-invariant", out.getvalue()) and "(control)" in out.getvalue()
    assert "<table>" in run._repr_html_() and run.report("md").startswith("#")
    with pytest.raises(UsageError, match="there is no 'doc' among the formats"):
        run.report("doc")
