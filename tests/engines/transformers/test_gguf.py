"""Models in GGUF files on the transformers engine: what runs is what the file says, whole, and what is no such file is refused in words."""

import json
import shutil
import sys

import gguf
import pytest
import torch
from gguf_files import F32, Q4_0, Q8_0, as_gguf
from models import llama_like
from transformers import AutoTokenizer

from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.gguf import halves
from detcheck.models import amplifier

SMALL = ("--prompt", "a b c d e f", "-q")
JSON = ("--format", "json")
BATCH = ("batch", "--batch-sizes", "1,2,3", *SMALL)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama") / "llama")


@pytest.fixture(scope="module")
def file(llama, tmp_path_factory):
    return as_gguf(llama, tmp_path_factory.mktemp("gguf") / "small-Q8_0.gguf", Q8_0, tokenizer=True)


def opened(model):
    engine = TransformersEngine(str(model))
    engine.load()
    return engine


@pytest.mark.parametrize("kind", [F32, Q8_0, Q4_0], ids=lambda kind: kind.name)
def test_the_weights_are_those_of_the_file(llama, tmp_path, kind):
    """Of float32 the model's own; else what the blocks stand for, as the package `gguf` computes it."""
    ours = opened(as_gguf(llama, tmp_path / "m.gguf", kind, tokenizer=True))
    for name, theirs in opened(llama)._model.state_dict().items():
        wanted = theirs
        if kind != F32 and theirs.ndim > 1 and not name.endswith(("q_proj.weight", "k_proj.weight")):
            wanted = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(theirs.numpy(), kind), kind))
        found = ours._model.state_dict()[name]
        assert found.shape == theirs.shape
        if kind == F32 or not name.endswith(("q_proj.weight", "k_proj.weight")):
            assert torch.equal(found, wanted), name
    assert f"16 tensors in {kind.name}" in ours.flags["weights"] or kind == F32
    assert "the kernels are torch's, not llama.cpp's" in ours.flags["weights"]


def test_a_file_and_a_folder_that_holds_it_are_the_same_model(detcheck, file):
    (file.parent / "README.md").write_text("one file of weights")
    ran = [detcheck(*BATCH, *JSON, "--model", model, "--kernels", "batch-invariant") for model in (file, file.parent)]
    one, other = (json.loads(found.out) for found in ran)
    assert one["verdict"] == other["verdict"] == "identical"
    assert one["digests"] == other["digests"]


def test_a_file_of_the_same_name_in_the_current_folder_is_not_taken(llama, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    as_gguf(llama_like(tmp_path / "other", seed=1), tmp_path / file.name, Q8_0, tokenizer=True)
    assert opened(file.parent).digests != opened(tmp_path / file.name).digests
    there = opened(file.parent)._model.model.embed_tokens.weight
    here = opened(tmp_path / file.name)._model.model.embed_tokens.weight
    assert not torch.equal(here, there)


def test_the_digest_is_of_the_content_whatever_the_name(file, tmp_path):
    copy = shutil.copy(file, tmp_path / "renamed.gguf")
    assert TransformersEngine(str(copy)).digests == TransformersEngine(str(file)).digests
    with copy.open("r+b") as opened:
        opened.seek(-1, 2)
        opened.write(b"\x55")
    assert TransformersEngine(str(copy)).digests["model"] != TransformersEngine(str(file)).digests["model"]


def test_a_tokenizer_beside_the_file_is_taken(llama, file, tmp_path):
    shutil.copy(file, tmp_path / "m.gguf")
    inside = TransformersEngine(str(tmp_path / "m.gguf"))
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(tmp_path)
    beside = TransformersEngine(str(tmp_path / "m.gguf"))
    text = "jeda tona jiko"
    assert inside.encode(text) != beside.encode(text) == TransformersEngine(str(llama)).encode(text)
    assert inside.digests["model"] == beside.digests["model"] == inside.digests["tokenizer"]
    assert beside.digests["tokenizer"] == TransformersEngine(str(llama)).digests["tokenizer"]


def test_stock_reacts_and_bisect_and_score_take_one(detcheck, file):
    pair = ("--continuation", "g h", "--kernels", "batch-invariant", "--model", file, "--batch-sizes", "2")
    assert detcheck("score", *SMALL, *pair).code == 0
    for kernels, code in (("batch-invariant", 0), ("stock", None)):
        found = detcheck("bisect", "--model", file, "--kernels", kernels, "--batch-sizes", "4", *SMALL)
        assert found.code in ((0, 1) if code is None else (code,)), found.err
        assert "GGUF (16 tensors in Q8_0" in found.out


def test_what_transformers_leaves_in_the_file_is_named(llama, tmp_path):
    path = as_gguf(llama, tmp_path / "m.gguf", more=("rope_freqs.weight", "blk.0.attn_q.bias"), tokenizer=True)
    assert opened(path).flags["tensors not used"] == "2 (blk.0.attn_q.bias, rope_freqs.weight)"


def test_half_of_the_experts_matrices_is_not_enough():
    whole = [f"blk.{n}.ffn_{part}_exps.weight" for n in range(2) for part in ("gate", "up", "down")]
    assert halves(whole) == set()
    assert halves([name for name in whole if name != "blk.1.ffn_up_exps.weight"]) == {"blk.1.ffn_up_exps.weight"}
    assert halves([name for name in whole if name != "blk.0.ffn_gate_exps.weight"]) == {"blk.0.ffn_gate_exps.weight"}


def lacking(llama, path):
    return as_gguf(llama, path, without=("blk.1.ffn_up.weight",), tokenizer=True)


def lacking_a_norm(llama, path):
    return as_gguf(llama, path, Q8_0, without=("blk.0.attn_norm.weight",), tokenizer=True)


def torn(llama, path):
    whole = as_gguf(llama, path, tokenizer=True).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def head_alone(llama, path):
    path.write_bytes(as_gguf(llama, path, tokenizer=True).read_bytes()[:100])
    return path


def no_gguf(llama, path):
    path.write_bytes(b"{}")
    return path


def several(llama, path):
    as_gguf(llama, path, tokenizer=True)
    shutil.copy(path, path.with_name("another.gguf"))
    return path.parent


def a_part(llama, path):
    return as_gguf(llama, path.with_name("m-00001-of-00003.gguf"), tokenizer=True)


def of_another_kind(llama, path):
    return as_gguf(llama, path, tokenizer=True, architecture="rwkv6")


def without_a_tokenizer(llama, path):
    return as_gguf(llama, path)


def with_a_foreign_tokenizer(llama, path):
    as_gguf(llama_like(path.parent / "small", vocab_size=512), path, tokenizer=True)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(path.parent)
    return path


REFUSED = {
    "a matrix is missing": (lacking, 2, ["1 is missing (model.layers.1.mlp.up_proj.weight)", "random numbers"]),
    "a norm is missing": (lacking_a_norm, 2, ["1 is missing (model.layers.0.input_layernorm.weight)"]),
    "torn": (torn, 2, ["cannot read", "It must be a whole GGUF file"]),
    "head alone": (head_alone, 2, ["cannot read", "It must be a whole GGUF file"]),
    "no GGUF": (no_gguf, 2, ["is no GGUF file", "Fetch it again"]),
    "several": (several, 2, ["holds 2 GGUF files (another.gguf, m.gguf)", "Name one of them"]),
    "a part": (a_part, 2, ["is one of 3 parts", "llama-gguf-split --merge"]),
    "no such file": (lambda llama, path: path, 2, ["no such file. Give an existing GGUF file"]),
    "another architecture": (of_another_kind, 2, ["rwkv6", "an architecture that transformers reads"]),
    "no tokenizer": (without_a_tokenizer, 2, ["cannot read the tokenizer of", "Put the model's tokenizer.json"]),
    "a foreign tokenizer": (with_a_foreign_tokenizer, 2, ["2048 tokens", "has 512", "not of one model"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_a_whole_model_is_refused_in_words(detcheck, llama, tmp_path, kind):
    make, code, says = REFUSED[kind]
    (tmp_path / "held").mkdir()
    found = detcheck(*BATCH, "--model", make(llama, tmp_path / "held" / "m.gguf"))
    assert found.code == code, found.err
    assert all(part in " ".join(found.err.split()) for part in says), found.err
    assert "Traceback" not in found.err


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_without_a_package_that_reads_it_the_command_to_install_it_is_said(detcheck, file, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    found = detcheck(*BATCH, "--model", file)
    assert found.code == 4
    assert "pip install 'detcheck[gguf]'" in found.err


def test_vllm_is_not_asked(detcheck, file):
    found = detcheck("completions", "--engine", "vllm", "--model", file, *SMALL)
    assert found.code == 2
    assert "--engine vllm wants safetensors" in found.err


def test_nothing_else_is_said_on_stderr(detcheck, file):
    assert detcheck(*BATCH, "--model", file, "--quiet").err == ""
