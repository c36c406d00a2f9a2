"""The side-by-side script runs for detcheck alone, and finds it right; where a tool is wrong it says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "benchmarks" / "side_by_side.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd=ROOT)


def test_detcheck_alone_is_right_about_a_sound_server_and_one_whose_answers_follow_the_batch(tmp_path):
    done = run("--subjects", "sound,batch", "--samples", "16", "--output", str(tmp_path / "table.md"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right, exit 0" in next(line for line in done.stdout.splitlines() if line.startswith("| `sound`"))
    assert "right, exit 1" in next(line for line in done.stdout.splitlines() if line.startswith("| `batch`"))
    assert (tmp_path / "table.md").read_text() == done.stdout


def test_a_wrong_answer_is_called_wrong(monkeypatch, tmp_path):
    """The table's own check: a tool that passes everything is right about what is sound, and wrong about a fault that it asks about."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import side_by_side
    from side_by_side_server import SERVERS
    from side_by_side_tools import Tool, Where

    faults = {fault.name: fault for fault in SERVERS}
    tool = Tool("yes", "", frozenset({"sound", "batch"}), 50, None, lambda at, codes, output: ("equal", "all is well"))
    at = Where("http://nowhere", True, sys.executable, tmp_path)
    judged = [side_by_side.cell(tool, faults[name], at, [0], "", 0.0, []).judged for name in ("sound", "batch", "rare")]
    assert judged == ["right", "wrong", "does not ask"]


@pytest.mark.parametrize(
    ("fault", "codes", "output", "judged", "status"),
    [
        ("batch", [1], '{"verdict": "batch-variant", "findings": []}', "right", 0),
        ("batch", [1], '{"verdict": "wrong", "findings": []}', "wrong", 1),  # the exit code alone is not enough
        ("batch", [0], '{"verdict": "identical", "findings": []}', "wrong", 1),
        ("batch", [4], '{"verdict": "failed", "findings": []}', "no answer", 1),
        ("sound", [1], "Traceback (most recent call last)", "no answer", 1),
        ("sound", [124], "no answer within 600 s", "no answer", 1),
        ("rare", [1], '{"verdict": "batch-variant", "findings": []}', "wrong", 1),
        ("swap", [1], '{"verdict": "run-variant", "findings": []}', "right", 0),
    ],
)
def test_of_detcheck_the_verdict_counts_and_no_answer_is_no_success(
    fault, codes, output, judged, status, monkeypatch, tmp_path
):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import side_by_side
    from side_by_side_server import SERVERS
    from side_by_side_tools import TOOLS, Where

    (one,) = (f for f in SERVERS if f.name == fault)
    at = Where("http://nowhere", True, sys.executable, tmp_path)
    cell = side_by_side.cell(TOOLS["detcheck"], one, at, codes, output, 0.0, [])
    assert cell.judged == judged
    assert side_by_side.status({(fault, "detcheck"): cell}, [one]) == status


def test_answers_of_another_version_are_asked_for_again(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import side_by_side

    cell = {"judged": "right", "codes": [0], "line": "", "seconds": 1.0, "commands": []}
    rows = [("sound", {"version": "1", "date": "2026-11-29"}), ("batch", {"version": "2", "date": "2026-11-30"})]
    rows = [[fault, "detcheck", cell | more] for fault, more in [*rows, ("rare", {})]]  # the last says no version
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = side_by_side.read_results(file, {"detcheck": "2"}, ["sound", "batch", "rare"])
    assert list(found) == [("batch", "detcheck")]
    assert list(side_by_side.asked_when(found, ["detcheck"])) == ["detcheck 2, 2026-11-30"]


def test_a_cache_whose_answers_have_new_ids_is_seen_by_the_counts_of_the_server_behind_it(monkeypatch, detcheck):
    """Nothing but the server's own counts tells: they grow by less than it answers."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setattr("detcheck.engines.server.send.LATE_S", 3.0)
    from side_by_side_server import SERVERS, serving

    faults = {fault.name: fault for fault in SERVERS}
    asked = ("-n", "12", "--max-tokens", "8", "--allow-unseen-batch", "--format", "json", "-q")
    with serving(faults["cache"]) as server:
        cached = detcheck("completions", "--base-url", server.url, *asked)
    with serving(faults["sound"]) as server:
        sound = detcheck("completions", "--base-url", server.url, *asked)
    (finding,) = json.loads(cached.out)["findings"]
    assert (cached.code, finding["verdict"]) == (3, "inconclusive")
    assert "the server's own counts in /metrics grew by less than the answers of its step" in finding["note"]
    assert finding["missing"] >= 4
    assert sound.code == 0, sound.out


def test_an_unknown_subject_or_tool_is_refused_in_words():
    assert "there is no weather" in run("--subjects", "weather").stderr
    assert "expected one of detcheck" in run("--tool", "nothing=/nowhere").stderr
