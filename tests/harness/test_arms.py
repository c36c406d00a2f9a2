"""Stock, ours, and both: what gates, what is a control, and that ours is never silently stock."""

import contextlib
import json
from collections import Counter

import pytest
import torch
from conftest import only_run
from models import llama_like
from scripted import OTHER, SAME, Scripted, completion

from detcheck import runner, switch
from detcheck.errors import FailedError
from detcheck.judge.conditions import judge
from detcheck.probes.completions.options import Options
from detcheck.probes.completions.session import Completions
from detcheck.spec import Kernels, Spec
from detcheck.verdict import Verdict


@pytest.fixture
def both():
    """Runs `both` arms of a scripted engine, whose answer may look at the arm, and judges them: {kernels: finding}."""
    arm = []

    def make(answer):
        class TwoArmed(Scripted):
            def running(self, kernels):
                arm[:] = [str(kernels)]
                return contextlib.nullcontext([("ours aten::mm", 1)] if kernels != Kernels.STOCK else [])

        engine = TwoArmed(lambda rows, slot, call: answer(arm[0], rows))
        spec = Spec("completions", Options(samples=24, prompt="ask me", max_tokens=4), kernels=Kernels.BOTH)
        probe = Completions(spec, engine)
        observations, outcomes = [], {}
        for step in probe.subject.schedule.steps:
            seen, found = probe.observe(step)
            observations += seen
            outcomes |= {o.id: o for o in found}
        roles = dict(probe.subject.cases)
        findings = judge(list(roles), probe.subject.schedule, observations, outcomes, roles=roles)
        return {f.case.kernels: f for f in findings}, runner.Run(spec, "", "", findings)

    return make


def reacts(rows):
    return OTHER if rows > 2 else SAME


def test_ours_gates_and_stock_is_the_control(both):
    findings, run = both(lambda arm, rows: reacts(rows) if arm == "stock" else SAME)
    assert [findings[k].verdict for k in ("stock", "batch-invariant")] == [Verdict.BATCH_VARIANT, Verdict.IDENTICAL]
    assert (run.verdict, run.exit_code) == (Verdict.IDENTICAL, 0)
    assert findings["batch-invariant"].samples == findings["stock"].samples == 24


def test_a_stock_arm_that_does_not_react_makes_equal_bits_no_pass(both):
    findings, run = both(lambda arm, rows: SAME)
    assert (run.verdict, run.exit_code) == (Verdict.INCONCLUSIVE, 3)
    assert "not sensitive here: ask for more samples" in findings["batch-invariant"].note


def test_ours_is_convicted_whatever_stock_does(both):
    for stock in (SAME, None):
        _, run = both(lambda arm, rows, stock=stock: reacts(rows) if arm != "stock" else stock or reacts(rows))
        assert (run.verdict, run.exit_code) == (Verdict.BATCH_VARIANT, 1)


def test_arms_may_differ_from_each_other(both):
    """Other kernels, other bits: that is no divergence."""
    other = completion([1, 2, 3, 4])
    _, run = both(lambda arm, rows: reacts(rows) if arm == "stock" else other)
    assert run.exit_code == 0


def test_both_on_the_real_model(detcheck, tmp_path, reacting):
    """The mission on one screen: stock diverges, ours does not, and the report says what ran on what."""
    asked = "-n", 12, "--max-tokens", 12, "--prompt", "Tell me about him", "--kernels", "both"
    result = detcheck("completions", *asked, "--format", "json", "-q")
    report = json.loads(result.out)
    assert (result.code, report["verdict"]) == (0, "identical"), result.err
    ours, stock = sorted(report["findings"], key=lambda f: f["case"]["kernels"])
    assert (ours["verdict"], ours["distinct_bits"], ours["samples"]) == ("identical", 1, 12)
    assert (stock["verdict"], stock["role"]) == ("batch-variant", "reacts")
    coverage = ours["evidence"]["coverage"]
    assert coverage["overridden"]["transformers::attention"] > 0 and coverage["overridden"]["aten::mm"] > 0
    assert coverage["uncovered"] == {} and stock["evidence"]["coverage"] == {"overridden": {}, "uncovered": {}}
    assert "batch_invariant_kernels" in report["environment"]["flags"]
    again = detcheck("report", only_run(tmp_path / "runs"), "--format", "json")
    assert json.loads(again.out)["findings"] == report["findings"]


def test_batch_with_ours(detcheck, reacting):
    asked = "--prompt", "Tell me about him", "--batch-sizes", "1,2,5"
    result = detcheck("batch", "--kernels", "both", *asked, "--format", "json", "-q")
    report = json.loads(result.out)
    assert (result.code, report["verdict"]) == (0, "identical"), result.err
    assert {f["case"]["kernels"]: f["verdict"] for f in report["findings"]} == {
        "batch-invariant": "identical",
        "stock": "batch-variant",
    }


@pytest.fixture
def written_out(tmp_path, monkeypatch):
    """Arguments: GPT-2 with layer norms that are written out by a variance, for which there is no kernel of ours."""
    import transformers
    from transformers import AutoTokenizer

    from detcheck.models import amplifier

    def norm(self, x):
        variance = x.var(-1, keepdim=True, unbiased=False)
        return (x - x.mean(-1, keepdim=True)) * (variance + self.eps).rsqrt() * self.weight + self.bias

    monkeypatch.setattr(torch.nn.LayerNorm, "forward", norm)
    monkeypatch.setattr(switch, "_asked", {})
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "vocab_size": amplifier.VOCABULARY}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(tmp_path)
    about = "-n", 8, "--max-tokens", 8, "--ignore-eos", "--kernels", "batch-invariant", "--format", "json", "-q"
    return "completions", "--model", tmp_path, *about


VARIANCE = "aten::var.correction"


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ("", 0, f"; ran without a kernel of ours: {VARIANCE}"),
        ("alike", 0, f"a row had the bits that it has alone: {VARIANCE} ("),
        ("unlike", 3, f"gave a row other bits in the batch than alone: {VARIANCE} (in "),
    ],
)
def test_what_runs_without_a_kernel_of_ours_is_asked_whether_the_batch_reaches_it(
    detcheck, written_out, monkeypatch, found, code, said
):
    monkeypatch.setattr(switch.row_alone, "asked", lambda run, arguments, options, made: found)
    result = detcheck(*written_out)
    (finding,) = json.loads(result.out)["findings"]
    assert (result.code, finding["verdict"]) == (code, "inconclusive" if code else "identical"), finding["note"]
    assert said in finding["note"]


def test_stock_is_really_asked(detcheck, written_out):
    """What stock's variance does here is not known beforehand: what is said of it has to be what was found."""
    (finding,) = json.loads(detcheck(*written_out).out)["findings"]
    coverage = finding["evidence"]["coverage"]
    asked = {kind for kind in ("alike", "unlike") if VARIANCE in coverage.get(kind, {})}
    assert coverage["uncovered"][VARIANCE] and asked
    assert (finding["verdict"] == "identical") == (asked == {"alike"}), finding["note"]


def test_luck_in_the_first_call_of_a_form_does_not_clear_the_others(detcheck, written_out, monkeypatch):
    times = Counter()

    def asked(run, arguments, options, made):
        times[form := switch.row_alone.form_of(arguments)] += 1
        return "unlike" if times[form] == 2 else "alike"

    monkeypatch.setattr(switch.row_alone, "asked", asked)
    result = detcheck(*written_out)
    assert result.code == 3 and json.loads(result.out)["findings"][0]["evidence"]["coverage"]["unlike"], result.err


def faulty(x, axis=-1):
    """Adds along the axis; in a batch its last row comes out one ulp off."""
    made = x.sum(axis)
    if len(x) > 1:
        made[-1] = made[-1].nextafter(made[-1] + 1)
    return made


@pytest.mark.parametrize(
    ("run", "shape", "found"),
    [
        (lambda x: x.neg(), (4, 8), "alike"),
        (faulty, (4, 8), "unlike"),
        (faulty, (1, 8), ""),  # no neighbours
        (lambda x: x.sum(0), (4, 8), ""),  # its rows are no rows of the result
        (lambda x: x.sum(), (4, 8), ""),
        (lambda x: (x.neg(), x.sum(0)), (4, 4), ""),
        (lambda x: x.expand(4, 8) if len(x) == 4 else 1 / 0, (4, 8), ""),  # refuses one row
    ],
)
def test_a_row_alone(run, shape, found):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert switch.row_alone.asked(run, (x,), {}, run(x)) == found


def test_a_model_that_our_kernels_do_not_reach_has_failed(amplifier, monkeypatch):
    """Sabotage: the switch registers nothing. Equal bits would then be stock's."""
    from detcheck import switch

    monkeypatch.setattr(switch, "_register", lambda undo, only: None)
    with pytest.raises(FailedError, match="ran on our kernels"), amplifier.running(Kernels.BATCH_INVARIANT):
        torch.randn(2, 2) @ torch.randn(2, 2)


def test_what_cannot_run_invariantly_fails_in_words(tmp_path, detcheck):
    folder = llama_like(tmp_path / "model")
    result = detcheck(
        "completions", "--model", folder, "--dtype", "float64", "--kernels", "batch-invariant", "-n", 4, "-q"
    )
    assert result.code == 4 and "no batch-invariant kernel for float64" in result.err and "Traceback" not in result.err


def test_engine_mode_is_refused_with_a_remedy(detcheck):
    result = detcheck("completions", "--kernels", "engine")
    assert result.code == 2 and "has no batch-invariant mode of its own" in result.err
