"""What a configuration, a stored run or a checkout names leads out of no folder: nothing is written elsewhere, whatever it is called."""

import json
import os
import shutil
from pathlib import Path

import pytest

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.files import in_repository, write_file
from detcheck.storage.folder import RunFolder

STORED = Path(__file__).parents[1] / "stored"
FORMATS = ("terminal", "json", "md", "html", "junit", "sarif")


@pytest.fixture
def outside(tmp_path):
    """What lies beside the folder that is worked in, of which nothing may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("as it was")
    return folder


@pytest.fixture
def inside(tmp_path, outside, monkeypatch, detcheck):
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"precious": "as it was"}
    assert {path.name for path in tmp_path.iterdir()} == {"inside", "outside"}


def snapshot(folder):
    """Every file in there, its time and its bytes."""
    return {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


JUDGED = '\nprobe = "judge"\nfile = "c.jsonl"\nallow-unseen-batch = true\n'


def asked(inside, text):
    (inside / "c.jsonl").write_text('{"tokens": [1, 2], "batch_size": 1}\n{"tokens": [1, 2], "batch_size": 2}\n')
    (inside / "detcheck.toml").write_text(text)


FOLDERS = [
    "..", "../outside", "runs/../../outside", "/tmp/detcheck-elsewhere", "link", "link/deeper", "circle", "a\\u0000b", "x" * 5000, "x/" * 3000,
    "./runs/../../inside/../outside", "~/../../outside/x/../..//../outside",
]  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda text: text[:24])
def test_the_output_folder_of_a_config_stays_in_its_folder(detcheck, inside, outside, folder):
    (inside / "link").symlink_to(outside, target_is_directory=True)
    (inside / "circle").symlink_to(inside / "circle")
    asked(inside, f'output-dir = "{folder}"\n[probes.a]{JUDGED}')
    result = detcheck("check")
    assert (
        result.code == 2 and "output-dir" in result.err and "Traceback" not in result.err and len(result.err) < 6500
    ), result.err
    assert not (inside / "runs").exists() and not Path("/tmp/detcheck-elsewhere").exists()


NAMES = [
    "../outside/x", "..", ".", "/tmp/x", "a/b", "a\\\\b", "C:\\\\x", "C:x", "a\\u0000", "a\\nb", "", "x" * 101, "\\u202e", "con:", "index.html", "a b", "~", "-x", ".x",
    "report.json", "SUMMARY.md",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_the_name_of_a_question_is_a_folders_name_and_nothing_else(detcheck, inside, name):
    asked(inside, f'[probes."{name}"]{JUDGED}')
    result = detcheck("check")
    assert result.code == 2 and "Traceback" not in result.err, result.err
    assert not (inside / "runs").exists()


def test_what_check_writes_is_new_and_what_was_there_stays(detcheck, inside):
    asked(inside, f"[probes.a]{JUDGED}[probes.b]{JUDGED}")
    assert detcheck("check").code == 0
    before = snapshot(inside)
    assert detcheck("check").code == 0
    after = snapshot(inside)
    assert {path: after[path] for path in before if path.name != "runs"} == {
        path: one for path, one in before.items() if path.name != "runs"
    }
    first, second = sorted((inside / "runs").iterdir())
    assert {p.relative_to(first) for p in first.rglob("*")} == {p.relative_to(second) for p in second.rglob("*")}


def hostile_run(inside, outside):
    """A stored run whose every text leads out, and whose parts are links."""
    run = shutil.copytree(STORED / "completions-stock" / "run", inside / "run")
    head = json.loads((run / "run.json").read_text())
    out = str(outside / "precious")

    def led_out(value):
        if isinstance(value, dict):
            return {name: led_out(one) for name, one in value.items()}
        return out if isinstance(value, str) else value

    head["environment"] |= {
        name: led_out(head["environment"][name]) for name in ("packages", "flags", "variables", "device")
    }
    head |= {
        "command": out,
        "sources": {"amplifier": {"file": f"../../..{out}", "line": 1}},
        "digests": {out: "0" * 64},
    }
    head["output_dir"] = head["path"] = head["parts"] = out
    (run / "run.json").write_text(json.dumps(head))
    return run


@pytest.mark.parametrize("format", FORMATS)
def test_to_show_a_stored_run_writes_nothing(detcheck, inside, outside, format):
    run = hostile_run(inside, outside)
    for name in ("report.html", "report.json", "baseline.json", "junit.xml", "report.md.tmp"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside / "precious")
    before = snapshot(inside)
    result = detcheck("report", "run", "--format", format)
    assert result.code == 1 and snapshot(inside) == before and "as it was" not in result.out


@pytest.mark.parametrize(
    "planted",
    [
        "lock",
        "run.json.tmp",
        "end.json.tmp",
        "report.html",
        "observations",
        "outcomes/00007.parquet.tmp",
        "observations/00001.parquet",
    ],
)
def test_a_run_that_goes_on_is_not_written_through_a_link(detcheck, inside, outside, planted):
    run = hostile_run(inside, outside)
    (run / planted).unlink(missing_ok=True) if planted != "observations" else shutil.rmtree(run / planted)
    (run / planted).symlink_to(outside if planted == "observations" else outside / "precious")
    result = detcheck("completions", "--resume", "run")
    assert result.code == 2 and "is a link, and a run that goes on is written there" in result.err, result.err


def test_a_link_at_a_files_name_is_replaced_and_leads_nowhere(inside, outside):
    for name in ("a", "a.tmp"):
        (inside / name).symlink_to(outside / "precious")
    write_file(inside / "a", b"new")
    assert (inside / "a").read_bytes() == b"new" and not (inside / "a").is_symlink() and not (inside / "a.tmp").exists()


def test_a_pipe_in_a_run_is_no_part_of_it(detcheck, inside, outside):
    """Whoever opens one waits for ever."""
    run = hostile_run(inside, outside)
    (run / "end.json").unlink()
    for name in ("end.json", "outcomes/99999.parquet"):
        os.mkfifo(run / name)
    result = detcheck("report", "run")
    assert result.code == 1 and "outcomes/99999.parquet is no file, and is not read" in " ".join(result.out.split())
    os.mkfifo(inside / "baseline.json")
    refused = detcheck("compare", "baseline.json", "run")
    assert refused.code == 2 and "Traceback" not in refused.err


@pytest.mark.parametrize("name", ["detcheck.toml", "pyproject.toml"])
@pytest.mark.parametrize("there", [True, False])
def test_init_does_not_write_through_a_link_of_the_checkout(detcheck, inside, outside, name, there):
    (inside / name).symlink_to(outside / ("precious" if there else "not-there"))
    more = ("--force",) if name == "detcheck.toml" else ("--pyproject",)
    result = detcheck("init", *more)
    assert result.code == 2 and "Traceback" not in result.err, result.err


def test_a_run_of_any_name_is_made_in_the_folder_that_was_asked_for(inside, outside):
    """Names come from the file, whose names are checked; here what is left if one were not."""
    with pytest.raises(UsageError):
        RunFolder.create(inside / "runs", "completions", "x" * 300)
    assert in_repository("a/b.py") and not any(map(in_repository, ("../a", "/a", "a/../../b")))


def test_a_run_is_read_by_its_folder_alone(inside, outside):
    """No part is looked for where run.json says."""
    run = runner.load(hostile_run(inside, outside))
    assert run.path == inside / "run" and sum(f.samples for f in run.findings) == 12
