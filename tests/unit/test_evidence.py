"""Counts of kernels that a vLLM server's processes share through files. Needs no vLLM; the server itself is in test_vllm_server.py."""

import json
import shutil
import threading
import time

from detcheck.engines.vllm.process import environment
from detcheck.engines.vllm.worker import counters


def test_counts_of_all_processes_are_added_up_until_the_folder_is_gone(tmp_path):
    folder = tmp_path / "evidence"
    folder.mkdir()
    (folder / "1.json").write_text(json.dumps({"ours vllm::linear": 2, "stock aten::mm": 1}))
    (folder / "2.json").write_text("{")  # half written
    counts = {"ours vllm::linear": 3}
    counters.start_writing(folder, lambda: counts)
    until = time.monotonic() + 10
    while counters.total(folder).get("ours vllm::linear") != 5 and time.monotonic() < until:
        time.sleep(0.02)
    assert counters.total(folder) == {"ours vllm::linear": 5, "stock aten::mm": 1}
    counts["ours vllm::linear"] = 4
    while counters.total(folder).get("ours vllm::linear") != 6 and time.monotonic() < until:
        time.sleep(0.02)
    assert counters.total(folder)["ours vllm::linear"] == 6
    shutil.rmtree(folder)
    (writer,) = (t for t in threading.enumerate() if t.name == "detcheck-evidence")
    writer.join(10)
    assert not writer.is_alive()


def test_an_engine_of_our_own_leaves_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(counters.FOLDER, environment("batch-invariant", on_cpu=True)[counters.FOLDER])
    counters.share(dict)
    assert not list(tmp_path.iterdir()) and not [t for t in threading.enumerate() if t.name == "detcheck-evidence"]
