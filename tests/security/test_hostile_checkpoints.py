"""A checkpoint is never unpickled, and its own code runs where --trust-remote-code says so: planted files that leave a mark when they run."""

import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import adapters
import numpy as np
import pytest
import safetensors.torch as st

from detcheck.models import amplifier

SMALL = ("-n", "2", "--max-tokens", "2", "--conditions", "alone", "--prompt", "a b c", "-q")
EVERYWHERE = (
    "pytorch_model.bin", "model.pt", "model.pth", "consolidated.00.pth", "adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt",
    "rng_state.pth", "tokenizer.pkl", "vocab.pkl", "tokenizer.bin", "vocab.bin", "pytorch_model-00001-of-00001.bin", "special_tokens_map.pkl",
    "model.ckpt", "model.pkl",
)  # fmt: skip


class Mark:
    """Unpickling it makes the file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def mark(tmp_path):
    """Where it is written; the test fails where it is there in the end."""
    path = tmp_path / "was-run"
    yield path
    assert not path.exists(), "a planted file was run"


def as_torch(path, mark):
    """As torch.save writes it: an archive with a pickle in it."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Mark(mark)))
        file.writestr("archive/version", "3")
    return path


def plain(path, mark):
    path.write_bytes(pickle.dumps(Mark(mark)))
    return path


@pytest.fixture
def no_vllm_starts(monkeypatch, needs_vllm):
    """What is refused is refused before anything is asked of its process, which is begun first since it takes seconds."""

    class Process:
        def __init__(self, *_):
            self.kernels = "stock"

        def close(self):
            pass

    monkeypatch.setattr("detcheck.engines.vllm.engine.Process", Process)


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(amplifier.folder(), tmp_path / "model")


def only_pickled(model):
    for file in model.glob("*.safetensors*"):
        file.unlink()
    return model


def test_a_mark_is_left_by_whoever_unpickles(tmp_path):
    """The fault that all tests here look for."""
    plain(tmp_path / "x.bin", tmp_path / "run")
    with (tmp_path / "x.bin").open("rb") as file:
        pickle.load(file)
    assert (tmp_path / "run").exists()
    with zipfile.ZipFile(as_torch(tmp_path / "y.bin", tmp_path / "too")) as file:
        pickle.loads(file.read("archive/data.pkl"))
    assert (tmp_path / "too").exists()


@pytest.mark.parametrize("write", [plain, as_torch])
@pytest.mark.parametrize(
    "asks", [("completions",), ("batch",), ("completions", "--engine", "vllm"), ("reload",)], ids=" ".join
)
def test_pickled_weights_alone_are_refused(detcheck, model, mark, write, asks, no_vllm_starts):
    for name in EVERYWHERE:
        write(only_pickled(model) / name, mark)
    result = detcheck(*asks, "--model", model, "-q")
    assert (
        result.code == 2
        and "holds only pickled weights (" in result.err
        and "Convert them to safetensors" in result.err
    ), result.err


def test_what_lies_pickled_beside_safetensors_is_not_looked_at(detcheck, model, mark):
    for n, name in enumerate(EVERYWHERE):
        (plain, as_torch)[n % 2](model / name, mark)
    result = detcheck("completions", "--model", model, *SMALL)
    assert result.code in (0, 1, 3), result.err


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "../elsewhere/model.safetensors",
        "/tmp/model.safetensors",
        "model.safetensors/../pytorch_model.bin",
    ],
)
@pytest.mark.parametrize("asks", ["completions", "reload --old"])
def test_an_index_names_safetensors_of_its_folder_alone(detcheck, tmp_path, model, mark, name, asks):
    """transformers unpickles a shard whose name has another ending."""
    as_torch(model / "pytorch_model.bin", mark)
    weights = st.load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "other.safetensors")
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, name)})
    )
    if asks == "completions":
        result = detcheck("completions", "--model", model, *SMALL)
    else:
        result = detcheck("reload", "--old", model, "-q")
    assert result.code == 2 and "no safetensors file of its folder" in result.err, result.err


def test_pickled_adapters_are_refused_and_not_looked_at(detcheck, tmp_path, mark):
    pytest.importorskip("peft", reason="adapters need peft: pip install 'detcheck[adapters]'")
    base = amplifier.folder()
    good = adapters.lora(base, tmp_path / "good")
    only = shutil.copytree(good, tmp_path / "only")
    (only / "adapter_model.safetensors").unlink()
    for name in ("adapter_model.bin", "adapter_model.pt"):
        as_torch(only / name, mark)
        as_torch(good / name, mark)
    refused = detcheck("completions", "--model", base, "--adapter", only, *SMALL)
    assert refused.code == 2 and "only pickled weights (adapter_model.bin" in refused.err
    config = json.loads((good / "adapter_config.json").read_text())
    plain(good / "cache.pt", mark)
    cache = {"cache_file": str(good / "cache.pt"), "covariance_file": str(good / "cache.pt"), "corda_method": "ipm"}
    config |= {
        "auto_mapping": {"base_model_class": "Evil", "parent_library": "planted_module"},
        "base_model_name_or_path": "no/model",
    }
    for more in ({}, {"corda_config": cache, "init_lora_weights": "corda"}):
        (good / "adapter_config.json").write_text(json.dumps(config | more))
        result = detcheck("completions", "--model", base, "--adapter", good, *SMALL)
        assert result.code in (0, 1, 2, 3, 4) and "Traceback" not in result.err, result.err


@pytest.mark.parametrize(
    "argument", ["load_format=pt", "load-format=npcache", "load_format = PT", "speculative_config"]
)
def test_vllm_is_given_no_pickled_weights(detcheck, tmp_path, mark, argument):
    as_torch(tmp_path / "pytorch_model.bin", mark)
    (tmp_path / "config.json").write_text("{}")
    if argument == "speculative_config":
        argument += "=" + json.dumps({"model": str(tmp_path), "num_speculative_tokens": 2})
    result = detcheck("completions", "--engine", "vllm", "--engine-arg", argument, "-q")
    assert result.code == 2 and "pickled" in result.err and "safetensors" in result.err, result.err


def arrow_with_a_pickle(path, mark):
    """A column of the extension type that pyarrow made of a pickle before version 14 (CVE-2023-47248), and pandas' metadata beside it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    held = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Mark(mark))}
    columns = [pa.field("tokens", pa.list_(pa.int64())), pa.field("text", pa.string(), metadata=held)]
    about = {b"pandas": pickle.dumps(Mark(mark)), b"PANDAS_ATTRS": pickle.dumps(Mark(mark))}
    table = pa.table({"tokens": [[1, 2]] * 2, "text": ["a", "a"]}, schema=pa.schema(columns, metadata=about))
    pq.write_table(table, path)
    return path


def test_files_of_completions_are_not_unpickled(detcheck, tmp_path, mark):
    arrow_with_a_pickle(tmp_path / "c.parquet", mark)
    assert detcheck("judge", "c.parquet", "--allow-unseen-batch").code == 0
    for name, write in (("c.pkl", plain), ("c.jsonl", plain), ("c.parquet", as_torch), ("c.npy", plain)):
        write(tmp_path / name, mark)
        refused = detcheck("judge", name)
        assert refused.code == 2 and "Traceback" not in refused.err, refused.err


def test_log_probabilities_are_not_unpickled(detcheck, tmp_path, mark):
    np.savez(tmp_path / "objects.npz", logprobs=np.array([Mark(mark)], dtype=object))
    arrow_with_a_pickle(tmp_path / "c.parquet", mark)
    (tmp_path / "good.jsonl").write_text(json.dumps({"tokens": [1, 2], "logprobs": [-1.0, -2.0]}) + "\n")
    for name, write in (
        ("objects.npz", None),
        ("a.npz", as_torch),
        ("a.pt", as_torch),
        ("b.pt", plain),
        ("a.pkl", plain),
        ("c.parquet", None),
    ):
        if write:
            write(tmp_path / name, mark)
        refused = detcheck("logprobs", name, "good.jsonl")
        assert refused.code == 2 and "Traceback" not in refused.err, (name, refused.err)


def test_a_stored_run_and_a_baseline_are_not_unpickled(detcheck, tmp_path, mark):
    stored = Path(__file__).parents[1] / "stored" / "completions-stock" / "run"
    shutil.copytree(stored, tmp_path / "run")
    arrow_with_a_pickle(tmp_path / "run" / "outcomes" / "99998.parquet", mark)
    plain(tmp_path / "run" / "observations" / "99999.parquet", mark)
    for name in ("end.json", "asked.pickle", "came.pickle"):
        plain(tmp_path / "run" / name, mark)
    assert detcheck("report", "run").code in (1, 3)
    plain(tmp_path / "baseline.json", mark)
    assert detcheck("compare", "baseline.json", "run").code == 2


def test_the_tables_of_a_run_are_not_unpickled(tmp_path, mark):
    import detcheck as api

    stored = Path(__file__).parents[1] / "stored" / "completions-stock" / "run"
    shutil.copytree(stored, tmp_path / "run")
    arrow_with_a_pickle(tmp_path / "run" / "outcomes" / "99998.parquet", mark)
    run = api.load(tmp_path / "run")
    assert len(run.outcomes) and len(run.observations)


CODE = "import pathlib\npathlib.Path({mark!r}).write_text('imported')\n"
EVIL = "from transformers import {base}\nclass Evil({base}):\n    model_type = 'evil'\n"


def with_code(model, mark, config=None, tokenizer=None):
    """Python files that leave the mark when they are imported, named by the folder's configuration."""
    for name, base in (
        ("evil_config", "PretrainedConfig"),
        ("evil_model", "PreTrainedModel"),
        ("evil_tokenizer", "PreTrainedTokenizerFast"),
    ):
        (model / f"{name}.py").write_text(CODE.format(mark=str(mark)) + EVIL.format(base=base))
    for file, more in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        if more:
            path = model / file
            path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | more))
    return model


OF_A_CONFIG = {
    "model_type": "evil",
    "auto_map": {"AutoConfig": "evil_config.Evil", "AutoModelForCausalLM": "evil_model.Evil"},
}
OF_A_TOKENIZER = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil_tokenizer.Evil"]}}
KERNELS = {"attn_implementation": "planted/kernels"}


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
@pytest.mark.parametrize("planted", ["config", "kernels", "kernels of a part"])
def test_code_of_a_checkpoint_is_refused_in_words_that_name_the_option(
    detcheck, model, mark, planted, engine, no_vllm_starts
):
    config = {
        "config": OF_A_CONFIG,
        "kernels": KERNELS,
        "kernels of a part": {"text_config": {"_attn_implementation": {"": "a/b:c"}}},
    }[planted]
    with_code(model, mark, config)
    result = detcheck("completions", "--model", model, "--engine", engine, *SMALL)
    assert result.code == 2 and "Read it, and allow it with --trust-remote-code" in result.err, result.err


def test_a_tokenizers_own_code_is_left_out_where_its_tokenizer_json_will_do(detcheck, model, mark):
    with_code(model, mark, tokenizer=OF_A_TOKENIZER)
    assert detcheck("completions", "--model", model, *SMALL).code in (0, 1, 3)


def test_the_same_code_runs_when_it_is_asked_for(detcheck, model, tmp_path, monkeypatch):
    """Otherwise the tests above would show nothing."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    ran = tmp_path / "ran"
    with_code(model, ran, OF_A_CONFIG)
    detcheck("completions", "--model", model, "--trust-remote-code", *SMALL)
    assert ran.exists()


def test_code_that_nothing_names_is_not_imported(detcheck, model, mark, tmp_path):
    """Files of names that Python, transformers or sentence-transformers might look for, in the model's folder and in the current one."""
    for name in (
        "modeling",
        "configuration_qwen3",
        "tokenization_qwen3",
        "sitecustomize",
        "torch",
        "transformers",
        "conftest",
        "kernels",
        "handler",
    ):
        for folder in (model, tmp_path):
            (folder / f"{name}.py").write_text(CODE.format(mark=str(mark)))
    (model / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "planted.Evil"}]))
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(CODE.format(mark=str(mark)))
    assert detcheck("completions", "--model", model, *SMALL).code in (0, 1, 3)
    refused = detcheck("batch", "--model", model, "--task", "embed", "-q")
    assert refused.code in (2, 4) and "Traceback" not in refused.err, refused.err


def test_kernels_of_the_hub_by_option(detcheck, model, mark):
    result = detcheck("completions", "--model", model, "--attn", "planted/kernels", *SMALL)
    assert result.code == 2 and "--trust-remote-code" in result.err


TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch {mark}') }}",
    "{% set x = messages.__class__.__base__.__subclasses__() %}{{ x }}",
    "{{ messages.append(1) }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_runs_in_a_sandbox(detcheck, model, mark, template):
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(config | {"chat_template": template.replace("{mark}", str(mark))}))
    result = detcheck("completions", "--model", model, "--chat", *SMALL)
    assert result.code in (2, 4) and "chat template" in result.err and "Traceback" not in result.err, result.err


def test_a_header_that_lies_is_refused(detcheck, model, mark):
    """A pickle that is named safetensors."""
    as_torch(model / "model.safetensors", mark)
    result = detcheck("completions", "--model", model, *SMALL)
    assert result.code in (2, 4) and "Traceback" not in result.err
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    result = detcheck("completions", "--model", model, *SMALL)
    assert result.code in (2, 4) and "Traceback" not in result.err
