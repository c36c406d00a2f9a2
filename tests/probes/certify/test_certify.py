"""certify on the guilty and the innocent, through the command, for every target. Nothing here needs a GPU."""

import json
import re
from pathlib import Path

import certify_kernels
import certify_more
import jsonschema
import pyarrow.parquet
import pytest

from detcheck import runner
from detcheck.op import Signature
from detcheck.probes.certify import judge as certificates
from detcheck.probes.certify import masking, ttir
from detcheck.probes.certify.compile import unwrap
from detcheck.probes.certify.options import TARGETS
from detcheck.verdict import Verdict

TABLE = {
    "refuted": certify_kernels.REFUTED,
    "undecided": certify_kernels.UNDECIDED,
    "certified": certify_kernels.CERTIFIED,
}
CODES = {"refuted": 1, "undecided": 3, "certified": 0}
# What must be said of a guilty kernel, and of which line of it.
SAYS = {
    "atomic_sum": ("floats are added by an atomic", "tl.atomic_add"),
    "bound_follows_batch": ("the loop that adds acc runs follows M", "for k in range(0, N // (1 + (M < 64))"),
    "step_follows_batch": ("the loop that adds acc runs follows M", "for k in range(0, N, tl.minimum(M, 4)"),
    "rotated_start": ("from one iteration to the next follows program_id(0)", "acc += tl.load"),
    "branch_by_batch": ("a branch chooses how it adds by M", "if M > 64"),
    "sum_over_the_batch": ("what is reduced along axis 0 follows M", "tl.sum(v, 0)"),
    "divided_by_the_batch": ("the numbers that are stored depend on M", "/ M"),
    "mask_by_the_batch": ("what is reduced along axis 0 follows M", "tl.sum(v, 0)"),
    "halving_while": ("how often the loop that adds runs follows M", "while left > 0"),
    "strided_by_programs": ("runs follows num_programs(0) and program_id(0)", "tl.num_programs(0) * BLOCK"),
    "one_of_two_numbers": ("the numbers that are stored depend on M", "tl.where(M > 16"),
    "tuned_by_batch": ("autotune, keyed on M, chooses by the batch", ""),
    "heuristic_by_batch": ("the launch chooses by the batch among orders of adding: BLOCK=128; BLOCK=256", ""),
    "split_k_by_host": ("the launch chooses by the batch among orders of adding: SPLITS=1; SPLITS=4", ""),
    "stream_k": ("the loop that adds acc runs follows M", "for k in range(begin, end, BK)"),
    "attention_without_a_mask": ("no mask in it looks at a row's own keys", "for j in range(begin, end, BN)"),
    "attention_that_adds_a_little": ("it is not shown that an iteration in which a row sees no key leaves its total as it was", "for j in range"),
    "attention_from_anywhere": ("does not start at a place of its own", "for j in range"),
    "window_from_anywhere": ("does not start at a place of its own", "for j in range"),
    "fixed_number_of_splits": ("the loop that adds acc runs follows SPLITS", "for j in range"),
    "gathered": ("what is reduced along axis 0 follows M", "tl.gather"),
    "bits_of_the_batch": ("the numbers that are stored depend on M", "bitcast=True"),
    "scaled_for_the_batch": ("the numbers that are stored depend on amax", "tl.load(amax)"),
    "described_too_short": ("what is reduced along axis 1 follows M", "tl.sum(acc, 1)"),
    "described_shifted": ("from one iteration to the next follows M", "d.load"),
    "scaled_for_the_tile": ("rows of one tile are taken together", "tl.max(tl.max(v, 1), 0)"),
    "rows_through_a_dot": ("rows of one tile are taken together", "tl.dot("),
    "two_guards": ("y is written in 2 places, and which of them runs follows M", "tl.store"),
    "two_stores": ("y is written in 2 places", "tl.store"),
    "by_multiprocessor": ("what is reduced along axis 0 follows inline assembly", "tl.sum(v, 0)"),
    "data_decides": ("depends on floats that were loaded", "while tl.max"),
    "specialised": ("2 different binaries", ""),
    "tuned_by_time": ("by how long each took", ""),
    "sum_in_memory": ("reads and writes y", "for i in range(M)"),
    "heuristic_for_giants": ("the heuristic for BLOCK looks at M", ""),
    "attention_that_hides_a_key": ("which keys a row sees follows L in a way that is not a plain offset", ""),
}  # fmt: skip
ROWS = [(verdict, name) for verdict, kernels in TABLE.items() for name in kernels]


@pytest.fixture(autouse=True)
def beside_the_kernels(monkeypatch):
    monkeypatch.syspath_prepend(certify_kernels.__file__.rpartition("/")[0])


@pytest.fixture(scope="module")
def schema():
    from importlib.resources import files

    return jsonschema.Draft202012Validator(json.loads((files("detcheck.formats") / "report.schema.json").read_text()))


def report(detcheck, name, *arguments):
    result = detcheck("certify", "--op", f"certify_kernels:{name}", "--format", "json", "-q", *arguments)
    return result, json.loads(result.out) if result.out else None


def line_of(place):
    path, line = place
    return open(path).read().splitlines()[line - 1]


@pytest.mark.parametrize(("verdict", "name"), ROWS, ids=lambda v: v)
def test_the_guilty_are_refuted_and_the_innocent_certified(detcheck, schema, verdict, name):
    """On a target of each maker, NVIDIA's three in turn; every eighth on all."""
    number = [row for _, row in ROWS].index(name)
    nvidia, others = [t for t in TARGETS if t.startswith("sm_")], [t for t in TARGETS if not t.startswith("sm_")]
    others = [] if name in certify_kernels.NVIDIA else others
    targets = [*nvidia, *others] if number % 8 == 0 else [nvidia[number % 3], *others]
    result, made = report(detcheck, name, "--target", ",".join(targets))
    schema.validate(made)
    found = {f["case"]["input"]: f for f in made["findings"]}
    assert {t: f["verdict"] for t, f in found.items()} == dict.fromkeys(targets, verdict), result.out
    assert result.code == CODES[verdict]
    for f in found.values():
        assert f["case"]["subject"] == f"certify_kernels:{name}" and f["case"]["kernels"] == "user"
        facts = f["evidence"]["certificate"]
        assert facts["registers"] > 0 and all(re.fullmatch(r"[0-9a-f]{64}", d) for d in facts["binaries"][""])
        assert bool(facts["found"]) == (verdict != "certified" and name != "specialised")
        if name in SAYS:
            said, source = SAYS[name]
            assert said in f["note"], f["note"]
            places = [(one["file"], one["line"]) for one in facts["found"] if one["file"]]
            assert not source or any(source in line_of(p) for p in places), [line_of(p) for p in places]


def test_a_copy_elsewhere_is_named_by_its_own_lines(detcheck, tmp_path, monkeypatch):
    """Triton caches by the text of a kernel, not by its file."""
    text = Path(certify_kernels.__file__).read_text()
    for folder in ("one", "two"):
        module = tmp_path / folder / f"kernels_{folder}.py"
        module.parent.mkdir()
        module.write_text(text)
        monkeypatch.syspath_prepend(module.parent)
        result = detcheck(
            "certify", "--op", f"kernels_{folder}:atomic_sum", "--target", "sm_90", "--format", "json", "-q"
        )
        (finding,) = json.loads(result.out)["findings"]
        assert {one["file"] for one in finding["evidence"]["certificate"]["found"]} == {f"{folder}/kernels_{folder}.py"}


@pytest.mark.parametrize("name", certify_more.DETCHECK)
def test_what_once_passed_and_what_is_commonly_written(name):
    """On one target: what is read of a kernel is the same on all but for tensor descriptors."""
    from detcheck.probes.certify.examine import certify

    facts = certify(unwrap(getattr(certify_more, name)), certify_more.DETCHECK[name], "bf16", "sm_90")
    verdict, note = certificates.verdict(facts)
    if name in certify_more.CERTIFIED:
        assert verdict is Verdict.CERTIFIED, note
    elif name in certify_more.NOT_SHOWN:
        assert verdict is Verdict.UNDECIDED, note
    else:
        assert verdict in (Verdict.REFUTED, Verdict.UNDECIDED), note


HEURISTICS = {
    "num_warps by the batch": ({"num_warps": lambda a: 4 if a["M"] < 64 else 8}, {"BLOCK": 256}, "different binaries"),
    "asked through a function": ({"BLOCK": certify_kernels.block_for}, {}, "the heuristic for BLOCK looks at M"),
    "of a tensor": ({"BLOCK": lambda a: 64 * a["x"].element_size()}, {}, "cannot be asked with numbers alone"),
    "one after the other": ({"BLOCK": lambda a: 256, "num_warps": lambda a: a["BLOCK"] // 64}, {}, ""),
}


@pytest.mark.parametrize("name", HEURISTICS)
def test_heuristics_are_asked_as_triton_asks_them(name):
    import triton

    from detcheck.probes.certify.examine import certify

    rules, constexprs, said = HEURISTICS[name]
    kernel = triton.heuristics(rules)(certify_kernels.early_return)
    facts = certify(unwrap(kernel), certify_kernels.rows(constexprs=constexprs), "bf16", "sm_90")
    verdict, note = certificates.verdict(facts)
    assert verdict is (Verdict.UNDECIDED if said else Verdict.CERTIFIED) and said in note, note


def test_every_guilty_kernel_says_why():
    assert set(SAYS) == set(certify_kernels.REFUTED) | set(certify_kernels.UNDECIDED) - {"early_return"}
    assert len(certify_kernels.REFUTED) >= 12 and len(certify_kernels.CERTIFIED) >= 6


def test_a_promise_of_alignment_is_trusted_and_named(detcheck):
    """Without it the same kernel has a binary more for each way in which its pointers may lie."""
    from certify_kernels import early_return, rows

    from detcheck.probes.certify.examine import certify

    promised = certify(unwrap(early_return), rows(), "bf16", "sm_90")
    verdict, note = certificates.verdict(promised)
    assert verdict is Verdict.CERTIFIED and "x, y: only passed aligned to 16 bytes" in note
    free = certify(unwrap(early_return), rows(aligned=()), "bf16", "sm_90")
    verdict, note = certificates.verdict(free)
    assert verdict is Verdict.UNDECIDED and len(free.binaries[""]) > 1 and "do_not_specialize_on_alignment" in note
    assert free.forms == 4  # all aligned, x alone, y alone, none


def test_a_batch_constexpr_with_one_value_is_no_proof():
    from certify_kernels import product, split_k_by_host

    from detcheck.probes.certify.examine import certify

    facts = certify(
        unwrap(split_k_by_host), product({"SPLITS": 2}, batch=("M", "SPLITS"), batch_axes=(0, 1)), "bf16", "sm_90"
    )
    verdict, note = certificates.verdict(facts)
    assert verdict is Verdict.UNDECIDED and "SPLITS follows the batch and is a constexpr" in note


def test_the_binary_is_named_and_does_not_change_with_the_lines_of_source(detcheck, tmp_path, monkeypatch):
    """So that certificates of two versions can be compared."""
    source = (
        "import triton\nimport triton.language as tl\nfrom detcheck import Signature\n\n\n@triton.jit(do_not_specialize=['M'])\n"
        "def k(x, y, M, BLOCK: tl.constexpr):\n    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n"
        "    tl.store(y + at, tl.load(x + at, mask=at < M), mask=at < M)\n\n\nDETCHECK = {'k': Signature({'x': '*T', 'y': '*T', 'M': 'i32'}, "
        "{'BLOCK': 128}, ('M',), aligned=('x', 'y'))}\n"
    )
    monkeypatch.chdir(tmp_path)
    digests = []
    for name, text in (("one", source), ("two", "# a comment\n\n" + source), ("three", source.replace("128", "256"))):
        (tmp_path / f"{name}.py").write_text(text)
        result = detcheck("certify", "--op", f"{name}:k", "--target", "sm_90", "--format", "json", "-q")
        (found,) = json.loads(result.out)["findings"]
        assert result.code == 0, result.out + result.err
        digests.append(list(found["evidence"]["certificate"]["binaries"][""]))
        assert found["evidence"]["certificate"]["flags"]["enable_fp_fusion"] == "True"
    assert digests[0] == digests[1] != digests[2]


def test_a_kernel_that_does_not_compile_for_a_target_is_said_in_words(detcheck, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(
        "import triton\nimport triton.language as tl\nfrom detcheck import Signature\n\n\n@triton.jit\ndef k(x, BLOCK: tl.constexpr):\n"
        "    tl.store(x + tl.arange(0, BLOCK), 0.0)\n\n\nDETCHECK = {'k': Signature({'x': '*T'}, {'BLOCK': 100})}\n"
    )
    result = detcheck("certify", "--op", "broken:k", "--target", "sm_90", "-q")
    assert result.code == 4 and "does not compile for sm_90" in result.out + result.err
    assert "power of 2" in result.out + result.err and "Traceback" not in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--op", "nothing"], 2, "--op nothing: has no Triton kernel here"),
        (["--op", "certify_kernels:nowhere"], 2, "has no Triton kernel"),
        (["--op", "certify_kernels:rows"], 2, "rows is function, not a Triton kernel"),
        (["--op", "certify_kernels:multiply"], 2, "does not say how multiply is called. Declare it there"),
        (["--op", "no_such_module:k"], 2, "there is no module no_such_module"),
        (["--op", "certify_kernels:softmax", "--target", "sm_70"], 2, "--target sm_70: use sm_80, sm_90, sm_100, gfx942"),
        (["--op", "certify_kernels:softmax", "--dtype", "int4"], 2, "--dtype int4"),
        (["--op", "certify_kernels:softmax", "--dtype", "float64"], 2, "certify knows bfloat16, float16, float32"),
    ],
    ids=lambda v: v[1] if isinstance(v, list) else None,
)  # fmt: skip
def test_what_is_wrong_with_the_question_is_said_in_words(detcheck, arguments, code, said):
    result = detcheck("certify", *arguments, "-q")
    assert result.code == code and said in result.err, result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        (Signature({"x": "*T", "y": "*T", "N": "i32"}, {"BLOCK": 64}), "does not say what M is"),
        (Signature({"x": "*T", "y": "*T", "M": "i32", "N": "i32", "Z": "i32"}, {"BLOCK": 64}), "names Z, which the kernel does not have"),
        ({"x": "*T"}, "must be a detcheck.Signature"),
    ],
)  # fmt: skip
def test_a_signature_that_does_not_fit_is_said_in_words(detcheck, monkeypatch, signature, said):
    monkeypatch.setitem(certify_kernels.DETCHECK, "softmax", signature)
    result = detcheck("certify", "--op", "certify_kernels:softmax", "-q")
    assert result.code == 2 and said in result.err, result.err


def test_without_triton_it_is_refused_in_words(detcheck, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "triton" else real(name, *a))
    result = detcheck("certify", "--op", "certify_kernels:softmax", "-q")
    assert result.code == 4 and "pip install triton (no GPU is needed)" in result.err


def test_the_interpreter_is_refused_in_words(detcheck, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    result = detcheck("certify", "--op", "certify_kernels:softmax", "-q")
    assert result.code == 2 and "Unset it" in result.err


def test_a_stored_certificate_is_judged_and_rendered_again(detcheck, tmp_path):
    result, made = report(detcheck, "stream_k", "--target", "sm_90,gfx942", "--output-dir", str(tmp_path))
    (folder,) = tmp_path.iterdir()
    for row in pyarrow.parquet.read_table(folder / "outcomes").to_pylist():
        stored = json.loads(row["text"])
        assert "loop_follows" in {found["why"]["code"] for found in stored["found"]}
    run = runner.load(folder)
    assert run.verdict is Verdict.REFUTED and run.exit_code == result.code == 1
    assert [f.note for f in run.findings] == [f["note"] for f in made["findings"]]
    for format in ("terminal", "md", "html", "junit"):
        shown = detcheck("report", folder, "--format", format)
        assert shown.code == 1 and "stream" in shown.out and "HMMA" in shown.out
    resumed = runner.resume(folder)
    assert resumed.verdict is Verdict.REFUTED


# ---------------------------------------------------------------- the parts


def test_intermediate_code_is_read_with_regions_scopes_and_places():
    text = """
#loc = loc("k.py":3:0)
#loc9 = loc("k.py":7:4)
#loc10 = loc("/x/triton/language/standard.py":9:1)
#loc11 = loc("s"(callsite(#loc10 at #loc9)))
module {
  tt.func public @k(%x: !tt.ptr<f32> {tt.divisibility = 16 : i32} loc("x"(#loc)), %n: i32 loc("n"(#loc))) attributes {noinline = false} {
    %c0 = arith.constant 0 : i32 loc(#loc)
    %z = arith.constant dense<0.000000e+00> : tensor<8x4xf32> loc(#loc)
    %r:2 = scf.for %i = %c0 to %n step %n iter_args(%a = %z, %b = %c0) -> (tensor<8x4xf32>, i32)  : i32 {
      %c = arith.cmpi slt, %i, %n : i32 loc(#loc9)
      %d = scf.if %c -> (i32) {
        scf.yield %b : i32 loc(#loc9)
      } else {
        scf.yield %n : i32 loc(#loc9)
      } loc(#loc9)
      scf.yield %a, %d : tensor<8x4xf32>, i32 loc(#loc9)
    } loc(#loc9)
    %s = "tt.reduce"(%r#0) <{axis = 1 : i32}> ({
    ^bb0(%p: f32 loc(#loc9), %q: f32 loc(#loc9)):
      %t = arith.addf %p, %q : f32 loc(#loc9)
      tt.reduce.return %t : f32 loc(#loc9)
    }) : (tensor<8x4xf32>) -> tensor<8xf32> loc(#loc11)
    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
"""
    function = ttir.parse(text)
    assert [(a.name, a.type) for a in function.arguments] == [("%x", "!tt.ptr<f32>"), ("%n", "i32")]
    ops = {op.name: op for op in function.walk()}
    loop, reduce = ops["scf.for"], ops["tt.reduce"]
    assert [v.name for v in loop.regions[0][0].arguments] == ["%i", "%a", "%b"] and len(loop.operands) == 5
    assert [v.type for v in loop.results] == ["tensor<8x4xf32>", "i32"] and len(ops["scf.if"].regions) == 2
    assert reduce.operands[0] is loop.results[0] and reduce.results[0].rank == 1 and reduce.attribute("axis") == "1"
    assert str(loop.place) == "k.py:7" and str(reduce.place) == "k.py:7"  # not Triton's own library
    assert ops["arith.cmpi"].results[0].type == "i1"


def test_text_that_it_does_not_know_is_no_certificate():
    for text in ("", "module {\n}", "module {\n  tt.func public @k() {\n    tt.store %x, %y : f32\n  }\n}"):
        with pytest.raises(ttir.UnreadableError):
            ttir.parse(text)


@pytest.mark.parametrize(
    ("written", "value"),
    [("dense<0xFF800000> : tensor<64xf32>", float("-inf")), ("0.000000e+00 : f32", 0.0), ("dense<1.250000e-01> : tensor<2x2xf32>", 0.125),
     ("0xFF80 : bf16", float("-inf")), ("0xFC00 : f16", float("-inf")), ("7 : i32", None), ("true", True)],
)  # fmt: skip
def test_constants_are_read_exactly(written, value):
    assert masking.constant(f"arith.constant {written}") == value


@pytest.mark.parametrize(
    ("name", "inputs", "out"),
    [
        ("arith.subf", [("m",), ("m",)], 0.0), ("arith.subf", [("m",), ("n",)], ("arith.subf", ("m",), ("n",))),
        ("arith.maximumf", [("m",), float("-inf")], ("m",)), ("arith.addf", [0.0, ("l",)], ("l",)), ("arith.mulf", [("l",), 1.0], ("l",)),
        ("arith.mulf", [("v",), 0.0], 0.0), ("arith.mulf", [float("-inf"), ("v",)], None), ("arith.subf", [float("-inf"), ("m",)], float("-inf")),
        ("math.exp", [float("-inf")], 0.0), ("math.exp2", [0.0], 1.0), ("arith.subf", [float("-inf"), float("-inf")], float("nan")),
        ("arith.addf", [1e-30, ("l",)], ("arith.addf", 1e-30, ("l",))),
    ],
)  # fmt: skip
def test_the_algebra_of_masked_iterations(name, inputs, out):
    made = masking.calculate(name, inputs)
    assert made == out or (made != made and out != out)


def test_code_that_cannot_be_read_is_no_certificate(monkeypatch):
    from certify_kernels import rows, softmax

    from detcheck.probes.certify import examine

    monkeypatch.setattr(examine, "parse", lambda text: ttir.parse("module {\n}"))
    verdict, note = certificates.verdict(examine.certify(unwrap(softmax), rows(), "bf16", "sm_90"))
    assert verdict is Verdict.UNDECIDED and "is not as this version of detcheck knows it" in note


def test_every_kernel_of_ours_is_certified(detcheck):
    """For one target of each maker; all of them, in every dtype: `detcheck certify`."""
    result = detcheck("certify", "--target", "sm_90,gfx942", "--dtype", "bf16", "--format", "json", "-q")
    made = json.loads(result.out)["findings"]
    kernels = {f["case"]["subject"] for f in made}
    assert {
        "matmul_kernel",
        "bmm_kernel",
        "attention_kernel",
        "split_kernel",
        "merge_kernel",
        "rmsnorm_kernel",
    } <= kernels
    assert result.code == 0 and {f["verdict"] for f in made} == {"certified"}, [f["note"] for f in made]
    assert all(f["evidence"]["certificate"]["spills"] == 0 for f in made)
    units = {
        f["case"]["input"]: f["evidence"]["certificate"]["instructions"]
        for f in made
        if f["case"]["subject"] == "matmul_kernel"
    }
    assert "HGMMA" in units["sm_90"] and any("mfma" in name for name in units["gfx942"])
