"""What a model gives beside completions: embeddings and scores of real tiny models, sound ones, and with a fault planted in them."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch as st
import torch
import transformers
from transformers import AutoTokenizer

from detcheck.engines.transformers import engine as engines
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.given import given
from detcheck.models import amplifier

SIZES = {"vocab_size": amplifier.VOCABULARY, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
SIZES |= {"intermediate_size": 96, "max_position_embeddings": 256, "pad_token_id": 0}
TWO_PARTS = {"vocab_size": amplifier.VOCABULARY, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
TWO_PARTS |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
NONE = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
PROMPT = "Tell me about light"
ASKED = ["--prompt", PROMPT, "--batch-sizes", "1,2,4", "--kernels", "batch-invariant", "--format", "json", "-q"]


def saved(folder, model, **tokenizer):
    """With weights that are louder than the default, so that a fault is seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(amplifier.folder(), **tokenizer).save_pretrained(folder)
    return folder


def bert(folder, kind=transformers.BertModel, **changes):
    torch.manual_seed(0)
    return saved(folder, kind(transformers.BertConfig(**SIZES | changes)))


def xlm_roberta(folder):
    torch.manual_seed(0)
    return saved(folder, transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**SIZES)))


def modern_bert(folder):
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    return saved(folder, transformers.ModernBertModel(transformers.ModernBertConfig(**SIZES | ids)))


def t5(folder):
    sizes = {"vocab_size": amplifier.VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    return saved(folder, transformers.T5EncoderModel(transformers.T5Config(**sizes)))


def t5_whole(folder, **changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": amplifier.VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    return saved(
        folder,
        transformers.T5ForConditionalGeneration(
            transformers.T5Config(**sizes | {"decoder_start_token_id": 0} | changes)
        ),
    )


def bart(kind=transformers.BartForConditionalGeneration):
    torch.manual_seed(0)
    sizes = TWO_PARTS | {"max_position_embeddings": 128}
    ids = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    }
    return kind(transformers.BartConfig(**sizes | ids))


def whisper(folder):
    sizes = TWO_PARTS | {"max_source_positions": 64}
    ids = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }
    return saved(folder, transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**sizes | ids)))


def decoder(folder, kind=transformers.LlamaModel, tokenizer=None, **changes):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES | NONE | {"num_key_value_heads": 2} | changes)
    return saved(folder, kind(config), **tokenizer or {})


def reward(folder, **tokenizer):
    return decoder(folder, transformers.LlamaForSequenceClassification, tokenizer, num_labels=1)


def sentence(folder, pooling, *layers):
    """The folder with the files of sentence-transformers, as it writes them."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), *layers]
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(modules)
    ]
    Path(folder / "modules.json").write_text(json.dumps(listed))
    for name, content in (
        ("1_Pooling/config.json", {"word_embedding_dimension": 64} | pooling),
        ("sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False}),
        ("config_sentence_transformers.json", {"__version__": {}, "prompts": {}}),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def with_dense(folder, **changes):
    (folder / "2_Dense").mkdir()
    config = {
        "in_features": 64,
        "out_features": 8,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    (folder / "2_Dense/config.json").write_text(json.dumps(config | changes))
    torch.manual_seed(1)
    weights = {"linear.weight": torch.randn(8, 64), "linear.bias": torch.randn(8)}
    st.save_file(weights, folder / "2_Dense/model.safetensors")
    return folder


MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
NORMALIZE = ("Normalize", "2_Normalize")

# name -> (makes the folder, arguments, what the environment's flags say)
KINDS = {
    "BERT": (bert, [], {"task": "embed", "pooling": "cls (an encoder's first token, since there is no modules.json)"}),
    "a masked language model": (lambda f: bert(f, transformers.BertForMaskedLM), [], {"task": "embed"}),
    "XLM-R": (xlm_roberta, [], {"task": "embed", "padding": "right, token 0"}),
    "ModernBERT": (modern_bert, [], {"task": "embed"}),
    "a decoder": (decoder, [], {"task": "embed", "pooling": "lasttoken (a decoder's last token, since there is no modules.json)"}),
    "a causal model as embedder": (
        lambda f: decoder(f, transformers.LlamaForCausalLM), ["--task", "embed"],
        {"task": "embed", "tensors not used": "1 (lm_head.weight)"},
    ),
    "sentence-transformers": (
        lambda f: sentence(bert(f), MEAN, NORMALIZE), [], {"task": "embed", "pooling": "mean, normalized (modules.json)"},
    ),
    "a causal model with sentence-transformers' files": (
        lambda f: sentence(decoder(f, transformers.LlamaForCausalLM), {"pooling_mode": "lasttoken"}, NORMALIZE), [],
        {"task": "embed", "pooling": "lasttoken, normalized (modules.json)"},
    ),
    "BART": (lambda f: saved(f, bart()), [], {"task": "generate", "logits": "the decoder's first, behind token 2"}),
    "BART as embedder": (
        lambda f: saved(f, bart()), ["--task", "embed"],
        {"task": "embed", "pooling": "cls (an encoder's first token, since there is no modules.json)"},
    ),
    "BART without a head": (lambda f: saved(f, bart(transformers.BartModel)), [], {"task": "embed"}),
    "a classifier": (lambda f: bert(f, transformers.BertForSequenceClassification, num_labels=3), [], {"task": "score"}),
    "a classifier of tokens": (lambda f: bert(f, transformers.BertForTokenClassification), [], {"task": "score"}),
    "a reward model": (lambda f: reward(f), [], {"task": "score", "padding": "right, token 0"}),
    "a reward model without a pad token": (
        lambda f: reward(f, pad_token=None, eos_token=None), [], {"task": "score", "padding": "right, token 0"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_model_passes(detcheck, tmp_path, kind):
    make, arguments, flags = KINDS[kind]
    result = detcheck("batch", "--model", make(tmp_path / "model"), *arguments, *ASKED)
    assert result.code == 0, result.err or result.out
    report = json.loads(result.out)
    (finding,) = report["findings"]
    assert (finding["verdict"], finding["missing"]) == ("identical", 0), finding["note"]
    assert finding["evidence"]["batch_sizes"].keys() == {"1", "2", "4"}
    assert {name for name in finding["evidence"]["conditions"] if not name.startswith("padded")} == {
        "alone", "batch-2", "ragged-2", "batch-4", "ragged-4", "mixed-2",
    }  # fmt: skip
    assert [str(line) for line in finding["evidence"]["not_tried"]] == [
        f"decode: {'an encoder' if 'logits' in flags else '--task ' + flags['task']} takes a prompt in one piece"
    ]
    assert flags.items() <= report["environment"]["flags"].items()


def planted(monkeypatch, fault):
    """The hidden states behind the first embedding of a batch become others by `fault(them)`."""

    def loaded(*given, **how):
        model, unused = load(*given, **how)
        first = model.get_encoder() if hasattr(model, "get_encoder") and model.config.is_encoder_decoder else model
        first.get_input_embeddings().register_forward_hook(lambda _, __, made: fault(made))
        return model, unused

    load = engines.load
    monkeypatch.setattr(engines, "load", loaded)


FAULTY = ("BERT", "sentence-transformers", "a decoder", "a classifier", "a reward model", "BART", "BART as embedder")


@pytest.mark.parametrize("kind", [*FAULTY, "completing"])
def test_a_result_that_depends_on_the_batch_is_found(detcheck, tmp_path, monkeypatch, kind):
    planted(monkeypatch, lambda made: made * 1.0001 if len(made) > 2 else made)
    make, arguments, flags = KINDS.get(kind, (lambda f: decoder(f, transformers.LlamaForCausalLM), [], {}))
    result = detcheck("batch", "--model", make(tmp_path / "model"), *arguments, *ASKED)
    report = json.loads(result.out)
    (finding,) = report["findings"]
    assert (result.code, finding["verdict"], finding["evidence"]["varies_with"]) == (1, "batch-variant", ["batch"])
    assert flags.items() <= report["environment"]["flags"].items()


@pytest.mark.parametrize("kind", ["a classifier", "sentence-transformers"])
def test_a_result_that_depends_on_padding_is_told_from_the_batch(detcheck, tmp_path, monkeypatch, kind):
    planted(monkeypatch, lambda made: made * 1.0001 if made.shape[1] % 32 == 1 else made)
    result = detcheck("batch", "--model", KINDS[kind][0](tmp_path / "model"), *ASKED)
    (finding,) = json.loads(result.out)["findings"]
    assert (result.code, finding["evidence"]["varies_with"]) == (1, ["padding"]), finding["note"]


@pytest.mark.parametrize("make", [decoder, reward])
def test_padding_on_the_left_is_part_of_what_users_of_a_decoder_get(detcheck, tmp_path, make):
    """Nobody gives such a model positions there, so that it counts pad tokens, and the answer says that it is padding."""
    folder = make(tmp_path / "model")
    AutoTokenizer.from_pretrained(folder, padding_side="left").save_pretrained(folder)
    result = detcheck("batch", "--model", folder, *ASKED)
    report = json.loads(result.out)
    (finding,) = report["findings"]
    assert report["environment"]["flags"]["padding"] == "left, token 0"
    assert (result.code, finding["evidence"]["varies_with"]) == (1, ["padding"])
    assert "padding reaches the arithmetic itself: positions" in finding["note"]


def bits(folder, prompts, slots, task="auto", padding=0):
    """float32[len(slots), n] of an engine."""
    engine = TransformersEngine(str(folder), task=task)
    engine.load()
    ids = [engine.encode(prompt) for prompt in prompts]
    found, dtype, seen = given(engine, ids, slots, padding)
    assert (dtype, seen) == ("float32", (len(prompts),))
    return found.view(np.float32)


POOLINGS = {
    "mean": (MEAN, lambda h: h.mean(0)),
    "cls": ({"pooling_mode_cls_token": True}, lambda h: h[0]),
    "max": ({"pooling_mode_max_tokens": True}, lambda h: h.amax(0)),
    "the square root": ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda h: h.sum(0) / len(h) ** 0.5),
    "weighted": (
        {"pooling_mode_weightedmean_tokens": True},
        lambda h: (h * torch.arange(1.0, len(h) + 1)[:, None]).sum(0) / sum(range(1, len(h) + 1)),
    ),
    "last": ({"pooling_mode": "lasttoken"}, lambda h: h[-1]),
    "two": ({"pooling_mode": ["cls", "mean"]}, lambda h: torch.cat([h[0], h.mean(0)])),
}
OTHER = "a much longer prompt stands beside it, so that it is padded"


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", POOLINGS)
def test_an_embedding_is_what_the_hidden_states_give(tmp_path, mode, side):
    """Each text alone, by another formula; on the left with a model that has no positions to count."""
    config, formula = POOLINGS[mode]
    folder = sentence(t5(tmp_path / "model") if side == "left" else bert(tmp_path / "model"), config)
    AutoTokenizer.from_pretrained(folder, padding_side=side).save_pretrained(folder)
    kind = transformers.T5EncoderModel if side == "left" else transformers.AutoModel
    tokenizer, model = AutoTokenizer.from_pretrained(folder), kind.from_pretrained(folder).eval()
    found = bits(folder, [PROMPT, OTHER], [0, 1], padding=3)
    for text, row in zip((PROMPT, OTHER), found, strict=True):
        with torch.inference_mode():
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            hidden = model(input_ids=ids).last_hidden_state[0]
        assert np.allclose(row, formula(hidden).numpy(), atol=1e-5)


def test_layers_behind_the_pooling_are_applied(tmp_path):
    folder = with_dense(sentence(bert(tmp_path / "model"), MEAN, ("Dense", "2_Dense"), ("Normalize", "3_Normalize")))
    (row,) = bits(folder, [PROMPT], [0])
    weights = st.load_file(folder / "2_Dense/model.safetensors")
    (pooled,) = bits(sentence(folder, MEAN), [PROMPT], [0])
    made = torch.tanh(torch.from_numpy(pooled) @ weights["linear.weight"].T + weights["linear.bias"])
    assert np.allclose(row, (made / made.norm()).numpy(), atol=1e-5) and len(row) == 8


@pytest.mark.parametrize("pooling", [MEAN, {"pooling_mode": "lasttoken"}])
def test_an_embedding_is_that_of_sentence_transformers(tmp_path, pooling):
    import sentence_transformers as library

    folder = sentence(bert(tmp_path / "model"), pooling, NORMALIZE)
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode([PROMPT, OTHER])
    assert np.array_equal(bits(folder, [PROMPT, OTHER], [0, 1]), theirs)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_reward_is_read_at_the_last_token(tmp_path, side):
    folder = reward(tmp_path / "model", padding_side=side)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        alone = model(input_ids=tokenizer(PROMPT, return_tensors="pt")["input_ids"]).logits
    assert np.allclose(bits(folder, [PROMPT, OTHER], [0]), alone.numpy(), atol=1e-5)


@pytest.mark.parametrize("make", [t5_whole, lambda f: saved(f, bart())])
def test_a_decoders_first_logits_are_what_generate_begins_with(tmp_path, make):
    folder = make(tmp_path / "model")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")["input_ids"]
    how = {
        "max_new_tokens": 1,
        "do_sample": False,
        "num_beams": 1,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    alone = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how).logits[0]
    assert np.allclose(bits(folder, [PROMPT, OTHER], [0], padding=2), alone.numpy(), atol=1e-4)


def test_t5_is_asked_on_stock_kernels_and_ours_take_its_position_bias(detcheck, tmp_path):
    folder = t5_whole(tmp_path / "model")
    result = detcheck("batch", "--model", folder, *[a for a in ASKED if a not in ("--kernels", "batch-invariant")])
    report = json.loads(result.out)
    assert result.code in (0, 1) and report["environment"]["flags"]["logits"] == "the decoder's first, behind token 0"
    (finding,) = report["findings"]
    assert (
        finding["missing"] == 0 and finding["evidence"]["unit"] == "element" and "positions" not in finding["evidence"]
    )
    ours = detcheck("batch", "--model", folder, *ASKED)
    coverage = json.loads(ours.out)["findings"][0]["evidence"]["coverage"]
    assert ours.code == 0 and coverage["overridden"]["transformers::attention"] and not coverage["uncovered"]


def test_the_encoder_of_bart_gives_its_embedding(tmp_path):
    folder = saved(tmp_path / "model", bart())
    model = transformers.BartModel.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        alone = model(input_ids=ids).encoder_last_hidden_state[0, 0]
    assert np.allclose(bits(folder, [PROMPT, OTHER], [0], task="embed"), alone.numpy(), atol=1e-5)


def test_completions_are_refused_where_a_decoder_follows_an_encoder(detcheck, tmp_path):
    folder = saved(tmp_path / "model", bart())
    for command in ("completions", "bisect"):
        result = detcheck(command, "--model", folder, "--prompt", PROMPT, "-q")
        assert result.code == 2 and "`detcheck batch` asks this one for its decoder's first logits" in " ".join(
            result.err.split()
        )


def test_scores_of_tokens_are_those_of_the_prompt_alone(tmp_path):
    folder = bert(tmp_path / "model", transformers.BertForTokenClassification)
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        ids = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")["input_ids"]
        alone = model(input_ids=ids).logits.reshape(1, -1)
    assert np.allclose(bits(folder, [PROMPT, OTHER], [0], padding=2), alone.numpy(), atol=1e-5)


@pytest.mark.parametrize("swapped", [False, True])
def test_prompts_that_change_places_by_score_are_named(detcheck, tmp_path, write, monkeypatch, swapped):
    """A reranker whose scores are turned round in batches of more than two, and a sound one."""

    def loaded(*given, **how):
        model, unused = load(*given, **how)
        if swapped:
            model.classifier.register_forward_hook(lambda _, __, made: -made if len(made) > 2 else made)
        return model, unused

    load = engines.load
    monkeypatch.setattr(engines, "load", loaded)
    folder = bert(tmp_path / "model", transformers.BertForSequenceClassification, num_labels=1)
    prompts = write("prompts.txt", "Tell me about light", "The sky is blue today", "How do radios work?")
    result = detcheck("batch", "--model", folder, "--prompt-file", prompts, *ASKED[2:])
    findings = json.loads(result.out)["findings"]
    orders = [finding["evidence"]["order"] for finding in findings]
    assert {order["prompts"] for order in orders} == {3} and any(order["swaps"] for order in orders) == swapped
    shown = " ".join(detcheck("report", next((tmp_path / "runs").iterdir())).out.split())
    if not swapped:
        assert result.code == 0 and shown.count("keeps its place among the 3 prompts in every condition") == 3
        return
    assert result.code == 1 and {s["condition"] for o in orders for s in o["swaps"]} == {"batch-4", "ragged-4"}
    pairs = {(s["above"], s["below"]) for o in orders for s in o["swaps"] if s["condition"] == "batch-4"}
    assert len(pairs) == 2 and len({below for _, below in pairs}) == 2  # of three that are turned round
    assert all("by score it changes places: in batch-4 prompt" in finding["note"] for finding in findings)
    assert "which it leads where each is alone" in shown


def test_positions_that_begin_behind_the_pad_token_are_not_overrun(detcheck, tmp_path):
    """RoBERTa's table of 40 has room for 39 tokens where the pad token is 0: padded widths end there, and a longer prompt is refused."""
    config = transformers.XLMRobertaConfig(**SIZES | {"max_position_embeddings": 40})
    folder = saved(tmp_path / "model", transformers.XLMRobertaModel(config))
    assert detcheck("batch", "--model", folder, *ASKED).code == 0
    result = detcheck("batch", "--model", folder, *ASKED[2:], "--prompt", "a b " * 9 + "abc")
    tokens = len(AutoTokenizer.from_pretrained(folder)("a b " * 9 + "abc")["input_ids"])
    assert tokens == 39 and result.code == 2 and "a prompt has 39 tokens" in " ".join(result.err.split()), result.err


def ends_in_logits(folder):
    names = [("Transformer", ""), ("LogitScore", "1_LogitScore")]
    listed = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (kind, path) in enumerate(names)]
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


CLASSIFIER = transformers.BertForSequenceClassification


def without_a_start(folder):
    for name in ("config.json", "generation_config.json"):
        kept = {
            k: v
            for k, v in json.loads((folder / name).read_text()).items()
            if k not in ("decoder_start_token_id", "bos_token_id")
        }
        (folder / name).write_text(json.dumps(kept))
    return folder


def with_a_pad_beyond(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<beyond>"})
    tokenizer.save_pretrained(folder)
    return folder


REFUSED = {  # name -> (makes the folder, the task, what is said)
    "an encoder completes nothing": (bert, "generate", "`detcheck batch --task embed` asks this one"),
    "a classifier completes nothing": (lambda f: bert(f, CLASSIFIER), "generate", "`detcheck batch --task score` asks this one"),
    "a decoder without a head has no score": (decoder, "score", "1 is missing (score.weight)"),
    "a causal model has no score": (
        lambda f: decoder(f, transformers.LlamaForCausalLM), "score", "`detcheck batch --task generate` asks this one",
    ),
    "a head that nobody reads": (lambda f: bert(f, transformers.BertForQuestionAnswering), "auto", "`detcheck batch --task embed` asks"),
    "an encoder of sounds": (whisper, "auto", "an encoder with a decoder that transformers gives no text"),
    "a decoder without a head behind an encoder": (
        lambda f: saved(f, bart(transformers.BartModel)), "generate", "`detcheck batch --task embed` asks this one",
    ),
    "a decoder that does not say how it begins": (
        lambda f: without_a_start(t5_whole(f)), "auto", "names no decoder_start_token_id",
    ),
    "a classifier with a decoder": (
        lambda f: saved(f, bart(transformers.BartForSequenceClassification)), "auto", "an end token that rows made of fillers do not have",
    ),
    "T5 has no classes of text alone": (t5, "generate", "`detcheck batch --task embed` asks this one"),
    "a module that is not known": (
        lambda f: sentence(bert(f), MEAN, ("SpladePooling", "2_SpladePooling")), "auto", "names SpladePooling (2_SpladePooling)",
    ),
    "no pooling at all": (
        lambda f: ends_in_logits(decoder(f, transformers.LlamaForCausalLM)), "embed", "names LogitScore",
    ),
    "an activation of somebody's own": (
        lambda f: with_dense(sentence(bert(f), MEAN, ("Dense", "2_Dense")), activation_function="os.system"), "auto", "none of torch.nn",
    ),
    "a pad token that the model does not know": (
        lambda f: with_a_pad_beyond(bert(f)), "embed", "Name another pad_token in tokenizer_config.json",
    ),
    "no such task": (bert, "rank", "rank"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_model_does_not_have_is_refused(detcheck, tmp_path, kind):
    make, task, said = REFUSED[kind]
    result = detcheck("batch", "--model", make(tmp_path / "model"), "--task", task, *ASKED)
    words = " ".join(result.err.split())
    assert (result.code, "Traceback" in words) == (2, False) and said in words, words


def test_a_reranker_on_last_logits_is_asked_for_them(detcheck, tmp_path):
    folder = ends_in_logits(decoder(tmp_path / "model", transformers.LlamaForCausalLM))
    result = detcheck("batch", "--model", folder, *ASKED)
    assert result.code == 0 and "task" not in json.loads(result.out)["environment"]["flags"], result.err
