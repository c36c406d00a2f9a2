"""Two sides of a model in transformers: a static cache beside the dynamic one, compiled beside eager, and `compare` of runs of both."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
import torch._inductor.config
from models import llama_like
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from detcheck.engine import Row
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.errors import FailedError, UsageError
from detcheck.models import amplifier
from detcheck.models.cache import Cache

PROMPT = "Tell me about Richard Feynman"
NEW = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """One layer: compiling takes as long as there are layers."""
    return llama_like(tmp_path_factory.mktemp("tiny"), num_hidden_layers=1)


def opened(folder, **how):
    engine = TransformersEngine(str(folder), **how)
    engine.load()
    return engine


def decoded(engine, rows=1, longer=0):
    """The last row's completion; `longer`: tokens by which the first row is longer, so that the others are padded."""
    ids = engine.encode(PROMPT)
    filler = [Row(tuple(range(5, 5 + len(ids) + longer)), tuple(range(NEW)))] if longer else []
    return engine.complete([*filler, *[Row(ids)] * rows], NEW, True).completions[rows - 1 + len(filler)]


def generated(folder, ids, **how):
    """Log-probabilities of what `generate` makes, as the engine reads them."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    out = model.generate(
        torch.tensor([ids]), max_new_tokens=NEW, do_sample=False, eos_token_id=None, output_logits=True, return_dict_in_generate=True, **how
    )  # fmt: skip
    return [(logits[0].max() - logits[0].logsumexp(-1)).item() for logits in out.logits]


def test_a_cache_of_each_kind_gives_the_bits_of_generate(folder):
    for cache in Cache:
        engine = opened(folder, cache=cache)
        expected = generated(folder, engine.encode(PROMPT), cache_implementation=str(cache))
        assert decoded(engine).logprobs.tolist() == expected, cache
        assert engine.flags["cache"] == cache
        assert engine.complete([Row(engine.encode(PROMPT))] * 3, 2, True).batch_sizes == (3,)


def test_on_our_kernels_a_static_cache_has_the_bits_of_a_dynamic_one(folder):
    """Alone and padded: what is empty behind the last token is left out, also where transformers gives no mask."""
    found = []
    for cache in Cache:
        engine = opened(folder, cache=cache)
        with engine.running("batch-invariant") as calls:
            made = [decoded(engine), decoded(engine, rows=4), decoded(engine, longer=7)]
        assert any("transformers::attention" in name for name, _ in calls)
        found += [one.logprobs.tobytes() for one in made]
        np.testing.assert_allclose(made[0].logprobs, decoded(engine).logprobs, atol=1e-4)
    assert len(set(found)) == 1


def test_a_model_that_takes_another_cache_is_no_static_one(folder, monkeypatch):
    engine = opened(folder, cache="static")
    plain = engine._model.forward

    def forgets(**given):
        return plain(**given | {"past_key_values": None})

    monkeypatch.setattr(engine._model, "forward", forgets)
    with pytest.raises(FailedError, match="took another cache"):
        decoded(engine)


def test_states_have_no_static_form(tmp_path):
    config = MambaConfig(vocab_size=amplifier.VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=1)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    amplifier.save_tokenizer(tmp_path)
    with pytest.raises(UsageError, match=r"--cache static: .* keeps no cache that transformers has a static form of"):
        opened(tmp_path, cache="static")


def test_compiled_is_compiled_in_every_pass_and_near_to_eager(tiny):
    eager, engine = opened(tiny), opened(tiny, compile=True)
    assert engine.flags["compile"].startswith("torch.compile, inductor")
    made = {rows: decoded(engine, rows) for rows in (1, 2, 3)}
    for rows, one in made.items():
        np.testing.assert_allclose(one.logprobs, decoded(eager).logprobs, atol=1e-3)
        assert decoded(engine, rows).logprobs.tobytes() == one.logprobs.tobytes(), (
            "a batch that comes again has its bits"
        )
    run = engine._model.forward
    before = run.calls
    assert engine.complete([Row(engine.encode(PROMPT))] * 2, NEW, True).batch_sizes == (2,)
    assert run.calls == before + NEW
    with torch.compiler.set_stance("force_eager"), pytest.raises(FailedError, match="without any compiled graph"):
        decoded(engine)


def test_where_compiling_is_switched_off_nothing_is_called_compiled(tiny):
    try:
        with torch._dynamo.config.patch(disable=True), pytest.raises(FailedError, match="without any compiled graph"):
            opened(tiny, compile=True)
    finally:
        torch._dynamo.reset()  # it would not look at this model's code again


def test_what_cannot_be_compiled_has_failed(tiny, monkeypatch):
    from torch._inductor import cpp_builder, exc

    def missing(*_, **__):
        raise exc.InvalidCxxCompiler

    for name in ("get_cpp_compiler", "is_gcc"):
        monkeypatch.setattr(cpp_builder, name, missing)
    with (
        torch._inductor.config.patch(force_disable_caches=True),
        pytest.raises(FailedError, match=r"--compile: .*g\+\+"),
    ):
        opened(tiny, compile=True)


REFUSED = {
    "a cache that there is not": (("--cache", "paged"), "--cache paged: use dynamic or static"),
    "a compiled model on our kernels": (("--compile", "--kernels", "both"), "loops of its own, which call none of our kernels"),
    "a cache in vLLM": (("--cache", "static", "--engine", "vllm"), "--cache is for transformers"),
    "compiling in vLLM": (("--compile", "--engine", "vllm"), "with vLLM say --engine-arg enforce_eager=false"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_said(name, detcheck):
    words, said = REFUSED[name]
    result = detcheck("completions", "-q", *words)
    assert result.code == 2 and said in result.err


def test_two_sides_are_compared_condition_by_condition(folder, detcheck):
    """Static against dynamic: what differs between them is said, and the verdict is that of the outcomes. On ours they are equal; bisect takes no such run."""
    ask = (
        "completions",
        "--model",
        folder,
        "--prompt",
        PROMPT,
        "-n",
        "12",
        "--max-tokens",
        NEW,
        "--batch-sizes",
        "1,2,3",
        "-q",
    )
    runs = {}
    for kernels in ("stock", "batch-invariant"):
        for cache in Cache:
            before = set(Path("runs").glob("*"))
            detcheck(*ask, "--cache", cache, "--kernels", kernels)
            (runs[kernels, cache],) = set(Path("runs").glob("*")) - before

    def compared(*sides):
        result = detcheck("compare", *(runs[side] for side in sides), "--format", "json")
        (finding,) = json.loads(result.out)["findings"]
        assert "flags.cache: dynamic then, static now" in finding["evidence"]["changed"]
        return result.code, finding

    code, finding = compared(("batch-invariant", "dynamic"), ("batch-invariant", "static"))
    assert (code, finding["verdict"]) == (0, "identical")
    code, finding = compared(("stock", "dynamic"), ("stock", "static"))
    outcomes = [
        set(json.loads((runs["stock", c] / "baseline.json").read_text())["cases"][0]["outcomes"]) for c in Cache
    ]
    differ = not outcomes[0] & outcomes[1]
    if differ:  # where this processor's stock attention adds in another order once keys are empty
        assert (code, finding["verdict"]) == (1, "divergent")
        assert finding["evidence"]["places"]["alone"] == {"both": 1, "other": 1, "alone": 0}
    result = detcheck("bisect", runs["stock", "static"])
    assert result.code == 2 and "was made with --cache static" in result.err
