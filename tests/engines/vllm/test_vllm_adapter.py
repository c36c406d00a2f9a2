"""LoRA adapters in the real vLLM on the CPU: what it computes is what peft computes, what it would leave out without a word is refused."""

import json
import shutil

import numpy as np
import pytest
from adapters import lora, with_tensors
from conftest import only_run
from models import llama_like

from detcheck.engine import Row
from detcheck.models.adapter import find

pytestmark = pytest.mark.usefixtures("needs_vllm")
IDS = tuple(range(300, 340))
SMALL = ("--engine", "vllm", "--prompt", "a b c", "--format", "json", "-q")
FEW = ("-n", "8", "--max-tokens", "8", "--conditions", "alone,wave-4,ragged-4")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama"), hidden_size=128)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, llama):
    return lora(llama, tmp_path_factory.mktemp("adapters") / "polite")


KINDS = {  # what an adapter changes
    "plain": {},
    "all layers, of several ranks": {"target_modules": "all-linear", "rank_pattern": {"q_proj": 9}, "use_rslora": True},
    "with embeddings": {"target_modules": ["embed_tokens", "o_proj"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_is_what_peft_runs(llama, tmp_path, kind):
    from detcheck.engines.transformers.engine import TransformersEngine
    from detcheck.engines.vllm.engine import VllmEngine

    adapted = find(str(lora(llama, tmp_path / "adapter", **KINDS[kind])), False)
    theirs, own = VllmEngine(str(llama), adapted=adapted), TransformersEngine(str(llama), adapted=adapted)
    try:
        theirs.load(256), own.load()
        with theirs.running("stock"):
            seen = theirs.complete([Row(IDS)], 4, ignore_eos=True).completions[0]
    finally:
        theirs.close()
    expected = own.complete([Row(IDS)], 4, ignore_eos=True).completions[0]
    assert seen.tokens == expected.tokens
    np.testing.assert_allclose(seen.logprobs, expected.logprobs, atol=1e-4)
    assert theirs.flags["adapter"] == own.flags["adapter"] and theirs.digests["adapter"] == own.digests["adapter"]
    assert theirs.flags["adapter effect"].startswith("the adapter changes ")


def test_on_ours_completions_are_identical_and_the_adapters_products_are_counted(detcheck, llama, adapter, tmp_path):
    asked = ["completions", "--model", llama, *SMALL, *FEW, "--kernels", "batch-invariant"]
    result = detcheck(*asked, "--adapter", adapter)
    report = json.loads(result.out)
    (finding,) = report["findings"]
    assert (result.code, report["verdict"]) == (0, "identical") and report["digests"]["adapter"], result.err
    assert (
        finding["evidence"]["coverage"]["overridden"]["aten::bmm"] and not finding["evidence"]["coverage"]["uncovered"]
    )
    other = only_run(tmp_path / "runs")
    without = json.loads(detcheck(*asked).out)["findings"][0]
    assert "aten::bmm" not in without["evidence"]["coverage"]["overridden"]
    assert without["mode_text"] != finding["mode_text"]
    (plain,) = set((tmp_path / "runs").glob("*")) - {other}
    assert "only the first has an adapter" in detcheck("compare", other, plain).out


def another_layer(tensors):
    return {name.replace("layers.1.", "layers.7."): tensor for name, tensor in tensors.items()}


def with_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


WRONG = {  # name -> (what becomes of an adapter, what is said)
    "of a layer that is not there": (lambda f: with_tensors(f, another_layer), "are missing"),
    "a tensor left out": (lambda f: with_tensors(f, lambda t: dict(sorted(t.items())[1:])), "1 is missing"),
    "another rank": (lambda f: with_config(f, r=2), "of another shape"),
    "a rank that vLLM has no room for": (lambda f: with_config(f, r=1000), "of rank 1000, and vLLM takes up to 512"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_vllm_would_take_without_a_word_is_refused(detcheck, llama, adapter, tmp_path, kind):
    change, said = WRONG[kind]
    wrong = change(shutil.copytree(adapter, tmp_path / "adapter"))
    result = detcheck("completions", "--model", llama, "--adapter", wrong, *SMALL)
    words = " ".join(result.err.split())
    assert result.code == 2 and said in words and "Traceback" not in words, words


def test_a_module_that_vllm_does_not_use_is_seen_in_its_workers(detcheck, llama, adapter, tmp_path, monkeypatch):
    """Without what is checked before: vLLM itself takes this adapter."""
    from detcheck.engines.vllm import engine

    monkeypatch.setattr(engine.adapter, "check", lambda checkpoint, adapters: {})
    wrong = with_tensors(shutil.copytree(adapter, tmp_path / "adapter"), another_layer)
    result = detcheck("completions", "--model", llama, "--adapter", wrong, *SMALL)
    words = " ".join(result.err.split())
    assert result.code == 2 and "vLLM has no place for 3 modules" in words and "model.layers.7." in words, words


def test_what_vllm_refuses_is_said(detcheck, llama, tmp_path):
    dora = lora(llama, tmp_path / "dora", use_dora=True)
    result = detcheck("completions", "--model", llama, "--adapter", dora, *SMALL)
    words = " ".join(result.err.split())
    assert result.code == 2 and "does not yet support DoRA" in words and "merge it into the model" in words, words


def test_options_that_do_not_go_together(detcheck, llama, adapter):
    there = ["--model", llama, "--engine", "vllm", "--prompt", "a", "-q"]
    for command, words in (
        (["completions", "--adapter", adapter, "--merge-adapter"], "vLLM computes an adapter beside the weights"),
        (["completions", "--adapter", adapter, "--engine-arg", "enable_lora=true"], "use --adapter"),
        (["bisect", "--adapter", adapter], "bisect asks single modules again"),
        (["score", "--continuation", " b", "--adapter", adapter], "fails where it scores prompts"),
        (["completions", "--adapter", llama], "there is no adapter_config.json"),
    ):
        result = detcheck(*command, *there)
        assert result.code == 2 and words in " ".join(result.err.split()), result.err


BESIDE = ("-n", "8", "--max-tokens", "8", "--conditions", "alone,adapters-4", "--kernels", "batch-invariant")


def test_on_ours_neighbours_with_other_adapters_change_nothing(detcheck, llama, adapter, tmp_path):
    other = lora(llama, tmp_path / "rude", seed=2, r=2)
    result = detcheck("completions", "--model", llama, "--adapter", adapter, "--other-adapter", other, *SMALL, *BESIDE)
    report = json.loads(result.out)
    assert (result.code, report["verdict"]) == (0, "identical"), result.err
    formed = report["findings"][0]["evidence"]["conditions"]["adapters-4"]
    assert (formed["asked"], formed["formed"], formed["requests"]) == (2, 2, 4)
    assert report["environment"]["flags"]["other adapters"] == "rude: LoRA of rank 2 on 6 modules; none"


def test_a_request_without_an_adapter_that_gets_its_neighbours_is_found(detcheck, llama, adapter):
    """A defect of vLLM 0.32 on the CPU: its products index the adapters by -1 where there is none, which is the last of them."""
    result = detcheck("completions", "--model", llama, "--other-adapter", adapter, *SMALL, *BESIDE)
    (finding,) = json.loads(result.out)["findings"]
    assert (result.code, finding["verdict"]) == (1, "batch-variant"), result.err
    assert finding["evidence"]["varies_with"] == ["adapters"] and finding["common_prefix"] == 0
    assert finding["evidence"]["conditions"]["wave-4"]["distinct_bits"] == 1
