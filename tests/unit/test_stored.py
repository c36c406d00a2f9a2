"""Runs that earlier versions stored: each is still read, judged and shown, and says what it said.

`tests/stored/<name>/run` is a run's folder as version 0.1.0 wrote it in November 2026, and is never made again: it shows that old runs
stay readable. The files beside it are what detcheck says of it now. After a change that means to say something else, write them
with `python tests/unit/test_stored.py` and read the difference line by line before you commit it.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from detcheck import __version__, lookup, runner
from detcheck.finding import Finding, Run
from detcheck.probe import Probe
from detcheck.records import Case
from detcheck.report import render
from detcheck.spec import Spec
from detcheck.verdict import Verdict

STORED = Path(__file__).parents[1] / "stored"
NAMES = sorted(path.parent.name for path in STORED.glob("*/run"))
FORMATS = {
    "terminal": "terminal.txt",
    "json": "report.json",
    "md": "report.md",
    "html": "report.html",
    "junit": "junit.xml",
}
PAGES = {
    "completions-stock",
    "kernels",
    "order",
    "certify-refuted",
    "bisect",
}  # whose page is compared too: they are large


def without_style(page):
    """What a page says, without how it looks and its script: `tests/formats/test_page.py` looks at these in a browser."""
    page = re.sub(r"<(style|script)>.*?</\1>", r"<\1/>", page, flags=re.S)
    return re.sub(r"'sha256-[^']+'", "'sha256'", page)


def said(name, parent=STORED):
    """File name -> what is said of the stored run of that name."""
    before, columns = Path.cwd(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    os.chdir(parent / name)
    try:
        run = runner.load("run")
        found = {
            file: render(run, format).replace(f"detcheck {__version__}", "detcheck VERSION")
            for format, file in FORMATS.items()
        }
        found["report.json"] = found["report.json"].replace(
            f'"detcheck_version": "{__version__}"', '"detcheck_version": "VERSION"'
        )
        found["report.html"] = without_style(found["report.html"])
        if name not in PAGES:
            del found["report.html"]
        return found | {"exit_code.txt": f"{run.verdict} {run.exit_code}\n"}
    finally:
        os.chdir(before)
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_run_says_what_it_said(name):
    for file, text in said(name).items():
        assert text == (STORED / name / file).read_text("utf-8"), file


def test_every_probe_is_among_them():
    probes = {json.loads((STORED / name / "run" / "run.json").read_text())["probe"] for name in NAMES}
    assert probes == {"completions", "batch", "kernels", "matmul", "order", "certify", "bisect", "score", "logprobs"}


def test_another_outcome_is_seen(tmp_path):
    """A snapshot that says the same of any run would be no test."""
    shutil.copytree(STORED / "matmul", tmp_path / "matmul")
    for part in (tmp_path / "matmul" / "run" / "observations").glob("*.parquet"):
        part.unlink()
    found = said("matmul", tmp_path)
    assert found["exit_code.txt"] == "inconclusive 3\n"
    assert all(found[file] != (STORED / "matmul" / file).read_text("utf-8") for file in found)


@pytest.mark.parametrize("name", lookup.names("probes"))
def test_a_run_that_could_not_begin_is_shown_in_every_format(name):
    """Nothing was observed, so there is none of what a probe's own description is made of."""
    why = "there is no torch here"
    finding = Finding(Case(name, "subject", "stock", "float32", ""), Verdict.FAILED, why)
    run = Run(Spec(name, Probe(name).options()), f"detcheck {name}", "2026-11-27T00:00:00Z", (finding,))
    for format in FORMATS:
        assert "failed" in render(run, format), format


if __name__ == "__main__":
    for each in NAMES:
        for file, text in said(each).items():
            (STORED / each / file).write_text(text, "utf-8")
