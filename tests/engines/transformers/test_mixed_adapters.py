"""Rows of one batch with several adapters on transformers: each gives what its adapter gives alone, and what leaks from a neighbour is found."""

import json
import shutil

import pytest
import torch
from adapters import lora
from conftest import only_run
from models import llama_like
from peft.tuners.lora import layer as peft_layer

from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.models.adapter import find

IDS = (5, 9, 200, 31, 77)
OURS = ("--kernels", "batch-invariant", "-n", "8", "--max-tokens", "4", "--batch-sizes", "1,4")
SMALL = ("--prompt", "a b c", "--format", "json", "-q")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, llama):
    """Of two adapters, on other modules and of other ranks."""
    place = tmp_path_factory.mktemp("adapters")
    return lora(llama, place / "polite"), lora(llama, place / "rude", seed=2, r=2, target_modules=["q_proj", "up_proj"])


def asked(llama, folders, *more):
    tested, other = folders
    given = ["--engine", "transformers", "--model", llama, "--adapter", tested, "--other-adapter", other]
    return ["completions", *given, *SMALL, *more]


def found(result):
    assert result.out, result.err
    (finding,) = json.loads(result.out)["findings"]
    return finding


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_row_gives_what_its_adapter_gives_alone(llama, folders, dtype):
    tested, other = (find(str(one), False) for one in folders)
    engine = TransformersEngine(str(llama), dtype, adapted=tested, others=[other, None])
    engine.load()
    alone = []
    for adapter in (tested, other, None):
        lone = TransformersEngine(str(llama), dtype, adapted=adapter)
        lone.load()
        alone.append(lone._model(input_ids=torch.tensor([IDS])).logits[0])
    with engine._mixed.rows([0, 2, 1]) as met, torch.inference_mode():
        rows = engine._model(input_ids=torch.tensor([IDS] * 3)).logits
    near = 1e-4 if dtype == "float32" else 0.3
    for row, n in zip(rows, (0, 2, 1), strict=True):
        assert torch.allclose(row, alone[n], atol=near)
        assert not any(torch.allclose(row, wrong, atol=near) for m, wrong in enumerate(alone) if m != n)
    assert met == {0, 1, 2}


def test_on_ours_neighbours_with_other_adapters_change_nothing(detcheck, llama, folders):
    result = detcheck(*asked(llama, folders, *OURS))
    report = json.loads(result.out)
    finding = found(result)
    assert (result.code, report["verdict"]) == (0, "identical"), result.err
    assert finding["evidence"]["conditions"]["adapters-4"] == {
        "asked": 2, "formed": 2, "samples": 2, "distinct": 1, "distinct_bits": 1,
    }  # fmt: skip
    assert set(report["digests"]) == {"model", "tokenizer", "adapter", "other adapter 1"}
    flags = report["environment"]["flags"]
    assert flags["adapter"].startswith("polite: LoRA of rank 4 on 6 modules")
    assert (
        flags["other adapters"].startswith("rude: LoRA of rank 2 on 4 modules")
        and "; none, " in flags["other adapters"]
    )
    assert report["reproduce"].count("--other-adapter") == 1


def test_the_model_itself_is_tested_beside_an_adapter(detcheck, llama, folders):
    given = ["--engine", "transformers", "--model", llama, "--other-adapter", folders[0]]
    result = detcheck("completions", *given, *SMALL, *OURS)
    assert (result.code, found(result)["verdict"]) == (0, "identical"), result.err
    assert json.loads(result.out)["environment"]["flags"]["other adapters"].startswith("polite")


def neighbours_own(mixed, layer, x, names, **how):
    """As vLLM 0.32 does it on the CPU: a row without an adapter has its neighbours'."""
    there = [name for name in names if name != "__base__"]
    return mixed(layer, x, adapter_names=[there[-1] if there and name == "__base__" else name for name in names], **how)


def one_ulp(mixed, layer, x, names, **how):
    """The smallest step there is, where rows have several."""
    made = mixed(layer, x, adapter_names=names, **how)
    return made.nextafter(torch.tensor(float("inf"))) if len(set(names)) > 1 else made


@pytest.mark.parametrize("fault", [neighbours_own, one_ulp])
def test_an_adapter_that_reaches_a_neighbours_row_is_found_and_named(
    detcheck, llama, folders, tmp_path, monkeypatch, fault
):
    mixed = peft_layer.Linear._mixed_batch_forward
    monkeypatch.setattr(
        peft_layer.Linear,
        "_mixed_batch_forward",
        lambda self, x, *given, adapter_names, **how: fault(mixed, self, x, adapter_names, **how),
    )
    given = ["--engine", "transformers", "--model", llama, "--other-adapter", folders[0], *SMALL, *OURS]
    result = detcheck("completions", *given)
    finding = found(result)
    assert (result.code, finding["verdict"]) == (1, "batch-variant"), finding["note"]
    assert finding["evidence"]["varies_with"] == ["adapters"]
    assert finding["evidence"]["first_variant_condition"] == "adapters-4"
    assert "where neighbours have another adapter than the prompt" in finding["note"]
    run = only_run(tmp_path / "runs")
    assert "An adapter of its neighbours reaches the row" in " ".join(detcheck("report", run).out.split())
    result = detcheck("bisect", run, "-q")
    assert result.code == 2 and "bisect puts on one adapter" in " ".join(result.err.split())


def test_neighbours_that_did_not_get_their_adapter_are_no_pass(detcheck, llama, folders, monkeypatch):
    from detcheck.engines.transformers.mixed import Mixed

    rows = Mixed.rows
    monkeypatch.setattr(Mixed, "rows", lambda self, which: rows(self, which if len(which) == 1 else [0] * len(which)))
    result = detcheck(*asked(llama, folders, *OURS))
    assert (result.code, found(result)["verdict"]) == (3, "inconclusive"), result.err


def test_what_does_not_go_together_is_refused(detcheck, llama, folders, tmp_path):
    tested, other = folders
    same = shutil.copytree(tested, tmp_path / "same")
    nothing, dora = lora(llama, tmp_path / "nothing", std=0.0), lora(llama, tmp_path / "dora", use_dora=True)
    base = ["completions", "--engine", "transformers", "--model", llama, *SMALL, *OURS]
    for more, said in (
        (["--adapter", tested, "--other-adapter", same], "two of the adapters that are given are the same"),
        (["--other-adapter", nothing], "so that neighbours with it show nothing"),
        (["--adapter", tested, "--other-adapter", dora], "peft does not mix these adapters in a batch"),
        (["--adapter", tested, "--merge-adapter", "--other-adapter", other], "only where none is merged"),
        (["--adapter", tested, "--other-adapter", llama], "--other-adapter"),
        (["--adapter", tested, "--conditions", "adapters"], "add --other-adapter FOLDER"),
        (["--adapter", tested, "--other-adapter", other, "--conditions", "alone"], "add adapters to it"),
    ):
        result = detcheck(*base, *more)
        words = " ".join(result.err.split())
        assert result.code == 2 and said in words and "Traceback" not in words, words
    result = detcheck("completions", "--base-url", "http://127.0.0.1:1/v1", "--other-adapter", other, "--prompt", "a")
    assert result.code == 2 and "--other-adapter is for transformers and vLLM" in " ".join(result.err.split())
