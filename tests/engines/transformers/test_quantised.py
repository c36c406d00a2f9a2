"""Quantised checkpoints on the transformers engine: what runs is what transformers runs, its products are counted, and what cannot run
is refused by the name of its method."""

import json
import shutil

import pytest
import safetensors.torch as st
import torch
import torchao.quantization as ao
from models import llama_like
from quantised import by_torchao, in_fp8, says, with_tensors
from transformers import AutoModelForCausalLM

import detcheck as package
from detcheck import row_alone, stock_ops
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.models import quantised

IDS = torch.tensor([[5, 9, 200, 31, 77]])
PROMPT = ("--prompt", "a b c d e f", "-q")
BATCH = ("batch", "--batch-sizes", "1,2,3", *PROMPT, "--format", "json")
KINDS = {
    "int8 weights": ao.Int8WeightOnlyConfig(),
    "int8 weights and activations": ao.Int8DynamicActivationInt8WeightConfig(),
    "int8 activations, weights of few bits": ao.Int8DynamicActivationIntxWeightConfig(),
    "fp8 weights": ao.Float8WeightOnlyConfig(),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama") / "llama")


@pytest.fixture(scope="module")
def made(llama, tmp_path_factory):
    place = tmp_path_factory.mktemp("torchao")
    return {name: by_torchao(llama, place / str(n), config) for n, (name, config) in enumerate(KINDS.items())}


def opened(model, **how):
    engine = TransformersEngine(str(model), **how)
    engine.load()
    return engine


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_is_what_transformers_runs_and_is_said(llama, made, kind):
    engine = opened(made[kind])
    assert torch.equal(logits(engine._model), logits(AutoModelForCausalLM.from_pretrained(made[kind])))
    assert not torch.equal(logits(engine._model), logits(AutoModelForCausalLM.from_pretrained(llama)))
    assert engine.flags["weights"] == f"torchao {type(KINDS[kind]).__name__}"
    assert engine.digests["model"] != TransformersEngine(str(llama)).digests["model"]


@pytest.mark.parametrize("kind", KINDS)
def test_on_our_kernels_a_row_is_equal_in_every_batch_and_its_products_are_ours_or_named(detcheck, made, kind):
    found = detcheck(*BATCH, "--model", made[kind], "--kernels", "batch-invariant")
    (finding,) = json.loads(found.out)["findings"]
    assert finding["verdict"] == "identical", finding["note"]
    coverage = finding["evidence"]["coverage"]
    integers = kind == "int8 weights and activations"
    assert coverage["overridden"]["aten::mm"]
    assert list(coverage["uncovered"]) == ["aten::_int_mm"] * integers
    assert list(coverage.get("alike", {})) == list(coverage["uncovered"])  # a call of one row is not asked
    assert ("aten::_int_mm" in finding["note"]) is integers
    assert found.err == ""


def test_half_precision_is_left_as_it_was_saved(llama, tmp_path):
    model = by_torchao(llama, tmp_path / "q", KINDS["int8 weights"], torch.bfloat16)
    assert opened(model).dtype == "bfloat16"


@pytest.mark.parametrize("kind", ["int8 weights", "int8 weights and activations"])
def test_bisect_takes_one_and_sees_the_parts_of_its_weights(detcheck, made, kind):
    asked = ("--model", made[kind], "--batch-sizes", "4", *PROMPT, "--format", "json")
    found = detcheck("bisect", *asked, "--kernels", "batch-invariant")
    assert found.code == 0, found.err
    assert detcheck("bisect", *asked, "--kernels", "stock").code in (0, 1)


def test_score_and_completions_take_one(detcheck, made):
    asked = ("--model", made["int8 weights"], "--kernels", "batch-invariant", "--batch-sizes", "2", *PROMPT)
    assert detcheck("score", "--continuation", "g h", *asked).code == 0
    assert detcheck("completions", "--engine", "transformers", "-n", "4", "--max-tokens", "4", *asked).code == 0


def weights_in_int8():
    w = torch.randint(-127, 127, (48, 64), dtype=torch.int8)
    return w, torch.rand(48)


def test_products_of_quantised_numbers_are_counted_and_asked_of_a_row_alone():
    w, scales = weights_in_int8()
    with package.batch_invariant() as coverage:
        torch._weight_int8pack_mm(torch.randn(5, 64, dtype=torch.bfloat16), w, scales.bfloat16())
        torch._int_mm(torch.randint(-9, 9, (32, 64), dtype=torch.int8), w.t())
    asked = coverage.alike + coverage.unlike
    assert set(coverage.uncovered) == set(asked) == {"aten::_weight_int8pack_mm", "aten::_int_mm"}
    assert coverage.alike["aten::_int_mm"] == 1


def exact(x, w):
    """In float64, added one by one."""
    made = torch.zeros(len(x), w.shape[1], dtype=torch.float64)
    for column, row in zip(x.double().unbind(1), w.double(), strict=True):
        made += column[:, None] * row
    return made


@pytest.fixture
def others():
    """Products that a library of somebody else's brings: a sound one, and one that follows the batch."""
    library = torch.library.Library("detcheck_planted", "DEF")
    for name, run in (("sound_mm", exact), ("unsound_gemv", lambda x, w: exact(x, w) + 1e-3 * len(x))):
        library.define(f"{name}(Tensor x, Tensor w) -> Tensor")
        library.impl(name, run, "CPU")
    stock_ops._foreign.cache_clear()
    yield torch.ops.detcheck_planted
    library._destroy()
    stock_ops._foreign.cache_clear()


def test_a_product_of_another_library_is_counted_and_one_that_follows_the_batch_is_found(others):
    x, w = torch.randn(4, 64), torch.randn(64, 8)
    with package.batch_invariant() as coverage:
        others.sound_mm(x, w)
        others.unsound_gemv(x, w)
    sound, unsound = "detcheck_planted::sound_mm", "detcheck_planted::unsound_gemv"
    assert coverage.uncovered[sound] == coverage.uncovered[unsound] == 1
    assert coverage.alike[sound] == coverage.unlike[unsound] == 1
    assert coverage.unlike[sound] == coverage.alike[unsound] == 0
    assert torch.equal(others.sound_mm(x, w), exact(x, w))  # and behind the block it is its own again


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantised_dtype_is_not_asked():
    made = torch.quantize_per_tensor(torch.randn(4, 8), 0.1, 0, torch.qint8)
    assert row_alone.asked(lambda x: x, (torch.randn(4, 8),), {}, made) == ""


def test_what_transformers_turns_back_is_said(llama, tmp_path):
    engine = opened(in_fp8(llama, tmp_path / "fp8"))
    whole = st.load_file(llama / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    found = engine._model.state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(found, whole.to(torch.float8_e4m3fn).float() * 0.5)
    assert engine.flags["weights"] == "fp8, turned back into float32 by transformers when it was loaded"


def without(*ends):
    return lambda tensors: {name: t for name, t in tensors.items() if not name.endswith(ends)}


def stripped(folder):
    path = folder / "config.json"
    said = json.loads(path.read_text())
    del said["quantization_config"]
    path.write_text(json.dumps(said))
    return folder


def as_integers(tensors):
    return tensors | {"model.layers.0.mlp.up_proj.weight": torch.ones(160, 64, dtype=torch.int8)}


UP = "0.mlp.up_proj._weight"
REFUSED = {  # name -> (how it is made of (a plain folder, one by torchao), exit code, what is said)
    "unknown": (lambda f, q: says(f, {"quant_method": "modelopt"}), 2, ["quantised by modelopt", "--base-url"]),
    "without a name": (lambda f, q: says(f, {"bits": 4}), 2, ["a method without a name"]),
    "not understood": (lambda f, q: says(f, "int8"), 2, ["cannot read config"]),
    "gptq": (lambda f, q: says(f, {"quant_method": "gptq", "bits": 4}), 4, ["quantised by gptq", "--base-url"]),
    "awq": (lambda f, q: says(f, {"quant_method": "awq", "bits": 4}), 4, ["quantised by awq", "--base-url"]),
    "bitsandbytes": (lambda f, q: says(f, {"load_in_8bit": True}), 4, ["quantised by bitsandbytes", "--base-url"]),
    "another's config": (lambda f, q: says(f, {"quant_method": "torchao", "quant_type": {"default": {"_type": "No"}}}), 4, ["torchao"]),
    "integers, unsaid": (lambda f, q: with_tensors(f, as_integers), 2, ["up_proj.weight in I8", "does not say by which"]),
    "torchao, unsaid": (lambda f, q: stripped(q), 2, ["14 are missing", "random numbers"]),
    "a weight is missing": (lambda f, q: with_tensors(q, without(f"{UP}_qdata", f"{UP}_scale", f"{UP}_zero_point")), 2, ["1 is missing"]),
    "its numbers are missing": (lambda f, q: with_tensors(q, without(f"{UP}_qdata")), 4, ["quantised by torchao", "are missing"]),
    "its scale is missing": (lambda f, q: with_tensors(q, without(f"{UP}_scale")), 4, ["quantised by torchao", "are missing"]),
    "a norm is missing": (lambda f, q: with_tensors(q, without("0.input_layernorm.weight")), 2, ["1 is missing"]),
    "fp8 without scales": (lambda f, q: with_tensors(in_fp8(f, f.parent / "fp8"), without("_inv")), 2, ["quantised by fp8", "14 of its"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_run_whole_is_refused_in_words(detcheck, llama, made, tmp_path, kind):
    make, code, words = REFUSED[kind]
    model = make(shutil.copytree(llama, tmp_path / "m"), shutil.copytree(made["int8 weights"], tmp_path / "q"))
    found = detcheck("batch", "--batch-sizes", "1,2", *PROMPT, "--model", model)
    assert found.code == code, found.err
    assert all(part in " ".join(found.err.split()) for part in words), found.err
    assert "Traceback" not in found.err and len(found.err) < 1000


@pytest.mark.parametrize("method", quantised.PACKAGES)
def test_without_its_package_the_command_to_install_it_is_said(detcheck, llama, tmp_path, monkeypatch, method):
    model = says(shutil.copytree(llama, tmp_path / "m"), {"quant_method": method})
    name, install = quantised.PACKAGES[method]
    there = quantised.find_spec
    monkeypatch.setattr(quantised, "find_spec", lambda asked: None if asked == name else there(asked))
    found = detcheck("batch", *PROMPT, "--model", model)
    assert found.code == 4
    assert f"quantised by {method} needs {name}: pip install {install}" in found.err
