"""Small LoRA adapters, made by peft on a model's folder; their B matrices, which peft begins with zeros, are seeded."""

import safetensors.torch as st
import torch
from transformers import AutoModelForCausalLM

WEIGHTS = "adapter_model.safetensors"


def lora(model, folder, std=0.2, seed=1, kind=AutoModelForCausalLM, **changes):
    """Returns its folder. `std`: of the B matrices; `changes`: of its LoraConfig."""
    import peft

    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(kind.from_pretrained(model), peft.LoraConfig(**config | changes))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name or "modules_to_save" in name:
                parameter.normal_(std=std)
    adapted.save_pretrained(folder)
    return folder


def with_tensors(folder, change):
    """The adapter with other tensors: `change` is given them by name."""
    st.save_file(change(st.load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
    return folder
