"""`detcheck bisect` inside the real vLLM: planted faults are named, innocents are not, and a run's difference is followed to a module."""

import json
from pathlib import Path

import pytest
import warm
from conftest import only_run, sabotage
from models import llama_like

from detcheck.engines.vllm.worker import plugin

HERE = Path(__file__).parents[2] / "doubles"
# On stock kernels, in vLLM's own process: the activation follows the number of rows of a decode step.
GUILTY = """
import detcheck.engines.vllm.worker.plugin as plugin
plain = plugin.register
def register():
    plain()
    from vllm.model_executor.layers.activation import SiluAndMul
    stock = SiluAndMul.forward_cpu
    def forward(self, x):
        out = stock(self, x)
        return out.nextafter(out + 1) if 1 < len(x) < 4 else out
    SiluAndMul.forward_cpu = forward
plugin.register = register
"""


@pytest.mark.usefixtures("needs_vllm")
def test_planted_faults_are_named_with_their_kind_and_nobody_else_is(tmp_path):
    script, model = HERE / "planted_vllm.py", llama_like(tmp_path / "model")
    ran = warm.run_vllm(script, model, 8, kernels="batch-invariant", env={"PYTHONPATH": str(HERE)})
    plants = [json.loads(line[6:]) for line in ran.stdout.splitlines() if line.startswith("plant ")]
    assert len(plants) == 9, ran.stderr[-2000:]
    verdict, note = plants[0]["verdict"]
    assert (plants[0]["found"], verdict) == ([], "identical") and "moved by one ulp changes" in note
    for plant in plants[1:]:
        planted = {}
        for op, pattern, kind, _ in plant["planted"]:
            planted[op, pattern] = "run" if "run" in (kind, planted.get((op, pattern))) else "batch"
        assert {(op, pattern): kind for op, pattern, kind in plant["found"]} == planted, plant
    assert {kind for plant in plants for *_, kind in plant["found"]} == {"run", "batch"}


@pytest.mark.usefixtures("needs_vllm")
def test_a_run_in_vllm_is_followed_to_the_module(detcheck, tmp_path, monkeypatch):
    sabotage(tmp_path, monkeypatch, GUILTY)
    model = llama_like(tmp_path / "model", head_dim=32)
    asked = "-n", 8, "--max-tokens", 4, "--conditions", "alone,wave-2", "--engine", "vllm", "-q"
    result = detcheck("completions", "--model", model, *asked, "--output-dir", "runs")
    assert result.code == 1, result.err + result.out
    result = detcheck("bisect", only_run(tmp_path / "runs"), "--output-dir", "bisected", "-q")
    assert result.code == 1, result.err + result.out
    run = only_run(tmp_path / "bisected")
    report = json.loads((run / "report.json").read_text())
    found = {f["case"]["subject"]: f for f in report["findings"]}
    ours = found["vllm::SiluAndMul"]
    assert (ours["verdict"], ours["case"]["input"]) == ("batch-variant", "model.layers.0.mlp.act_fn")
    culprit = ours["evidence"]["culprit"]
    assert culprit["starts_at"] == 2 and culprit["differing"] == culprit["elements"] == 160
    assert culprit["conditions"] == ["wave-2"] and "DETCHECK_KERNELS=batch-invariant" in culprit["remedy"]
    table = {line["op"]: line for line in report["findings"][0]["evidence"]["calls"]}
    assert table["vllm::RMSNorm"]["innocent"] and not table["vllm::SiluAndMul"]["innocent"]
    assert "--engine" not in json.loads((run / "run.json").read_text())["command"]  # the run says it
    again = detcheck("report", run, "--format", "md")
    assert again.code == 1 and "vllm::SiluAndMul in model.layers.0.mlp.act_fn" in again.out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--engine-arg", "enforce_eager=False"), "a compiled model calls none"),
        (("--engine-arg", "tensor-parallel-size=2"), "the modules of one process"),
        (("--attn", "eager"), "--attn is for transformers"),
        (("--apply",), "ask again with --kernels batch-invariant"),
    ],
)
def test_what_cannot_be_looked_into_is_said(detcheck, asked, said):
    result = detcheck("bisect", "--engine", "vllm", *asked, "-q")
    assert result.code == 2 and said in " ".join((result.err + result.out).split()), result.err + result.out


def test_workers_are_given_what_looks():
    assert {"detcheck_report", "detcheck_look", "detcheck_seen"} <= set(dir(plugin.WorkerExtension))
