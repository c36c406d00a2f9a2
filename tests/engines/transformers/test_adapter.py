"""LoRA adapters on the transformers engine: what runs is what peft runs, what does not fit is refused, and a fault in one is found."""

import json
import shutil
import sys

import peft
import pytest
import torch
from adapters import WEIGHTS, lora, with_tensors
from conftest import only_run
from models import llama_like
from planted import PROMPT, ROWS, Fault, Place, Planted, bisected, gpt2_like, places, verdict_on
from transformers import AutoModelForCausalLM

from detcheck import runner
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.models.adapter import find
from detcheck.probes.batch import session as batch
from detcheck.probes.batch.options import Options
from detcheck.probes.batch.session import Batch
from detcheck.spec import Kernels, Spec
from detcheck.verdict import Verdict

IDS = torch.tensor([[5, 9, 200, 31, 77]])
SMALL = ("--prompt", "a b c", "--format", "json", "-q")
COMPLETE = ("completions", "--engine", "transformers", "-n", "4", "--max-tokens", "8", *SMALL)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, llama):
    return lora(llama, tmp_path_factory.mktemp("adapters") / "polite")


def opened(model, adapter, merged=False, **how):
    engine = TransformersEngine(str(model), adapted=find(str(adapter), merged), **how)
    engine.load()
    return engine


def tied(folder):
    return llama_like(folder, tie_word_embeddings=True)


SOUND = {  # name -> (the model, what its adapter changes)
    "plain": (llama_like, {}),
    "all layers, of several ranks": (llama_like, {"target_modules": "all-linear", "rank_pattern": {"q_proj": 8}}),
    "rank-stabilised": (llama_like, {"use_rslora": True}),
    "DoRA": (llama_like, {"use_dora": True}),
    "with a head stored whole": (llama_like, {"modules_to_save": ["lm_head"]}),
    "with embeddings": (llama_like, {"target_modules": ["embed_tokens", "o_proj"]}),
    "tied weights": (tied, {}),
    "GPT-2": (gpt2_like, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
}


@pytest.mark.parametrize("merged", [False, True], ids=["apart", "merged"])
@pytest.mark.parametrize("kind", SOUND)
def test_what_runs_is_what_peft_runs(tmp_path, kind, merged):
    make, changes = SOUND[kind]
    model = make(tmp_path / "model")
    adapter = lora(model, tmp_path / "adapter", **changes)
    engine = opened(model, adapter, merged)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).eval()
    theirs = theirs.merge_and_unload() if merged else theirs
    with torch.no_grad():
        assert torch.equal(engine._model(input_ids=IDS).logits, theirs(input_ids=IDS).logits)
        assert not torch.equal(engine._model(input_ids=IDS).logits, plain(model)(input_ids=IDS).logits)
    assert engine.flags["adapter effect"].startswith("the adapter changes logits by up to")


def plain(model):
    return AutoModelForCausalLM.from_pretrained(model)


def test_what_is_said_of_it(llama, adapter):
    apart, merged, half = opened(llama, adapter), opened(llama, adapter, True), opened(llama, adapter, dtype="bf16")
    assert apart.flags["adapter"] == "polite: LoRA of rank 4 on 6 modules, not merged"
    assert merged.flags["adapter"] == "polite: LoRA of rank 4 on 6 modules, merged"
    assert "; merging moves them by up to" in merged.flags["adapter effect"]
    assert apart.digests == merged.digests and apart.digests["adapter"] not in (None, apart.digests["model"])
    assert half.dtype == "bfloat16"


@pytest.mark.parametrize(("how", "merged"), [({"std": 0.0}, False), ({"std": 0.0}, True), ({"lora_alpha": 0}, False)])
def test_an_adapter_that_changes_nothing_is_told(detcheck, llama, tmp_path, how, merged):
    more = ["--merge-adapter"] if merged else []
    result = detcheck(*COMPLETE, "--model", llama, "--adapter", lora(llama, tmp_path / "a", **how), *more)
    assert result.code in (0, 1, 3), result.err
    said = json.loads(result.out)["environment"]["flags"]["adapter effect"]
    assert said.startswith("the adapter changes no logit")
    for format in ("terminal", "md"):
        assert "changes no logit" in " ".join(
            detcheck("report", only_run(tmp_path / "runs"), "--format", format).out.split()
        )


def config_with(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def without_config(folder):
    (folder / "adapter_config.json").unlink()
    return folder


def with_config(folder, text):
    (folder / "adapter_config.json").write_text(text)
    return folder


def torn(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    return folder


def pickled(folder):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    return folder


def empty(folder):
    (folder / WEIGHTS).unlink()
    return folder


FIRST = "model.layers.0.mlp.down_proj.lora_A.weight"
WRONG = {  # name -> (what becomes of an adapter, exit code, what is said)
    "no folder": (lambda f: f / "nothing", 2, ["no such folder"]),
    "a file": (lambda f: f / WEIGHTS, 2, ["no such folder"]),
    "no config": (without_config, 2, ["there is no adapter_config.json"]),
    "a config that is no JSON": (lambda f: with_config(f, "{"), 2, ["cannot be understood"]),
    "a config that is no object": (lambda f: with_config(f, "[]"), 2, ["cannot be understood"]),
    "another kind of adapter": (lambda f: config_with(f, peft_type="PREFIX_TUNING"), 2, ["of kind PREFIX_TUNING", "runs LoRA"]),
    "a LoRA that is switched on by tokens": (lambda f: config_with(f, alora_invocation_tokens=[1]), 2, ["alora_invocation_tokens"]),
    "pickled weights": (pickled, 2, ["only pickled weights (adapter_model.bin)", "run code"]),
    "no weights": (empty, 2, ["holds no weights"]),
    "a torn file": (torn, 4, ["adapter_model.safetensors is damaged"]),
    "a tensor left out": (
        lambda f: with_tensors(f, lambda t: {k: v for k, v in t.items() if not k.endswith(FIRST)}), 2, [f"1 is missing ({FIRST})"],
    ),
    "a tensor too many": (
        lambda f: with_tensors(f, lambda t: t | {"base_model.model.model.layers.9.mlp.down_proj.lora_A.weight": torch.ones(4, 160)}),
        2, ["1 is in it and not used (model.layers.9.mlp.down_proj.lora_A.weight)"],
    ),
    "no tensor": (lambda f: with_tensors(f, lambda t: {}), 2, ["does not fit"]),
    "another rank than the config's": (lambda f: config_with(f, r=2), 2, ["12 are of another shape"]),
    "modules that the model does not have": (lambda f: config_with(f, target_modules=["query_key_value"]), 2, ["does not fit", "query_key_value"]),
    "a module less than it was made for": (lambda f: config_with(f, target_modules=["q_proj", "v_proj"]), 2, ["4 are in it and not used"]),
    "a head that it says to hold and does not": (lambda f: config_with(f, modules_to_save=["lm_head"]), 2, ["1 is missing (lm_head.weight)"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_the_models_adapter_is_never_run(detcheck, llama, adapter, tmp_path, kind):
    change, code, said = WRONG[kind]
    wrong = change(shutil.copytree(adapter, tmp_path / "adapter"))
    result = detcheck("batch", "--model", llama, "--adapter", wrong, *SMALL)
    words = " ".join(result.err.split())
    assert result.code == code and "Traceback" not in words and "--adapter" in words, words
    assert all(each in words for each in said), words


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"hidden_size": 32}, "of another shape"),
        ({"num_hidden_layers": 3}, "6 are missing"),
        ({"num_hidden_layers": 1}, "6 are in it and not used"),
    ],
)
def test_an_adapter_of_another_model_is_refused(detcheck, adapter, tmp_path, shape, said):
    result = detcheck(*COMPLETE, "--model", llama_like(tmp_path / "other", **shape), "--adapter", adapter)
    words = " ".join(result.err.split())
    assert result.code == 2 and "does not fit" in words and said in words, words


def test_options_that_do_not_go_together(detcheck, llama, adapter, monkeypatch):
    there = ["--model", llama, "--adapter", adapter]
    for command, words in (
        (
            ["completions", "--engine", "vllm", *there, "--merge-adapter"],
            "Merge it with peft (merge_and_unload), save the model",
        ),
        (["bisect", "--engine", "vllm", *there], "bisect asks single modules again"),
        (
            ["completions", "--base-url", "http://127.0.0.1:1/v1", "--merge-adapter"],
            "--merge-adapter is for transformers",
        ),
        (["batch", "--model", llama, "--merge-adapter"], "--merge-adapter is about an adapter"),
        (["batch", "--model", adapter], "Give the folder of its model, and this one with --adapter"),
    ):
        result = detcheck(*command, "--prompt", "a", "-q")
        assert result.code == 2 and words in " ".join(result.err.split()), result.err
    monkeypatch.setitem(sys.modules, "peft", None)
    result = detcheck("batch", *there, *SMALL)
    assert result.code == 4 and "pip install 'detcheck[adapters]'" in result.err


def test_ours_are_identical_and_two_runs_are_compared_where_base_and_adapter_are_the_same(
    detcheck, llama, adapter, tmp_path
):
    def ran(*more):
        before = set((tmp_path / "runs").glob("*"))
        result = detcheck(*COMPLETE, "--model", llama, "--kernels", "batch-invariant", *more)
        assert result.code == 0, result.err
        (folder,) = set((tmp_path / "runs").glob("*")) - before
        return json.loads(result.out), folder

    def compared(a, b):
        result = detcheck("compare", a, b, "--format", "json")
        return result.code, json.loads(result.out)["findings"][0]["note"]

    report, apart = ran("--adapter", adapter)
    assert report["verdict"] == "identical" and report["digests"]["adapter"]
    assert report["reproduce"].count("--adapter") == 1
    _, merged = ran("--adapter", adapter, "--merge-adapter")
    _, without = ran()
    other = lora(llama, tmp_path / "other", seed=2)
    _, another = ran("--adapter", other)
    code, note = compared(apart, merged)
    assert code == 1 and "part at token 0" in note
    code, note = compared(apart, without)
    assert code == 3 and "only the first has an adapter" in note
    code, note = compared(apart, another)
    assert code == 3 and "the adapter is another: SHA-256" in note

    lora(llama, other, seed=3)
    result = detcheck("completions", "--resume", another, "-q")
    assert result.code == 2 and "digest of adapter" in " ".join(result.err.split())


@pytest.mark.parametrize("merged", [False, True], ids=["apart", "merged"])
def test_given_tokens_are_scored_with_the_adapter(detcheck, llama, adapter, tmp_path, merged):
    asked = ["--model", llama, "--adapter", adapter, "--prompt", "a b c", "--continuation", " d e"]
    more = ["--kernels", "batch-invariant", "--batch-sizes", "1,2", "-n", "8", "--format", "json", "-q"]
    result = detcheck("score", *asked, *more, *["--merge-adapter"] * merged)
    report = json.loads(result.out)
    assert (result.code, report["verdict"]) == (0, "identical") and report["digests"]["adapter"], result.err
    engine = opened(llama, adapter, merged)
    context, whole = engine.encode("a b c"), engine.encode("a b c d e")
    with torch.no_grad():
        logprobs = engine._model(input_ids=torch.tensor([whole])).logits[0, len(context) - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(1, torch.tensor(whole[len(context) :])[:, None]).sum().item()
    assert report["findings"][0]["metrics"]["loglikelihood"] == pytest.approx(expected, abs=1e-3)
    result = detcheck("score", *asked, "--engine", "vllm", "-q")
    assert result.code == 2 and "fails where it scores prompts" in " ".join(result.err.split())


def test_a_fault_in_the_adapter_is_seen_in_batches_and_named(llama, adapter, tmp_path, monkeypatch):
    """Ours, so that nothing else differs."""
    engine = opened(llama, adapter)
    there = {p.path: p for p in places(engine) if p.op == "aten::mm"}
    path = "model.layers.1.mlp.down_proj.lora_B.default"
    fault = Fault(there[path], "batch")
    monkeypatch.setattr(batch, "open_session", lambda spec, planned=None: Batch(spec, engine, planned))
    asked = Spec("batch", Options(prompt=PROMPT), kernels=Kernels.BATCH_INVARIANT, batch_sizes=(1, ROWS))
    assert runner.run(asked, tmp_path / "sound").exit_code == 0
    whole = Place("aten::linear", path, 1)  # what a mode sees of the same product in inference mode
    with Planted(engine._model, [Fault(whole, "batch")]).planted():
        ran = runner.run(asked, tmp_path / "planted")
    assert ran.exit_code == 1 and ran.verdict is Verdict.BATCH_VARIANT
    right, wrongly = verdict_on(bisected(engine, [fault]), [fault])
    assert right and not wrongly


def test_a_run_that_differs_is_bisected_with_its_adapter(detcheck, llama, adapter, tmp_path, reacting):
    own = shutil.copytree(adapter, tmp_path / "own")
    result = detcheck("batch", "--model", llama, "--adapter", own, "--merge-adapter", "--batch-sizes", "1,4", *SMALL)
    assert result.code == 1
    run = only_run(tmp_path / "runs")
    result = detcheck("bisect", run, "--format", "json", "-q")
    report = json.loads(result.out)
    assert result.code == 1 and report["environment"]["flags"]["adapter"].endswith("merged"), result.err
    assert report["spec"]["adapter"] == str(own) and "+" in report["spec"]["weights"]
    lora(llama, own, seed=2)
    result = detcheck("bisect", run, *SMALL[2:])
    assert result.code == 2 and "are not there any more" in " ".join(result.err.split())
    result = detcheck("bisect", run, "--adapter", own, "-q")
    assert result.code == 2 and "--adapter is the run's own" in " ".join(result.err.split())
