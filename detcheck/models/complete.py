"""Is what was loaded the model of the checkpoint? Whatever an architecture needs and a folder lacks, transformers makes up at random.

Tied weights and buffers that are derived are not missing, and what a class knows to ignore is not unused: transformers leaves both out of
its report.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from detcheck.errors import UsageError
from detcheck.models.task import COMPLETES, Task, architecture, gives, in_two_parts, is_encoder
from detcheck.text import article

SHOWN = 3  # names in a message
DERIVED = (
    "rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    "embeddings.position_ids",
)  # buffers of older checkpoints, computed again in each process
UNREAD = ("pooler.",)  # computed behind the hidden states that an embedding is made of, and read by nobody here
WANTED = {
    Task.GENERATE: "a causal language model",
    Task.EMBED: "a model",
    Task.SCORE: "a sequence classifier, reward model or reranker",
}


def refuse_other_kinds(name: str, config: Any, task: Task = Task.GENERATE, once: bool = False) -> None:
    """Raises UsageError for what the config says cannot give what is asked for, before the weights are read.

    `once`: of what generates, the logits of one token are asked for, not a completion.
    """
    made = architecture(config) or "a model that names no architecture"
    two_parts = in_two_parts(config)
    anything = "detcheck.assert_batch_invariant takes any function of tensors, a whole model too"
    if task is not Task.SCORE and two_parts and not reads_text(config):
        raise UsageError(
            f"--model {name} is {made}, an encoder with a decoder that transformers gives no text. {anything}"
        )
    if task is Task.SCORE and two_parts:
        raise UsageError(
            f"--model {name} is {made}, an encoder with a decoder, whose score is read at an end token that rows made of fillers do not have. {anything}"
        )
    if task is not Task.GENERATE:
        return
    if two_parts and once:
        return
    if two_parts:
        raise UsageError(
            f"--model {name} is {made}, an encoder with a decoder: transformers would run its decoder alone. Give a causal language model; "
            f"`detcheck batch` asks this one for its decoder's first logits, {instead(Task.EMBED)} for its encoder's embedding; {anything}"
        )
    if made.endswith("ForMaskedLM") or (made.endswith(("LMHeadModel", "ForCausalLM")) and looks_both_ways(config)):
        raise UsageError(
            f"--model {name} is {made}: each of its tokens looks at all others, so it completes nothing. Give a causal language model; "
            f"{instead(Task.EMBED)} asks it for an embedding"
        )


def looks_both_ways(config: Any) -> bool:
    """Whether each token looks at those behind it too, whatever head the model has."""
    return is_encoder(config) and not own_class(config)


def own_class(config: Any) -> bool:
    """Whether the folder's own code says what completes a text."""
    return "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})


def instead(task: Task) -> str:
    return f"`detcheck batch --task {task}`"


def ask_instead(config: Any, task: Task) -> str:
    """What to ask such a model for, where that is something else; to be put behind a sentence."""
    made, better = architecture(config), gives(config)
    if better is Task.GENERATE and made and not made.endswith(COMPLETES):
        better = Task.EMBED  # another head, on hidden states all the same
    return f"; {instead(better)} asks this one for what it has" if better is not task else ""


def has_encoder_alone(config: Any) -> bool:
    """Whether transformers has a class for the encoder of such an encoder with a decoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    return MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel")


def reads_text(config: Any) -> bool:
    """Whether an encoder with a decoder takes token ids, and not sounds or pictures."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

    own = getattr(config, "auto_map", None) or {}
    return config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES or "AutoModelForSeq2SeqLM" in own


def complete(
    name: str, config: Any, loaded: str, report: Mapping[str, Collection[Any]], task: Task = Task.GENERATE
) -> str:
    """What of the checkpoint was not used, in words; "" where all was. `report`: transformers' loading report, `loaded`: the class.

    Raises UsageError where tensors that the class needs are missing or of another shape: then they are random numbers.
    """
    made = architecture(config)
    unread = UNREAD if task is Task.EMBED else ()
    lacking = {str(key) for key in report.get("missing_keys", ()) if not str(key).startswith(unread)}
    other = {str(key[0] if isinstance(key, tuple) else key) for key in report.get("mismatched_keys", ())}
    unused = {str(key) for key in report.get("unexpected_keys", ()) if not str(key).endswith(DERIVED)}
    if lacking or other:
        told = (("missing", lacking), ("of another shape", other), ("in it and not used", unused))
        what = [
            f"{len(names)} {'is' if len(names) == 1 else 'are'} {how} ({some(names)})" for how, names in told if names
        ]
        kind = f" The folder holds {article(made)}." if made and made != loaded else ""
        raise UsageError(
            f"--model {name} does not hold all tensors of {loaded}: {', '.join(what)}, so it would run with random numbers in their place."
            f"{kind} Give the folder of {WANTED[task]} with all its weights{ask_instead(config, task)}"
        )
    if task is Task.GENERATE and gives(config) is not Task.GENERATE and not own_class(config):
        left = f", without {some(unused)}" if unused else ""  # with tied weights a head is there that nobody trained
        raise UsageError(
            f"--model {name} holds {article(made)}, which completes nothing: it would run as {loaded}{left}, with its embeddings as the head of a "
            f"language model. Give the folder of {WANTED[task]}{ask_instead(config, task)}"
        )
    return f"{len(unused)} ({some(unused)})" if unused else ""


def some(names: Collection[str]) -> str:
    first = sorted(names)[:SHOWN]
    return ", ".join(first) + (", ..." if len(names) > SHOWN else "")
