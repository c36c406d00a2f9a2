"""Brings up a checkpoint's weights as what is asked of it, with nothing made up in the place of what is not there."""

from __future__ import annotations

import contextlib
from typing import Any

from detcheck.engines.transformers import gguf
from detcheck.errors import FailedError, UsageError
from detcheck.models.checkpoint import Checkpoint, first_line, quiet_transformers
from detcheck.models.complete import WANTED, ask_instead, complete, has_encoder_alone
from detcheck.models.quantised import ELSEWHERE, described, method
from detcheck.models.task import Task, architecture, in_two_parts

DOES = {Task.GENERATE: "completes a text", Task.EMBED: "gives hidden states", Task.SCORE: "scores a text"}


def load(checkpoint: Checkpoint, config: Any, device: str, **how: Any) -> tuple[Any, dict[str, str]]:
    """(the model on the device, what there is to say of its weights). Raises UsageError where tensors are missing, FailedError where it fails."""
    task, file = checkpoint.task, checkpoint.gguf
    with quiet_transformers():
        kind = auto_class(task, config)
    if type(config) not in kind._model_mapping and kind.__name__ not in (getattr(config, "auto_map", None) or {}):
        raise UsageError(
            f"--model {checkpoint.name} is {architecture(config) or config.model_type}, and transformers has no class of that kind that "
            f"{DOES[task]}. Give the folder of {WANTED[task]}{ask_instead(config, task)}"
        )
    try:
        with quiet_transformers(), gguf.quiet() if file else contextlib.nullcontext():
            if file:
                how |= gguf.how(file)
            # Tensors of another shape are told of, and refused by name: transformers' own error points at a table that nobody sees.
            told = {"output_loading_info": True, "ignore_mismatched_sizes": True}
            model, report = kind.from_pretrained(checkpoint.folder, use_safetensors=True, **told, **how)
            report, made = gguf.report(model, file, report) if file else (report, described(model, config))
        unused = complete(checkpoint.name, config, type(model).__name__, report, task)
        if task is Task.EMBED and in_two_parts(config) and not has_encoder_alone(config):
            model = model.get_encoder()
        said = {"weights": made, "tensors not used": unused}
        return model.to(device).eval(), {name: text for name, text in said.items() if text}
    except UsageError:
        raise
    except Exception as error:
        named = method(config)
        of = f" (quantised by {named}; {ELSEWHERE[0].lower()}{ELSEWHERE[1:]})" if named else ""
        why = first_line(error)
        if "CONVERSION" in why:  # it speaks of a table that it has printed
            why = "tensors that a weight is put together of are missing, or do not fit together"
        raise FailedError(f"cannot load {checkpoint.name}: {why}{of}") from error


def auto_class(task: Task, config: Any) -> Any:
    """The class of transformers that makes a model which gives what is asked for."""
    import transformers

    made, own = architecture(config), getattr(config, "auto_map", None) or {}
    if task is Task.GENERATE and in_two_parts(config):
        return transformers.AutoModelForSeq2SeqLM
    if task is Task.GENERATE:
        text, sees = transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText
        return sees if type(config) not in text._model_mapping and type(config) in sees._model_mapping else text
    if task is Task.EMBED:
        return transformers.AutoModelForTextEncoding if has_encoder_alone(config) else transformers.AutoModel
    if made.endswith("ForTokenClassification"):
        return transformers.AutoModelForTokenClassification
    if made.endswith("RewardModel") and "AutoModelForSequenceClassification" not in own:
        return transformers.AutoModel  # a class of the checkpoint's own
    return transformers.AutoModelForSequenceClassification


def decoder_start(name: str, model: Any) -> int:
    """Id of the token that a decoder behind an encoder begins with. Raises UsageError where nothing names it."""
    places_of_it = ((model.generation_config, "decoder_start_token_id"), (model.config, "decoder_start_token_id"))
    named = [getattr(one, what, None) for one, what in (*places_of_it, (model.generation_config, "bos_token_id"))]
    if (first := next((one for one in named if one is not None), None)) is None:
        raise UsageError(
            f"--model {name} names no decoder_start_token_id, so its decoder cannot begin. Write it into its generation_config.json"
        )
    return first


def places(model: Any) -> int:
    """Tokens that a table of positions has room for where it begins behind the pad token, as RoBERTa's does; else beyond all contexts."""
    tables = [m for name, m in model.named_modules() if name.endswith(("position_embeddings", "embed_positions"))]
    offsets = [(len(m.weight), m.padding_idx) for m in tables if getattr(m, "padding_idx", None) is not None]
    return min((rows - pad - 1 for rows, pad in offsets), default=2**31)
