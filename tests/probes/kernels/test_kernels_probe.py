"""The probe `kernels` on ops whose answer we wrote."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import only_run

from detcheck import lookup, runner
from detcheck.errors import UsageError
from detcheck.harness.batches import row_bits
from detcheck.judge.statistics import divergence
from detcheck.kernels import control
from detcheck.op import Op
from detcheck.outcomes import row_outcome
from detcheck.probes.kernels.options import Options, bundled
from detcheck.report import render
from detcheck.spec import Kernels, Spec
from detcheck.storage import folder, tables
from detcheck.verdict import FailOn, Role, Verdict

SIZES = (1, 2, 3, 8, 33)


def run(op, tmp_path, sizes=SIZES, shapes=None, **spec):
    return runner.run(Spec("kernels", Options(op, shapes), batch_sizes=sizes, **spec), tmp_path / "runs")


def gating(run):
    (finding,) = (f for f in run.findings if f.role is Role.GATES)
    return finding


GUILTY = {  # op -> verdict, what its bits go with, the first condition that differs
    "split_follows_batch": (Verdict.BATCH_VARIANT, "batch", "rows-2"),
    "split_follows_threads": (Verdict.BATCH_VARIANT, "threads", None),
    "padding_leaks": (Verdict.BATCH_VARIANT, "neighbours", "mixed-2"),
    "nan_leaks": (Verdict.BATCH_VARIANT, "neighbours", "hostile-2"),
    "third_slot": (Verdict.BATCH_VARIANT, "slot", "rows-8"),
    "unaligned": (Verdict.BATCH_VARIANT, "alignment", "unaligned-1"),
    "strided": (Verdict.BATCH_VARIANT, "strides", "strided-1"),
    "noise": (Verdict.RUN_VARIANT, None, None),
    "noise_and_zeros": (Verdict.RUN_VARIANT, None, None),
    "zeros": (Verdict.INACCURATE, None, None),
    "not_finite": (Verdict.INACCURATE, None, None),
    "half_accumulator": (Verdict.INACCURATE, None, None),
}


@pytest.mark.parametrize("op", GUILTY)
def test_the_guilty_are_convicted(op, tmp_path):
    verdict, varies_with, first = GUILTY[op]
    ran = run(f"guilty:{op}", tmp_path)
    found = gating(ran)
    assert (found.verdict, ran.verdict, ran.exit_code) == (verdict, verdict, 1), found.note
    if varies_with:
        assert found.evidence["varies_with"] == [varies_with]
    if first:
        assert found.evidence["first_variant_condition"] == first
    assert found.case.kernels == "user" and found.missing == 0


def test_one_wrong_row_of_257_is_found(tmp_path):
    found = gating(run("guilty:one_row_of_257", tmp_path, sizes=(1, 256, 257)))
    assert found.verdict is Verdict.BATCH_VARIANT and found.evidence["first_variant_condition"] == "rows-257"
    assert found.evidence["sizes"]["256"]["mismatching"] == 0
    # Two trials at the usual number of threads and two at each other one; the wrong row alone.
    assert 2 <= found.evidence["sizes"]["257"]["mismatching"] <= 6
    assert found.metrics["max_ulp"] == 1.0


def test_layouts_are_tried_at_sizes_of_ones_own(tmp_path):
    found = gating(run("guilty:room_between_rows", tmp_path, sizes=(1, 4)))
    assert found.verdict is Verdict.BATCH_VARIANT and "strides" in found.evidence["varies_with"]
    assert found.evidence["first_variant_condition"] == "strided-4"


def test_by_default_every_threshold_is_crossed(tmp_path):
    found = gating(run("guilty:one_row_of_257", tmp_path, sizes=None))
    assert found.verdict is Verdict.BATCH_VARIANT and set(found.evidence["sizes"]) >= {"1", "2", "17", "129", "257"}


@pytest.mark.parametrize("dtype", ["float32", "bf16", "float16", "float64"])
def test_the_innocent_pass(dtype, tmp_path):
    ran = run("guilty:innocent", tmp_path, dtype=dtype)
    found = gating(ran)
    assert (found.verdict, ran.exit_code) == (Verdict.IDENTICAL, 0), found.note
    assert 0 <= found.metrics["error_share"] <= 1 and found.metrics["ours_ms"] > 0
    assert found.distinct == 1 and not found.forks and found.evidence["compared"] == "bits"


def test_an_op_that_writes_into_its_input_is_not_taken_for_noise(tmp_path):
    assert gating(run("guilty:in_place", tmp_path)).verdict is Verdict.INACCURATE


def test_a_wrong_result_is_said_beside_a_divergence_and_forgiven_by_nothing(tmp_path):
    found = gating(run("guilty:noise_and_zeros", tmp_path))
    assert "the result is wrong" in found.note
    wrong = run("guilty:zeros", tmp_path, fail_on=FailOn.NEVER)
    assert (wrong.verdict, wrong.exit_code) == (Verdict.INACCURATE, 1)


def test_what_fails_in_some_batches_is_missing_and_no_pass(tmp_path):
    for op, why in (("raises_when_large", "raised RuntimeError: invalid conf"), ("leaves", "raised SystemExit")):
        ran = run(f"guilty:{op}", tmp_path)
        assert (ran.verdict, ran.exit_code) == (Verdict.INCONCLUSIVE, 3)
        assert why in gating(ran).note


def test_threads_are_as_they_were_whatever_happens(tmp_path):
    before = torch.get_num_threads()
    for op in ("innocent", "raises_when_large"):
        run(f"guilty:{op}", tmp_path)
        assert torch.get_num_threads() == before


def test_where_the_planted_op_does_not_react_nothing_is_a_pass(tmp_path, monkeypatch):
    dull = Op("control", ("1024",), control.make, lambda x: x.cumsum(1)[:, -1:], control.reference)
    monkeypatch.setattr(control, "OP", dull)
    ran = run("guilty:innocent", tmp_path)
    assert (ran.verdict, ran.exit_code) == (Verdict.INCONCLUSIVE, 3)
    assert (
        "the planted control did not react (identical), so the probe cannot see a difference here" in gating(ran).note
    )
    assert run("guilty:split_follows_batch", tmp_path).verdict is Verdict.BATCH_VARIANT


def test_the_control_by_itself_is_convicted(tmp_path):
    ran = run("control", tmp_path, dtype="float32")
    assert ran.verdict is Verdict.BATCH_VARIANT and len(ran.findings) == 1
    assert ran.findings[0].evidence["varies_with"] == ["batch"]


def ordered(x):
    return x.double().cumsum(1)[:, -1:].to(x.dtype)


@pytest.fixture
def sums(monkeypatch):
    """An op with both implementations, as the bundled ones are: stock is variant, ours as the test says."""

    def make(ours):
        op = Op("sums", ("64", "1000"), control.make, control.stock, control.reference, ours)
        monkeypatch.setattr("detcheck.probes.kernels.options.bundled", lambda name: [op])

    return make


def test_both_gates_on_ours_and_reports_stock_apart(sums, tmp_path):
    sums(ordered)
    ran = run("sums", tmp_path, kernels=Kernels.BOTH, dtype="float32,bfloat16")
    assert (ran.verdict, ran.exit_code) == (Verdict.IDENTICAL, 0), [f.note for f in ran.findings]
    roles = [(f.case.subject, f.case.kernels, f.case.dtype, f.case.input, f.role) for f in ran.findings]
    assert roles[0] == ("control", "stock", "float32", "1024", Role.PLANTED) and len(roles) == 1 + 2 * 2 * 2
    stock = [f for f in ran.findings if f.role is Role.CONTROL]
    assert any(f.verdict is Verdict.BATCH_VARIANT for f in stock)
    ours = next(f for f in ran.findings if f.role is Role.GATES)
    assert {"stock_ms", "ours_ms", "ratio", "error", "error_stock", "error_share"} <= set(ours.metrics)
    text = render(ran, "terminal")
    assert text.startswith("identical  over 4 cases: 4 identical")
    heading = next(line for line in text.splitlines() if "stock ms" in line)
    assert heading.split()[-1] == "mismatching" and "ratio" in heading
    assert "(planted control)" in text and "(control)" in text


def test_both_fails_where_ours_is_variant_and_stock_alone_gates_on_stock(sums, tmp_path):
    sums(control.stock)
    assert run("sums", tmp_path, kernels=Kernels.BOTH, shapes=("1000",)).exit_code == 1
    sums(ordered)
    stock = run("sums", tmp_path, kernels=Kernels.STOCK, dtype="float32", shapes=("1000",))
    assert (stock.verdict, stock.exit_code) == (Verdict.BATCH_VARIANT, 1)
    ours = run("sums", tmp_path, kernels=Kernels.BATCH_INVARIANT, shapes=("1000",))
    assert ours.exit_code == 0 and not [f for f in ours.findings if f.role is Role.CONTROL]


def test_ours_must_be_as_right_as_stock(sums, tmp_path):
    sums(lambda x: ordered(x.bfloat16()).to(x.dtype))
    ran = run("sums", tmp_path, kernels=Kernels.BOTH, dtype="float32", shapes=("1000",))
    assert (ran.verdict, ran.exit_code) == (Verdict.INACCURATE, 1)


def test_fail_fast_does_not_stop_at_a_control(sums, tmp_path):
    sums(ordered)
    ran = run("sums", tmp_path, kernels=Kernels.BOTH, shapes=("1000",), fail_fast=True)
    assert ran.exit_code == 0 and not any(f.missing for f in ran.findings)
    cut = run("guilty:split_follows_batch", tmp_path, fail_fast=True)
    assert cut.exit_code == 1 and gating(cut).missing


def test_the_stored_run_is_the_run_and_needs_no_torch(tmp_path):
    ran = run("guilty:third_slot", tmp_path)
    again = runner.load(ran.path)
    assert again.findings == ran.findings and again.subject == ran.subject
    code = f"import sys; sys.argv = ['detcheck', 'report', {str(ran.path)!r}, '--format', 'json']\nfrom detcheck.cli import main\ntry: main()\nexcept SystemExit as stop: print(stop.code, {{'torch', 'transformers', 'guilty'}} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stderr.splitlines()[-1] == "1 set()", done.stderr
    assert json.loads(done.stdout)["findings"] == json.loads(render(ran, "json"))["findings"]


def test_every_format_is_valid_and_speaks_of_elements(tmp_path):
    import importlib.resources
    from xml.etree import ElementTree

    import jsonschema

    schema = json.loads((importlib.resources.files("detcheck") / "formats" / "report.schema.json").read_text())
    for op in ("split_follows_batch", "zeros", "nan_leaks", "innocent"):
        ran = run(f"guilty:{op}", tmp_path)
        report = json.loads(render(ran, "json"), parse_constant=pytest.fail)
        jsonschema.validate(report, schema)
        assert set(report["findings"][0]) == set(schema["$defs"]["finding"]["properties"])
        suite = ElementTree.fromstring(render(ran, "junit"))
        assert (suite.get("failures"), suite.get("errors")) == (str(int(ran.exit_code == 1)), "0")
        for name in ("terminal", "md", "html"):
            text = render(ran, name)
            assert "token" not in text.replace("tokenizers", "") and "log-prob" not in text, name
            assert "mismatching" in text and "Total samples: " in text, name


def test_interrupted_and_resumed_is_the_same_as_in_one_go(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "FLUSH_S", 0.0)
    spec = Spec("kernels", Options("guilty:third_slot"), batch_sizes=SIZES)
    whole = runner.run(spec, tmp_path / "whole")

    def stop(progress):
        if progress.done > 150:
            raise KeyboardInterrupt

    part = runner.run(spec, tmp_path / "part", stop)
    assert part.exit_code == 130 and gating(part).missing
    done = runner.resume(part.path)
    was, now = gating(whole), gating(done)
    assert (now.verdict, now.samples, now.histogram, now.note) == (was.verdict, was.samples, was.histogram, was.note)


def test_resume_refuses_another_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "import torch\ndef op(x): return x * 2\ndef make_inputs(rows, dtype, seed): return (torch.ones(rows, 4, dtype=dtype),)\n"
    (tmp_path / "theirs_resumed.py").write_text(text)
    ran = run("theirs_resumed:op", tmp_path)
    (tmp_path / "theirs_resumed.py").write_text(text.replace("2", "3"))
    with pytest.raises(UsageError, match="digest of module"):
        runner.resume(ran.path)


MODULES = {
    "theirs_broken": "def op(x) return x",
    "theirs_raising": "raise OSError('no such library\\nand more')",
    "theirs_leaving": "import sys; sys.exit(0)",
    "theirs_without": "def op(x): return x",
    "theirs_list": "def op(x): return x\ndef make_inputs(rows, dtype, seed): return 7",
    "theirs_short": "import torch\ndef op(x): return x\ndef make_inputs(rows, dtype, seed): return (torch.ones(3, 4),)",
    "theirs_maker": "def op(x): return x\ndef make_inputs(rows): return ()",
    "theirs_batched": "def op(x): return x\ndef make_inputs(rows, dtype, seed): return ()\nBATCHED = 'x'",
    "theirs_reference": "import torch\ndef op(x): return x\ndef make_inputs(rows, dtype, seed): return (torch.ones(rows, 4),)\n"
    "def reference(x): raise KeyError('scale')",
    "theirs_good": "import torch\nBATCHED = (1,)\ndef op(w, x):\n    import theirs_helper\n    return theirs_helper.same(x) * w\n"
    "def make_inputs(rows, dtype, seed): return torch.ones(4), torch.ones(rows, 4)",
    "theirs_helper": "def same(x): return x",
}


@pytest.mark.parametrize(
    ("op", "code", "says"),
    [
        ("nosuchop", 2, "there is no 'nosuchop' among the kernels"),
        ("not a path:op", 2, "name a function as package.module:function"),
        (":op", 2, "name a function as package.module:function"),
        ("no_such_module:op", 2, "there is no module no_such_module, neither in "),
        ("theirs_broken:op", 2, "importing theirs_broken raised SyntaxError"),
        ("theirs_raising:op", 2, "importing theirs_raising raised OSError: no such library."),
        ("theirs_leaving:op", 2, "importing theirs_leaving raised SystemExit"),
        ("theirs_without:op", 2, "has no make_inputs. Define make_inputs(rows, dtype, seed)"),
        ("theirs_without:nothing", 2, "theirs_without has no function nothing; it has op"),
        ("theirs_list:op", 2, "must return a tuple of arguments; it returned int"),
        ("theirs_short:op", 2, "argument 0 must be a tensor of 32 rows, as asked for; it is (3, 4)"),
        ("theirs_maker:op", 4, "make_inputs of theirs_maker raised TypeError"),
        ("theirs_batched:op", 2, "BATCHED must be a tuple of places"),
        ("theirs_reference:op", 4, "the reference of theirs_reference:op raised KeyError"),
        ("guilty:raises", 4, "raised RuntimeError: no kernel image is available"),
        ("guilty:a_row_short", 4, "must return a row for each of the 1 rows of its batch; it returned shape (0, 300)"),
        ("guilty:nothing", 4, "must return something to compare in each row; it returned shape (1, 0)"),
        ("guilty:square", 4, "alone its length is 1 (float32), in a batch of 3 it is 3 (float32)"),
        ("guilty:two_tensors", 4, "must return one tensor; it returned tuple"),
        ("guilty:whole_numbers", 4, "it returned int32"),
        ("theirs_good:op", 0, ""),
    ],
)
def test_what_is_wrong_with_an_op_is_said_in_words(detcheck, tmp_path, op, code, says):
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    result = detcheck("kernels", "--op", op, "--batch-sizes", "1,2", "--quiet")
    assert result.code == code, result.out + result.err
    assert says in result.err and "Traceback" not in result.err
    assert str(tmp_path) not in sys.path
    if code == 2:
        assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kernels", "engine"], "--kernels engine: an op has no engine"),
        (["--op", "control", "--kernels", "batch-invariant"], "control has no batch-invariant implementation"),
        (["--op", "control", "--shapes", "7,1024"], "--shapes 7: control has 1024"),
        (["--op", "guilty:innocent", "--shapes", "7"], "--shapes is for bundled ops"),
        (["--op", "control", "--dtype", "int8"], "--dtype int8"),
        (["--op", "control", "--trials", "0"], "--trials must be at least 1"),
        (["--op", "control", "--batch-sizes", "2000000000"], "memory is estimated to hold"),
    ],
)
def test_usage_errors(detcheck, arguments, says):
    result = detcheck("kernels", *arguments)
    assert result.code == 2 and says in " ".join(result.err.split()) and "Traceback" not in result.err


def test_the_command_is_the_spec(detcheck, tmp_path, monkeypatch):
    result = detcheck(
        "kernels", "--op", "control", "--dtype", "float32,bf16", "--batch-sizes", "1,8", "--format", "json", "-q"
    )
    report = json.loads(result.out)
    assert (result.code, report["verdict"], report["spec"]["op"]) == (1, "batch-variant", "control")
    assert report["reproduce"] == "detcheck kernels --dtype float32,bf16 --batch-sizes 1,8 --op control"
    assert detcheck("report", only_run(tmp_path / "runs"), "--format", "json").code == 1


def test_the_planted_op_is_no_op_of_all(monkeypatch):
    monkeypatch.setattr(lookup, "names", lambda kind: ["control"])
    with pytest.raises(UsageError, match="no bundled op but control"):
        bundled("all")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_distances_are_in_the_rows_own_dtype_and_rows_survive_storing(dtype, tmp_path):
    made = torch.tensor([[1.0, -0.0, float("nan"), 2.0]], dtype=getattr(torch, dtype))
    moved = made.clone()
    moved[0, 3] += 2 * torch.finfo(made.dtype).eps  # the next number above 2
    rows = [row_outcome(bits[0], name) for bits, name in (row_bits(made, 1), row_bits(moved, 1))]
    apart = divergence(*rows)
    assert (apart.index, apart.max_ulp, apart.max_abs) == (3, 1.0, 2 * torch.finfo(made.dtype).eps)
    back = [tables.read_outcome(tables.outcome_row(row)) for row in rows]
    assert [r.id for r in back] == [r.id for r in rows] and back[0].dtype == dtype and len({r.id for r in rows}) == 2
    zero = row_outcome(row_bits(made.abs(), 1)[0][0], dtype)
    assert divergence(rows[0], zero).index == 1 and divergence(rows[0], zero).max_ulp == 0.0
    assert divergence(rows[0], row_outcome(row_bits(made.nan_to_num(0.0), 1)[0][0], dtype)).max_ulp is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without one")
def test_a_device_that_is_not_there_is_said_in_words(detcheck):
    result = detcheck("kernels", "--op", "mean", "--device", "cuda", "-q")
    assert result.code == 2 and "finds no CUDA device here. Use --device cpu" in result.err
    result = detcheck("kernels", "--op", "mean", "--device", "gpu", "-q")
    assert result.code == 2 and "use auto, cpu, cuda" in result.err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
def test_every_op_on_a_gpu(detcheck):
    """Ours are Triton's there: the same bits in every batch, as right as stock."""
    result = detcheck("kernels", "--op", "all", "--device", "cuda", "--kernels", "both", "-q", "--format", "json")
    assert result.code == 0, result.out


def test_a_gpu_is_timed_by_replays(monkeypatch):
    """Without one: the calls go into a graph, the replays are divided by how many they hold, and nothing else is called."""
    from detcheck.harness import device as _device

    seen = []

    class Event:
        def __init__(self, **_):
            seen.append("event")

        record = synchronize = lambda self: None

        def elapsed_time(self, other):
            return 40.0

    class Graph:
        def replay(self):
            seen.append("replay")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    once = _device.replayed(lambda: seen.append("call"), "cuda")
    assert seen == ["call"] * (2 + _device.CAPTURED)
    seen.clear()
    assert once() == 40.0 / _device.CAPTURED and seen == ["event", "event", "replay"]
