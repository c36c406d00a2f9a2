"""Runs of the first days, each by the commit that its folder is named by, say what they said then; `tests/stored/` has later ones.

- c5963d5, 24 November 2026, 04:31: the first run.json; samples have no numbers, and how a run ended is not stored
- 0de8b61, 05:46: numbered samples, end.json, tensors
- 0b7419a, 08:08: calls, steps and traces of engines
- d39b8db, 17:09: a baseline.json as it was before conditions stood in it one by one
"""

import json
import shutil
from pathlib import Path

import pytest
from scripted import SAME, Scripted

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.probes.completions.session import Completions
from detcheck.report import render
from detcheck.storage import baselines

STORED = Path(__file__).with_name("stored")
RUNS = sorted(path.parent for path in STORED.glob("*/run"))


def kind(path):
    return path.name


@pytest.fixture(params=RUNS, ids=kind)
def stored(request, tmp_path):
    shutil.copytree(request.param / "run", tmp_path / "run")
    return tmp_path / "run", json.loads((request.param / "then.json").read_text())


def test_there_are_some_and_they_are_small():
    assert len(RUNS) == 3
    for path in RUNS:
        assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 30_000


def test_a_run_says_what_it_said_then(stored):
    path, then = stored
    run = runner.load(path)
    now = json.loads(render(run, "json"))
    (finding,) = now["findings"]
    assert {name: (now | finding)[name] for name in then} == then | {"verdict": then["verdict"]}
    assert not any("torn" in warning or "damaged" in warning for warning in run.warnings), run.warnings
    for format in ("terminal", "md", "html", "junit", "sarif"):
        assert then["verdict"] in render(run, format) or format in ("junit", "sarif")


def test_a_part_that_is_torn_is_seen_there_too(stored):
    """A reader that passes over what it does not know would pass over this."""
    path, then = stored
    (path / "observations" / "00001.parquet").write_bytes(b"PAR1")
    run = runner.load(path)
    assert run.findings[0].samples < then["samples"] and run.findings[0].missing


def test_it_is_compared_and_kept_as_a_baseline(stored, tmp_path):
    path, _ = stored
    copy = shutil.copytree(path, tmp_path / "copy")
    assert runner.compare(path, copy).exit_code == 0
    baselines.write(tmp_path / "kept.json", runner.baseline_of(path))
    assert runner.compare(tmp_path / "kept.json", path).exit_code == 0


def test_to_go_on_with_it_is_refused_in_words(stored, monkeypatch):
    """Whatever engine is there now: that one is not."""
    path, _ = stored
    open_session = lambda s, planned=None: Completions(s, Scripted(lambda *a: SAME), planned)  # noqa: E731
    monkeypatch.setattr("detcheck.probes.completions.session.open_session", open_session)
    before = sorted(file.name for file in path.rglob("*"))
    with pytest.raises(UsageError, match=r"digest of model: .* then, 0000.*Start a new run"):
        runner.resume(path)
    assert sorted(file.name for file in path.rglob("*") if file.name != "lock") == before


def test_a_baseline_of_the_first_day_is_compared_by_its_outcomes():
    (run,) = [path / "run" for path in RUNS if path.name == "0b7419a"]
    found = runner.compare(STORED / "d39b8db" / "baseline.json", run)
    assert "the commonest outcome is as before (4 samples then, 4 now)" in found.findings[0].note
