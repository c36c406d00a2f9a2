"""The real vLLM on the CPU as the sampler, against transformers as the trainer: what it was asked to do to its log-probabilities is named."""

import json

import pytest
from models import llama_like

pytestmark = pytest.mark.usefixtures("needs_vllm")
SIDES = [
    "--sampler",
    "vllm",
    "--trainer",
    "transformers",
    "--max-tokens",
    "12",
    "--trials",
    "1",
    "--format",
    "json",
    "-q",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("model"), hidden_size=128)


def test_processed_log_probabilities_are_named_with_their_value(detcheck, llama, write):
    """vLLM draws, and gives log-probabilities behind top-p: they are not those of the model."""
    file = write(
        "prompts.txt", "Tell me about Richard Feynman", "He liked to take things apart", "Ask the same question twice"
    )
    sampling = ["--sampling", "temperature=1", "--sampling", "top_p=0.8", "-n", "2", "--conditions", "alone,padded-4"]
    asked = [
        *SIDES,
        *sampling,
        "--engine-arg",
        "logprobs_mode=processed_logprobs",
        "--model",
        llama,
        "--prompt-file",
        file,
    ]
    result = detcheck("logprobs", *asked)
    report = json.loads(result.out)
    (finding,) = report["findings"]
    cause = finding["evidence"]["causes"][0]
    assert (result.code, finding["verdict"], finding["samples"]) == (1, "divergent", 6)
    assert cause["kind"] == "top_p" and cause["certain"], cause
    low, high = (
        float(word) for word in cause["why"].split("probability, ")[1].split(". ")[0].replace("< p <=", "").split()
    )
    assert low < 0.8 <= high
    assert report["environment"]["flags"]["sampling"] == "temperature=1, top_p=0.8"


def test_raw_log_probabilities_are_the_models(detcheck, llama):
    """Drawn at a temperature all the same: nothing is named, and what is left is rounding."""
    asked = [
        *SIDES,
        "--sampling",
        "temperature=1.5",
        "--kernels",
        "batch-invariant",
        "--model",
        llama,
        "--prompt",
        "Tell me about Richard Feynman",
    ]
    result = detcheck("logprobs", *asked, "--conditions", "alone", "--max-diff", "1e-3")
    (finding,) = json.loads(result.out)["findings"]
    assert result.code == 0 and finding["evidence"]["causes"] == [] and finding["metrics"]["max_abs"] < 1e-3
