"""benchmarks/gpu_proof.py rehearsed on the CPU: on the one occasion when a GPU is at hand, no part may fail for a reason of its own."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import gpu_parts
import gpu_proof
import pytest
import warm

ROOT = Path(__file__).resolve().parents[2]


def proof(out, *words):
    command = [sys.executable, ROOT / "benchmarks" / "gpu_proof.py", "--out", out, "--device", "cpu", "--small", *words]
    # One thread: two processes that each want all cores slow each other down. And nothing is installed there: a checkout has to do.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)


def table(out):
    lines = [line.split(" | ") for line in (out / "summary.md").read_text().splitlines()[2:]]
    return {line[0].strip("| "): line[-1].strip(" |") for line in lines}


def test_every_part_has_its_code_and_its_limit():
    assert list(gpu_proof.PARTS) == [name for name in gpu_proof.PARTS if hasattr(gpu_parts, name)]
    assert set(gpu_proof.PARTS) == {part.__name__ for part in gpu_parts.PARTS}


def test_the_rehearsal(tmp_path, monkeypatch, capsys):
    """All parts. What is asked of a device, and is not there, is skipped and told of; nothing is not as expected."""
    pytest.importorskip("triton")
    monkeypatch.setattr(gpu_proof, "subprocess", warm.instead())
    asked = {"out": tmp_path, "minutes": 30, "device": "cpu", "small": True, "together": 1, "parts": ""}
    code = gpu_proof.main(argparse.Namespace(**asked))
    found = table(tmp_path)
    assert code == 0, capsys.readouterr().out
    timed = list(gpu_proof.TIMED)
    assert list(found) == [name for name in gpu_proof.PARTS if name not in timed] + timed  # these alone, at the end
    for name in gpu_proof.PARTS:
        written = json.loads((tmp_path / f"{name}.json").read_text())
        assert written["ok"] is True and written["line"] != "began", name
        assert (tmp_path / f"{name}.log").is_file()
    assert "batch-invariant float32: identical" in found["amplifier"] and "skipped" in found["tests"]
    assert json.loads((tmp_path / "device.json").read_text())["facts"]["environment"]["packages"]["torch"]


def test_a_part_that_is_cut_off_loses_itself_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_proof, "PARTS", gpu_proof.PARTS | {"amplifier": (0.5, "too long")})
    monkeypatch.setattr(gpu_proof, "SLOWER", 1)
    asked = {"out": tmp_path, "minutes": 1, "device": "cpu", "small": True, "together": 1}
    assert gpu_proof.main(argparse.Namespace(**asked, parts="amplifier,device")) == 0
    found = table(tmp_path)
    assert found["amplifier"].startswith("(not known) cut off after") and "ops right" in found["device"]
    assert gpu_proof.main(argparse.Namespace(**asked | {"minutes": 0.01}, parts="device")) == 0
    assert table(tmp_path) == {"device": "(not known) no time left"}


def test_what_is_not_as_expected_is_marked(tmp_path):
    """A detector of one's own failures: a folder where a model should be, without one."""
    (tmp_path / "qwen3").mkdir()
    (tmp_path / "qwen3" / "config.json").write_text("{}")
    done = proof(tmp_path, "--minutes", 5, "--parts", "qwen3")
    assert done.returncode == 1 and "**NOT AS EXPECTED**" in table(tmp_path)["qwen3"]


def test_a_part_that_does_not_exist(tmp_path):
    done = proof(tmp_path, "--parts", "speed,quantum")
    assert done.returncode != 0 and "quantum" in done.stderr and "speed" in done.stderr
