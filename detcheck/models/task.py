"""What a model is asked for: the logits that a completion is made of, an embedding, or a score; told from its config and files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

from detcheck.models import sentence


class Task(StrEnum):
    """What `detcheck batch` asks a model for."""

    AUTO = "auto"
    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"


GIVES = {  # ends of architectures' names. What is not here completes text, or nothing that is known
    Task.SCORE: ("ForSequenceClassification", "ForTokenClassification", "RewardModel"),
    Task.EMBED: ("ForMaskedLM", "ForPreTraining", "ForTextEncoding"),
}
COMPLETES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "DoubleHeadsModel")


def architecture(config: Any) -> str:
    """ "" where the config names none."""
    return ", ".join(getattr(config, "architectures", None) or ())


def gives(config: Any) -> Task:
    """What the architecture is made for."""
    made = architecture(config)
    for task, ends in GIVES.items():
        if made.endswith(ends):
            return task
    return Task.EMBED if made.endswith("Model") and not made.endswith(COMPLETES) else Task.GENERATE


def chosen(task: str, config: Any, folder: Path) -> Task:
    """What is asked for, by --task. auto: what the architecture is made for, or an embedding where sentence-transformers pools it."""
    if task != Task.AUTO:
        return Task(task)
    found = gives(config)
    return Task.EMBED if found is not Task.SCORE and sentence.pools(folder) else found


def in_two_parts(config: Any) -> bool:
    """Whether it is an encoder with a decoder, like T5 and BART."""
    return bool(getattr(config, "is_encoder_decoder", False))


def is_encoder(config: Any) -> bool:
    """Whether each token looks at all others: the first one stands for the text then, else the last."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if getattr(config, "is_decoder", False):
        return False
    own = getattr(config, "auto_map", None) or {}
    made = architecture(config)
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES or "AutoModelForMaskedLM" in own
    return masked or made.endswith(("ForMaskedLM", "EncoderModel")) or in_two_parts(config)
