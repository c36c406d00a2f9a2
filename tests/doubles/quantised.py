"""Checkpoints whose weights are quantised, made of a small Llama's."""

import json
import shutil

import safetensors.torch as st
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, TorchAoConfig


def by_torchao(folder, into, config, dtype=torch.float32):
    """As transformers saves a model that torchao quantised."""
    how = TorchAoConfig(config)
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=how).save_pretrained(into)
    for path in folder.glob("tokenizer*"):
        shutil.copy(path, into)
    return into


def in_fp8(folder, into):
    """In DeepSeek's form: float8 weights, a scale for each block of 128 by 128 beside them."""
    shutil.copytree(folder, into)
    tensors = {}
    for name, tensor in st.load_file(into / "model.safetensors").items():
        if tensor.ndim != 2 or not name.endswith("proj.weight"):
            tensors[name] = tensor
            continue
        blocks = [-(-size // 128) for size in tensor.shape]
        tensors[name] = tensor.to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.full(blocks, 0.5)
    st.save_file(tensors, into / "model.safetensors", metadata={"format": "pt"})
    return says(into, {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"})


def with_tensors(folder, change):
    """The folder with other tensors in its file, under the same metadata."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        said, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    st.save_file(change(tensors), path, metadata=said)
    return folder


def says(folder, settings):
    """The folder, whose config.json says that of its quantisation."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": settings}))
    return folder
