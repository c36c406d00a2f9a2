"""`batch --backward`: the gradients of one sample's loss, on the amplifier and on small models, sound and with a fault planted."""

import json

import pytest
import torch
from conftest import only_run
from models import llama_like

from detcheck import runner
from detcheck.engines.transformers import gradients as observed
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.kernels._shared import over_rows
from detcheck.probes.batch import session as batch
from detcheck.probes.batch.options import Options
from detcheck.probes.batch.session import Batch
from detcheck.report import render
from detcheck.spec import Kernels, Spec
from detcheck.verdict import Verdict

OPTIONS = Options(prompt="Tell me about Richard Feynman", backward=True)
ON = ("batch", "--backward", "--prompt", "Tell me about Richard Feynman", "--batch-sizes", "1,2", "-q")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A Llama of two layers, loaded once."""
    engine = TransformersEngine(str(llama_like(tmp_path_factory.mktemp("llama"))))
    engine.load()
    return engine


def asked(monkeypatch, engine, tmp_path, kernels=Kernels.BATCH_INVARIANT, **spec):
    monkeypatch.setattr(batch, "open_session", lambda spec, planned=None: Batch(spec, engine, planned))
    return runner.run(Spec("batch", OPTIONS, kernels=kernels, **{"batch_sizes": (1, 2, 4)} | spec), tmp_path / "runs")


def test_ours_have_the_bits_of_the_prompt_alone_and_stock_does_not(detcheck, reacting, small):
    done = detcheck(*ON, "--model", small.name, "--kernels", "both", "--format", "json")
    found = {finding["case"]["kernels"]: finding for finding in json.loads(done.out)["findings"]}
    ours, control = found["batch-invariant"], found["stock"]
    assert (done.code, ours["verdict"], control["verdict"]) == (0, "identical", "batch-variant"), done.err
    seen = ours["evidence"]["gradients"]
    assert seen == {"of": 1 + sum(1 for _ in small.model.parameters()), "differing": 0}
    assert f"have the same bits in all {seen['of']} gradients" in ours["note"]
    assert ours["evidence"]["coverage"]["uncovered"] == {}
    assert "detcheck::products_over_rows" in ours["evidence"]["coverage"]["overridden"]
    differs = control["evidence"]["gradients"]
    assert differs["first"] == "lm_head.weight" and differs["first_abs"] > 0
    assert "in the order of the backward pass first that of lm_head.weight" in control["note"]
    assert any("decode" in str(left_out) for left_out in ours["evidence"]["not_tried"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sound_model_passes_and_what_is_stored_says_the_same(monkeypatch, tmp_path, dtype):
    engine = TransformersEngine(str(llama_like(tmp_path / "llama")), dtype)
    engine.load()
    run = asked(monkeypatch, engine, tmp_path)
    (finding,) = run.findings
    assert finding.verdict is Verdict.IDENTICAL, finding.note
    parameters = sum(1 for _ in engine.model.parameters())
    assert finding.evidence["gradients"] == {"of": parameters + 1, "differing": 0}
    assert {"1", "2", "4"} == set(finding.evidence["batch_sizes"])  # rows of the backward passes themselves
    stored = runner.load(only_run(tmp_path / "runs"))
    assert [(f.verdict, f.note, f.evidence["gradients"]) for f in stored.findings] == [
        (finding.verdict, finding.note, finding.evidence["gradients"])
    ]
    said = " ".join(render(stored, "terminal").split())
    assert f"all {parameters + 1} gradients are equal: of the prompt's inputs, and of each parameter" in said
    assert not any(p.grad is not None for p in engine.model.parameters())


def test_a_weights_gradient_that_follows_its_place_is_caught(monkeypatch, tmp_path, small):
    """Every row's own numbers are right: what differs is the sum over tokens, first that of the parameter next to the loss."""
    from detcheck.kernels.matmul import mm

    monkeypatch.setattr(over_rows, "products", lambda a, g: mm(a.t(), g))
    run = asked(monkeypatch, small, tmp_path)
    (finding,) = run.findings
    assert finding.verdict is Verdict.BATCH_VARIANT
    seen = finding.evidence["gradients"]
    assert seen["first"] == "lm_head.weight" and 0 < seen["first_abs"] < 1e-3 and 0 < seen["differing"] < seen["of"]
    said = render(run, "md")
    assert "the first is that of lm_head.weight, by up to" in said and "from the prompt alone" in said


def test_a_fault_in_one_op_is_named_by_the_first_parameter_behind_it(monkeypatch, tmp_path, small):
    """An activation of the first layer whose backward pass looks at how many rows there are: what comes before it in that pass is equal."""
    layer = small.model.model.layers[0].mlp

    def faulty(module, gradients, _):
        (grad,) = gradients
        return (grad * (1 + 2.0**-20),) if len(grad) > 2 else None

    hook = layer.down_proj.register_full_backward_hook(faulty)
    try:
        (finding,) = asked(monkeypatch, small, tmp_path).findings
    finally:
        hook.remove()
    assert finding.verdict is Verdict.BATCH_VARIANT and finding.evidence["first_variant_condition"] == "batch-4"
    seen = finding.evidence["gradients"]
    assert seen["first"].startswith("model.layers.0.mlp.") and "down_proj" not in seen["first"]
    assert seen["differing"] < seen["of"] / 2 + 3


def test_where_no_gradient_reaches_the_prompt_nothing_is_said_of_it(monkeypatch, tmp_path, small):
    weight = small.model.lm_head.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.zero_()
        (finding,) = asked(monkeypatch, small, tmp_path).findings
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert finding.verdict is Verdict.FAILED and "no gradient reaches the prompt's tokens" in finding.note


def test_one_kind_of_batch_is_no_pass(monkeypatch, tmp_path, small):
    monkeypatch.setattr(batch, "swept", lambda *_: [])
    (finding,) = asked(monkeypatch, small, tmp_path, batch_sizes=(1,), trials=2).findings
    assert finding.verdict is Verdict.INCONCLUSIVE and "only one kind of batch was met" in finding.note


def test_stock_that_does_not_react_makes_it_inconclusive(monkeypatch, tmp_path, small):
    """Both arms on ours: then the control shows nothing, whatever this machine's stock does."""
    real = TransformersEngine.running
    monkeypatch.setattr(TransformersEngine, "running", lambda self, kernels: real(self, Kernels.BATCH_INVARIANT))
    run = asked(monkeypatch, small, tmp_path, kernels=Kernels.BOTH)
    assert run.verdict is Verdict.INCONCLUSIVE
    assert any("stock kernels did not react either" in finding.note for finding in run.findings)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--task", "embed"), "Leave --task embed out"),
        (("--cache", "static"), "Leave --cache static out"),
        (("--compile",), "Leave --compile out"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_loaded(detcheck, more, says):
    done = detcheck(*ON, *more)
    assert done.code == 2 and says in " ".join(done.err.split())


def test_gradients_are_those_of_a_plain_loop(small):
    """Of the loss that is promised, against torch itself: and neighbours' tokens have none."""
    prompt, other = small.encode(OPTIONS.prompt), small.encode("Something else")
    model = small.model
    taken, rows = observed.gradients(small, [other, prompt], [1], None)
    ids = torch.tensor([prompt])
    logits = model(input_ids=ids).logits[:, :-1].float()
    torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).sum().neg().backward()
    named = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    assert rows == (2,) and set(taken[0].hashes) == {*named, observed.INPUTS}
    for name, gradient in named.items():
        found = torch.from_numpy(taken[0].bits[name]).view(torch.float32).view(gradient.shape)
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
