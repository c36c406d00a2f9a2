"""A checkpoint that is not the model that would run is refused; one that is passes. Through the commands, with real folders."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch as st
import torch
import transformers
from models import llama_like
from transformers import AutoTokenizer

from detcheck.models import amplifier
from detcheck.models.checkpoint import Checkpoint
from detcheck.models.folder import digests

SMALL = {"vocab_size": amplifier.VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
HEADS = SMALL | {"num_attention_heads": 4, "max_position_embeddings": 256}
NONE = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def saved(model, folder, **how):
    model.save_pretrained(folder, **how)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(folder)
    return folder


def llama(**changes):
    return transformers.LlamaConfig(**HEADS | NONE | {"num_key_value_heads": 2} | changes)


def bert(**changes):
    return transformers.BertConfig(**HEADS | changes)


def without(folder, *names, **instead):
    """The folder with tensors left out, or others in their place."""
    path = folder / "model.safetensors"
    tensors = st.load_file(path)
    st.save_file({k: v for k, v in tensors.items() if k not in names} | instead, path, metadata={"format": "pt"})
    return folder


def distilbert():
    return transformers.DistilBertConfig(vocab_size=amplifier.VOCABULARY, dim=64, hidden_dim=96, n_layers=2, n_heads=4)


def t5():
    sizes = {"vocab_size": amplifier.VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))


def torn(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return folder


def without_a_shard(folder):
    saved(transformers.LlamaForCausalLM(llama()), folder, max_shard_size="200KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[-1].unlink()
    return folder


def of_other_sizes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    return folder


def adapted(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    return folder


WRONG = {  # name -> (makes the folder, exit code, what is said)
    "an encoder": (lambda f: saved(transformers.BertModel(bert()), f), 2, ["cls.predictions", "holds a BertModel", "random numbers", "batch --task embed"]),
    "a classifier": (lambda f: saved(transformers.BertForSequenceClassification(bert()), f), 2, ["BertForSequenceClassification", "batch --task score"]),
    "a reward model": (
        lambda f: saved(transformers.LlamaForSequenceClassification(llama(num_labels=1)), f),
        2, ["1 is missing (lm_head.weight)", "1 is in it and not used (score.weight)", "batch --task score"],
    ),
    "a reward model whose weights are tied": (  # so that a language model's head is there, which nobody trained
        lambda f: saved(transformers.LlamaForSequenceClassification(llama(num_labels=1, tie_word_embeddings=True)), f),
        2, ["holds a LlamaForSequenceClassification", "without score.weight", "batch --task score"],
    ),
    "an embedder whose weights are tied": (
        lambda f: saved(transformers.LlamaModel(llama(tie_word_embeddings=True)), f), 2, ["holds a LlamaModel", "batch --task embed"],
    ),
    "an encoder with a head": (lambda f: saved(transformers.BertLMHeadModel(bert()), f), 2, ["looks at all others", "batch --task embed"]),
    "a masked language model": (lambda f: saved(transformers.BertForMaskedLM(bert()), f), 2, ["looks at all others", "batch --task embed"]),
    "an encoder with a decoder": (lambda f: saved(t5(), f), 2, ["an encoder with a decoder", "batch --task embed"]),
    "an encoder of a kind that never completes": (
        lambda f: saved(transformers.DistilBertModel(distilbert()), f), 2, ["no class of that kind that completes a text", "batch --task embed"],
    ),
    "one tensor left out": (lambda f: without(llama_like(f), "model.norm.weight"), 2, ["model.norm.weight"]),
    "a torn file": (lambda f: torn(llama_like(f)), 4, ["cannot load"]),
    "a shard that is not there": (without_a_shard, 4, ["cannot load"]),
    "a config of other sizes": (lambda f: of_other_sizes(llama_like(f)), 2, ["of another shape (model.layers.0.mlp.down_proj.weight", "with all its weights"]),
    "an adapter beside its model": (lambda f: adapted(llama_like(f)), 2, ["peft adapter", "merge_and_unload"]),
}  # fmt: skip


OTHERWISE = {("an encoder with a decoder", "batch")}  # it gives its decoder's first logits: tests/probes/batch


@pytest.mark.parametrize(
    ("kind", "command"),
    sorted({(kind, command) for kind in WRONG for command in ("completions", "batch", "bisect")} - OTHERWISE),
)
def test_what_is_not_the_model_is_never_run(detcheck, tmp_path, kind, command):
    make, code, said = WRONG[kind]
    task = ["--task", "generate"] if command == "batch" else []  # what it can be asked instead: tests/probes/batch
    result = detcheck(command, *task, "--model", make(tmp_path / "model"), "--prompt", "a b c", "-q")
    words = " ".join(result.err.split())
    assert result.code == code and "Traceback" not in result.err, result.err
    assert all(each in words for each in said), words


LACKING = {  # name -> (makes the folder, what is missing): whatever it is asked for
    "an encoder": (lambda f: saved(transformers.BertModel(bert()), f), "encoder.layer.0.output.dense.weight"),
    "a classifier": (lambda f: saved(transformers.BertForSequenceClassification(bert()), f), "classifier.weight"),
    "a reward model": (
        lambda f: saved(transformers.LlamaForSequenceClassification(llama(num_labels=1)), f),
        "score.weight",
    ),
}


@pytest.mark.parametrize("kind", LACKING)
def test_an_embedding_or_a_score_is_of_no_random_numbers(detcheck, tmp_path, kind):
    make, name = LACKING[kind]
    result = detcheck("batch", "--model", without(make(tmp_path / "model"), name), "--prompt", "a b c", "-q")
    words = " ".join(result.err.split())
    assert result.code == 2 and f"1 is missing ({name})" in words and "random numbers" in words, words


def test_what_is_done_behind_the_weights_is_part_of_the_model(tmp_path):
    folder, found = llama_like(tmp_path), []
    for mode in (None, "mean", "lasttoken", "mean"):
        if mode:
            (folder / "1_Pooling").mkdir(exist_ok=True)
            (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": mode}))
        found.append(digests(folder, code=False)["model"])
    assert found[1] == found[3] and len(set(found)) == 3


def test_a_pooler_that_is_not_there_is_not_read(detcheck, tmp_path):
    """An embedding is made of hidden states; what BERT computes behind them nobody reads."""
    folder = saved(transformers.BertModel(bert()), tmp_path / "model")
    without(folder, "pooler.dense.weight", "pooler.dense.bias")
    asked = ["--prompt", "a b c", "--batch-sizes", "1,2", "--kernels", "batch-invariant", "-q"]
    assert detcheck("batch", "--model", folder, *asked).code == 0


def tied(folder):
    return saved(transformers.LlamaForCausalLM(llama(tie_word_embeddings=True)), folder)


def sharded(folder):
    return saved(transformers.LlamaForCausalLM(llama()), folder, max_shard_size="200KB")


def gpt2(folder):
    config = transformers.GPT2Config(
        vocab_size=amplifier.VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=256, **NONE
    )
    return saved(transformers.GPT2LMHeadModel(config), folder)


def with_an_old_buffer(folder):
    return without(llama_like(folder), **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})


def seeing(folder):
    """A model that sees images too: a text alone is asked of it."""
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        text_config=llama(),
        vision_config=transformers.CLIPVisionConfig(**vision, image_size=28, patch_size=14),
        image_token_index=amplifier.VOCABULARY - 1,
    )
    return saved(transformers.LlavaForConditionalGeneration(config), folder)


def test_the_place_of_an_image_is_no_ordinary_token(tmp_path):
    found = Checkpoint(str(seeing(tmp_path / "model")), None, False).ordinary_tokens()
    assert amplifier.VOCABULARY - 1 not in found and amplifier.VOCABULARY - 2 in found


def with_an_end_beyond_its_words(folder):
    """As a GPT-2 with fewer words whose config kept the end token of the larger one."""
    gpt2(folder)
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 50256}))
    return folder


SOUND = {
    "plain": llama_like,
    "an end token that is none of its words": with_an_end_beyond_its_words,
    "BERT as a decoder": lambda f: saved(transformers.BertLMHeadModel(bert(is_decoder=True, pad_token_id=0)), f),
    "LLaVA": seeing,
    "tied": tied,
    "sharded": sharded,
    "GPT-2": gpt2,
    "an old buffer": with_an_old_buffer,
    "a head that is tied and stored": lambda f: without(tied(f), **{"lm_head.weight": torch.ones(amplifier.VOCABULARY, 64)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_the_model_runs(detcheck, tmp_path, kind):
    asked = [
        "--prompt",
        "a b c",
        "-n",
        "4",
        "--max-tokens",
        "4",
        "--kernels",
        "batch-invariant",
        "--format",
        "json",
        "-q",
    ]
    result = detcheck("completions", "--model", SOUND[kind](tmp_path / "model"), *asked)
    report = json.loads(result.out)
    assert report["verdict"] in ("identical", "inconclusive") and result.code in (0, 3), result.err
    assert "tensors not used" not in report["environment"]["flags"]


def test_tensors_that_nobody_uses_are_told(detcheck, tmp_path):
    folder = without(llama_like(tmp_path / "model"), **{"model.extra.weight": torch.ones(2)})
    result = detcheck(
        "completions", "--model", folder, "--prompt", "a b c", "-n", "4", "--max-tokens", "4", "--format", "json", "-q"
    )
    assert json.loads(result.out)["environment"]["flags"]["tensors not used"] == "1 (model.extra.weight)"
    (run,) = Path("runs").iterdir()
    for format in ("terminal", "md"):
        shown = detcheck("report", run, "--format", format).out
        assert "tensors not used" in shown


@pytest.mark.parametrize(
    "command", [("completions", "-n", "8", "--max-tokens", "6"), ("batch", "--batch-sizes", "1,2,4")]
)
def test_a_state_space_model_has_a_cache_of_its_own(detcheck, tmp_path, command):
    config = transformers.MambaConfig(
        vocab_size=amplifier.VOCABULARY, hidden_size=64, num_hidden_layers=2, state_size=8, **NONE | {"pad_token_id": 0}
    )
    torch.manual_seed(0)
    folder = saved(transformers.MambaForCausalLM(config), tmp_path / "model")
    result = detcheck(*command, "--model", folder, "--prompt", "Tell me about light", "--format", "json", "-q")
    (finding,) = json.loads(result.out)["findings"]
    assert result.code in (0, 1) and not finding["missing"], finding["note"]
    shutil.rmtree(tmp_path / "runs")
