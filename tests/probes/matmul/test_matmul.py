"""The probe `matmul`: one product, many times."""

import json

import pytest
import torch
from conftest import only_run

from detcheck import runner
from detcheck.probes.matmul.options import Options
from detcheck.probes.matmul.session import Matmul
from detcheck.spec import Spec
from detcheck.storage import folder
from detcheck.verdict import Verdict


@pytest.fixture
def noisy(monkeypatch):
    """A product of which one number that goes in moves, now and then: by so much that no kernel rounds it away."""

    class Noisy(Matmul):
        def observe(self, step):
            kept = self._b.clone()
            if step.trial % 7 == 3:
                self._b[0, 0] += 0.25
            try:
                return super().observe(step)
            finally:
                self._b = kept

    monkeypatch.setattr("detcheck.probes.matmul.session.open_session", Noisy)


def run(tmp_path, shape=(4, 5, 3), trials=30, **spec):
    return runner.run(Spec("matmul", Options(shape), trials=trials, **spec), tmp_path / "runs")


@pytest.mark.parametrize(("shape", "unit"), [((4, 5, 3), "element"), ((300, 300, 2), "word")])
def test_equal_products_store_one_outcome_and_pass(tmp_path, shape, unit):
    ran = run(tmp_path, shape)
    (found,) = ran.findings
    assert (found.verdict, ran.exit_code, found.samples, found.distinct) == (Verdict.IDENTICAL, 0, 30, 1), found.note
    assert found.evidence["unit"] == unit and found.evidence["compared"] == "bits"
    assert len(folder.RunFolder(ran.path).outcomes()) == 1
    assert found.interval_bits[1] == pytest.approx(0.116, abs=0.001)
    assert runner.load(ran.path).findings == ran.findings


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_that_changes_is_run_variant(tmp_path, noisy, dtype):
    ran = run(tmp_path, dtype=dtype)
    (found,) = ran.findings
    assert (found.verdict, ran.exit_code, found.distinct) == (Verdict.RUN_VARIANT, 1, 2), found.note
    assert found.mode_count == 26 and sum(count for _, count in found.histogram) == 4
    assert found.metrics["max_ulp"] >= 1 and found.metrics["max_abs"] > 0


def test_a_large_product_that_changes_is_told_but_not_where(tmp_path, noisy):
    (found,) = run(tmp_path, (300, 300, 2)).findings
    assert (found.verdict, found.distinct, found.histogram) == (Verdict.RUN_VARIANT, 2, ())
    assert found.mode_count == 26 and "max_ulp" not in found.metrics


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "FLUSH_S", 0.0)

    def stop(progress):
        if progress.done == 9:
            raise KeyboardInterrupt

    part = runner.run(Spec("matmul", Options((4, 5, 3)), trials=20), tmp_path / "runs", stop)
    assert part.exit_code == 130 and part.findings[0].missing == 11
    done = runner.resume(part.path)
    assert (done.verdict, done.findings[0].samples) == (Verdict.IDENTICAL, 20)


def test_from_the_command_line(detcheck, tmp_path):
    result = detcheck("matmul", "--shape", "4,5,3", "--dtype", "bf16", "--trials", "25", "--format", "json", "-q")
    report = json.loads(result.out)
    assert (result.code, report["findings"][0]["samples"]) == (0, 25)
    assert report["reproduce"] == "detcheck matmul --dtype bf16 --trials 25 --shape 4,5,3"
    shown = detcheck("report", only_run(tmp_path / "runs"))
    assert shown.code == 0 and "Total samples: 25, Unique samples: 1" in shown.out
    assert "all 25 rows have the same bits, in 25 batches of 1 row" not in shown.out
    assert "all 25 products have the same bits" in shown.out


def test_by_default_a_thousand():
    assert Spec("matmul", Options(), trials=1000).command() == "detcheck matmul"
    assert Spec("matmul", Options()).command() == "detcheck matmul --trials 2"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--shape", "4,5"], 2, "--shape wants M,N,K"),
        (["--shape", "4,5,0"], 2, "each at least 1"),
        (["--shape", "a"], 2, "wants M,N,K"),
        (["--trials", "0"], 2, "--trials must be at least 1"),
        (["--dtype", "int8"], 2, "--dtype int8"),
        (["--device", "tpu"], 2, "--device tpu"),
        (["--shape", "2000000000,2,2000000000"], 4, "cannot make matrices of 2000000000,2,2000000000 on cpu"),
    ],
)
def test_errors_in_words(detcheck, arguments, code, says):
    result = detcheck("matmul", *arguments)
    assert result.code == code and says in " ".join(result.err.split()) and "Traceback" not in result.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without one")
def test_no_cuda_here(detcheck):
    result = detcheck("matmul", "--device", "cuda")
    assert result.code == 2 and "finds no CUDA device" in result.err
