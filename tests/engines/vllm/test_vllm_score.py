"""Given tokens, scored by the real vLLM on the CPU: what transformers gives for them, and bits that follow the batch on stock and not on ours."""

import json

import numpy as np
import pytest
from models import llama_like

from detcheck.engine import Row
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.likelihood import likelihood

pytestmark = pytest.mark.usefixtures("needs_vllm")
ASKED = ["--engine", "vllm", "--prompt", "Tell me about Richard Feynman", "--continuation", " and his drums"]
GIVEN = 8


def test_log_probabilities_are_those_of_the_model(tmp_path):
    from detcheck.engines.vllm.engine import VllmEngine

    folder = str(llama_like(tmp_path / "model", hidden_size=128))
    theirs, own = VllmEngine(folder), TransformersEngine(folder)
    row = tuple(range(300, 400))
    try:
        theirs.load(256), own.load()
        with theirs.running("stock"):
            whole = theirs.score([Row(row), Row(row[:50], row[:5])], GIVEN)
            cut = theirs.score([Row(row)], GIVEN, token_budget=40)
            made = theirs.complete([Row(row[:-GIVEN])], GIVEN, ignore_eos=True).completions[0]
            again = theirs.score([Row(row[:-GIVEN] + made.tokens)], GIVEN).completions[0]
    finally:
        theirs.close()
    expected = likelihood(own, [row], [0], GIVEN).completions[0]
    assert list(whole.completions) == [0] and cut.traces[0].chunks == 3 and cut.traces[0].cached == 0
    for found in (whole.completions[0], cut.completions[0]):
        assert (found.tokens, found.runners_up, found.finish_reason) == (row[-GIVEN:], expected.runners_up, "")
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
        np.testing.assert_allclose(found.margins, expected.margins, atol=1e-4)
    assert (again.tokens, again.runners_up) == (made.tokens, made.runners_up) and (again.margins > 0).all()
    np.testing.assert_allclose(again.logprobs, made.logprobs, atol=1e-4)


def test_stock_is_batch_variant_and_ours_is_identical(detcheck, reacting):
    result = detcheck("score", *ASKED, "--kernels", "both", "-n", "24", "--format", "json", "-q")
    found = {f["case"]["kernels"]: f for f in json.loads(result.out)["findings"]}
    ours, control = found["batch-invariant"], found["stock"]
    assert (result.code, control["verdict"], control["distinct"]) == (0, "batch-variant", 1), result.err
    assert control["distinct_bits"] > 1
    assert (ours["verdict"], ours["distinct_bits"], ours["samples"]) == ("identical", 1, 24), ours["note"]
    conditions = ours["evidence"]["conditions"]
    assert {name.split("-")[0] for name in conditions} == {"alone", "wave", "chunked", "edges"}
    assert all(c["formed"] == c["asked"] for c in conditions.values())
    assert "aten::_log_softmax" in ours["evidence"]["coverage"]["overridden"]
    assert ours["metrics"]["loglikelihood"] == pytest.approx(control["metrics"]["loglikelihood"], abs=1)


def test_a_fault_of_stock_exits_with_1(detcheck, reacting):
    result = detcheck("score", *ASKED, "-n", "16", "--batch-sizes", "1,4", "--format", "json", "-q")
    (found,) = json.loads(result.out)["findings"]
    assert (result.code, found["verdict"]) == (1, "batch-variant"), found["note"]
    assert any(
        str(line).startswith("cached-1: vLLM computes a prompt whole") for line in found["evidence"]["not_tried"]
    )
