"""detcheck compare of runs of a real small model that were asked otherwise: threads, batch sizes, tasks, an upgrade. On every machine's stock alike."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from models import llama_like
from transformers import AutoTokenizer

from detcheck.models import amplifier

PROMPT = "Tell me about Richard Feynman"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """One folder that gives a vector and a score."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "intermediate_size": 96,
        "pad_token_id": 0,
    }
    config = transformers.BertConfig(vocab_size=amplifier.VOCABULARY, max_position_embeddings=256, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(folder)
    return folder


@pytest.fixture
def run(detcheck):
    """Words of a command -> the folder of its run."""

    def make(*words):
        before = set(Path("runs").glob("*"))
        result = detcheck(*words, "--prompt", PROMPT, "-q")
        made = set(Path("runs").glob("*")) - before
        assert made, result.err
        return made.pop()

    return make


@pytest.fixture
def compared(detcheck):
    def call(a, b):
        result = detcheck("compare", a, b, "--format", "json")
        (finding,) = json.loads(result.out)["findings"]
        return result.code, finding["verdict"], finding

    return call


def test_other_threads_and_other_sizes_part_nothing_that_both_have(run, compared, llama, reacting):
    """Stock that depends on the number of rows alone, so that equal conditions are equal whatever else was asked."""
    ask = ("completions", "--model", llama, "-n", "16", "--max-tokens", "4", "--conditions", "alone,batch")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = run(*ask, "--batch-sizes", "1,2,4")
        torch.set_num_threads(2)
        again = run(*ask, "--batch-sizes", "1,2,4")
    finally:
        torch.set_num_threads(before)
    code, verdict, finding = compared(first, again)
    assert "threads: 1 then, 2 now" in finding["evidence"]["changed"]
    assert all(n["both"] and not n["alone"] for n in finding["evidence"]["places"].values())
    assert (code, verdict) in ((0, "identical"), (1, "divergent"))  # attention may follow the threads, here or there
    same = run(*ask, "--batch-sizes", "1,2,4")
    if before == 2:
        code, verdict, finding = compared(again, same)
        assert (code, verdict) == (0, "identical") and "in each of 3 conditions" in finding["note"]
    others = run(*ask, "--batch-sizes", "1,2,8")
    code, verdict, finding = compared(same, others)
    assert (code, verdict) == (3, "inconclusive")
    assert "only the first has batch-4; only the second has batch-8" in finding["note"]
    assert finding["evidence"]["places"]["batch-4"]["both"] == 0 < finding["evidence"]["places"]["batch-2"]["both"]


def test_an_upgrade_that_changes_one_condition_is_found_there(run, compared, llama, reacting, monkeypatch):
    """A stock whose products of four rows are others since then."""
    import reacting as stock

    ask = ("completions", "--model", llama, "-n", "16", "--max-tokens", "4", "--conditions", "alone,batch", "--batch-sizes", "1,2,4")  # fmt: skip
    first, plain = run(*ask), stock.product
    monkeypatch.setattr(stock, "product", lambda x, *rest: plain(x, *rest) * (1.001 if len(x) == 4 else 1))
    code, verdict, finding = compared(first, run(*ask))
    assert (code, verdict) == (1, "divergent") and "in 1 of 3 conditions (batch-4)" in finding["note"]
    assert finding["metrics"]["max_abs"] > 0


def test_embeddings_are_compared_and_what_is_another_question_is_refused(run, compared, bert, reacting):
    ask = ("batch", "--model", bert, "--batch-sizes", "1,2,4")
    embedded, again = run(*ask, "--task", "embed"), run(*ask, "--task", "embed")
    code, verdict, finding = compared(embedded, again)
    assert (code, verdict) == (0, "identical"), finding["note"]
    assert finding["distinct_bits"] > 1 and "conditions" in finding["note"]
    scored = run(*ask, "--task", "score")
    code, verdict, finding = compared(embedded, scored)
    assert (code, verdict) == (3, "inconclusive")
    assert finding["note"] == "not comparable: one is of batch --task embed and one of batch --task score"


def test_an_embedding_that_an_upgrade_changed_is_divergent(run, compared, bert, reacting, monkeypatch):
    import reacting as stock

    ask = ("batch", "--model", bert, "--batch-sizes", "1,2,4", "--task", "embed")
    first, plain = run(*ask), stock.product
    monkeypatch.setattr(stock, "product", lambda x, *rest: plain(x, *rest) * (1 + 1e-4))
    code, verdict, finding = compared(first, run(*ask))
    assert (code, verdict) == (1, "divergent") and finding["metrics"]["max_abs"] > 0
    assert "alone" in finding["note"] and finding["evidence"]["places"]["alone"]["other"] == 1


def test_scores_of_another_kind_and_other_prompts_are_refused_in_a_sentence(detcheck, run, compared, llama):
    ask = ("--model", llama, "-n", "4", "--batch-sizes", "1,2", "--conditions", "alone,batch")
    made = run("completions", *ask, "--max-tokens", "2")
    before = set(Path("runs").glob("*"))
    detcheck(
        "score",
        "--model",
        llama,
        "-n",
        "12",
        "--batch-sizes",
        "1,2",
        "--prompt",
        PROMPT,
        "--continuation",
        " and light",
        "-q",
    )
    (scored,) = set(Path("runs").glob("*")) - before
    code, _, finding = compared(made, scored)
    assert code == 3 and finding["note"] == "not comparable: one is of completions and one of score"
    before = set(Path("runs").glob("*"))
    detcheck("completions", *ask, "--max-tokens", "2", "--prompt", "Something else", "-q")
    (other,) = set(Path("runs").glob("*")) - before
    code, _, finding = compared(made, other)
    assert code == 3 and finding["note"] == "not comparable: they have no prompt (or other input) in common"
