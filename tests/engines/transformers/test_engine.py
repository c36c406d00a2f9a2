"""The transformers engine on real models: what it says is what the model says, and its evidence is what was computed."""

import numpy as np
import pytest
import torch
from models import llama_like
from transformers import AutoModelForCausalLM

from detcheck.dtypes import full_dtype
from detcheck.engine import Row
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.errors import FailedError, UsageError

PROMPT = "Tell me about Richard Feynman"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def engine(folder):
    engine = TransformersEngine(str(folder))
    engine.load()
    return engine


def alone(engine, ids, max_tokens=16, ignore_eos=True):
    return engine.complete([Row(ids)], max_tokens, ignore_eos).completions[0]


def test_it_decodes_what_generate_decodes(engine, folder):
    ids = engine.encode(PROMPT)
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False)[0, len(ids) :].tolist()
    assert list(alone(engine, ids).tokens) == expected


def test_log_probabilities_and_margins_are_the_models(engine, folder):
    ids = engine.encode(PROMPT)
    completion = alone(engine, ids)
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, *completion.tokens]])).logits[0, len(ids) - 1 : -1]
    logprobs = logits.log_softmax(-1)
    top = logprobs.topk(2)
    assert top.indices[:, 0].tolist() == list(completion.tokens)
    assert top.indices[:, 1].tolist() == list(completion.runners_up)
    np.testing.assert_allclose(completion.logprobs, top.values[:, 0], atol=1e-4)
    np.testing.assert_allclose(completion.margins, top.values[:, 0] - top.values[:, 1], atol=1e-4)
    assert completion.logprobs.dtype == np.float32


def test_left_padding_and_neighbours_do_not_change_what_is_computed(engine):
    """Only roundings may: log-probabilities stay close, and with wide margins tokens stay equal."""
    ids = engine.encode(PROMPT)
    lone = alone(engine, ids)
    rng = np.random.default_rng(0)

    def filler(length):
        made = rng.choice(engine.ordinary_tokens(), length + 16).tolist()
        return Row(tuple(made[:length]), tuple(made[length:]))

    decoded = engine.complete([filler(len(ids) + 9), Row(ids), filler(3), Row(ids)], 16, True)
    assert set(decoded.completions) == {1, 3}
    for completion in decoded.completions.values():
        assert completion.tokens == lone.tokens
        np.testing.assert_allclose(completion.logprobs, lone.logprobs, atol=1e-4)


def test_the_evidence_is_the_rows_of_every_forward_pass(engine):
    ids = engine.encode(PROMPT)
    for rows in (1, 2, 5):
        assert engine.complete([Row(ids)] * rows, 4, True).batch_sizes == (rows,)


def test_a_sample_ends_at_the_end_token_and_the_batch_goes_on(engine, folder, tmp_path):
    ids = engine.encode(PROMPT)
    tokens = alone(engine, ids).tokens
    end = next(t for i, t in enumerate(tokens[2:], 2) if t not in tokens[:i])
    stops = TransformersEngine(str(llama_like(tmp_path / "stops", eos=end)))
    stops.load()
    short = alone(stops, ids, ignore_eos=False)
    assert (short.tokens, short.finish_reason) == (tokens[: tokens.index(end) + 1], "stop")
    assert len(short.logprobs) == len(short.tokens)
    long = alone(stops, ids, ignore_eos=True)
    assert (long.tokens, long.finish_reason) == (tokens, "length")
    other = stops.encode("Something else, quite another thing")
    both = stops.complete([Row(ids), Row(other)], 16, False).completions
    assert both[0].tokens == short.tokens
    assert len(both[1].tokens) > len(both[0].tokens)


def test_chat_template(amplifier, engine):
    ids = amplifier.encode_chat([{"role": "user", "content": "hello"}])
    assert amplifier.decode(ids) == "user: hello\nassistant:"


def test_bfloat16(folder):
    half = TransformersEngine(str(folder), dtype="bf16")
    half.load()
    assert half.dtype == "bfloat16"
    assert len(alone(half, half.encode(PROMPT)).tokens) == 16


def test_attention_as_asked(folder):
    eager = TransformersEngine(str(folder), attn="eager")
    eager.load()
    assert eager.flags == {"attention": "eager"}


def test_dtype_names():
    assert [full_dtype(n) for n in ("fp16", "half", "torch.bfloat16", "float32", None)] == [
        "float16",
        "float16",
        "bfloat16",
        "float32",
        None,
    ]
    with pytest.raises(UsageError, match="int8"):
        full_dtype("int8")


def test_no_path_no_model():
    with pytest.raises(UsageError, match="no such folder"):
        TransformersEngine("./nowhere/at/all")


def test_a_hub_that_does_not_deliver_has_failed():
    with pytest.raises(FailedError, match="the model hub did not deliver it"):
        TransformersEngine("nobody/no-such-model")


def test_pickled_weights_are_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UsageError, match=r"only pickled weights \(pytorch_model.bin\).*safetensors"):
        TransformersEngine(str(tmp_path))


def test_torn_weights_have_failed(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    engine = TransformersEngine(str(tmp_path))
    with pytest.raises(FailedError, match="cannot load"):
        engine.load()


def test_digests_name_the_weights(folder, tmp_path):
    from detcheck.models.folder import digests

    other = llama_like(tmp_path, seed=1)
    assert digests(folder, False) == digests(folder, False)
    assert digests(folder, False)["model"] != digests(other, False)["model"]
    assert digests(folder, False)["tokenizer"] == digests(other, False)["tokenizer"]


def test_loading_leaves_transformers_as_it_was(folder):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    TransformersEngine(str(folder)).load()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device here")
def test_on_a_gpu(folder):
    engine = TransformersEngine(str(folder), device="cuda")
    engine.load()
    assert len(alone(engine, engine.encode(PROMPT)).tokens) == 16
    assert engine.max_rows(100) > 100


def test_no_gpu_is_said(folder):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="finds no CUDA device"):
        TransformersEngine(str(folder), device="cuda")
