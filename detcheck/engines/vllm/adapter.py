"""A LoRA adapter for vLLM: what it leaves out, or cuts, without a word is refused before it is asked, and what it took is asked for.

vLLM takes what it has a place for. A module of a layer that the model does not have is left out, one that the file lacks is
zeros, and a matrix that is too small is put in all the same. So peft, which tells, is asked first, with a model that has no weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from detcheck.engines.transformers.adapter import described, loaded, quiet_warnings, require_peft
from detcheck.engines.transformers.load import auto_class
from detcheck.errors import DetcheckError, FailedError, UsageError
from detcheck.models.adapter import Adapter
from detcheck.models.checkpoint import Checkpoint, first_line, quiet_transformers
from detcheck.models.task import Task

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for


def check(checkpoint: Checkpoint, adapters: Sequence[Adapter | None]) -> dict[str, str]:
    """What there is to say of them. The first is the tested prompt's. Raises UsageError where one does not fit, FailedError where nobody can say."""
    said = [one and fits(checkpoint, one) for one in adapters]
    if not said:
        return {}
    others = {"other adapters": "; ".join(one or "none" for one in said[1:])} if said[1:] else {}
    return ({"adapter": f"{said[0]}, not merged"} if said[0] else {}) | others


def fits(checkpoint: Checkpoint, adapter: Adapter) -> str:
    """ "polite: LoRA of rank 8 on 64 modules" """
    import torch

    require_peft()
    if adapter.rank > RANKS[-1]:
        raise UsageError(
            f"{adapter.named} is of rank {adapter.rank}, and vLLM takes up to {RANKS[-1]}. Use --engine transformers"
        )
    try:
        with quiet_transformers(), quiet_warnings(), torch.device("meta"):
            kind = auto_class(Task.GENERATE, checkpoint._config)
            model = kind.from_config(checkpoint._config, trust_remote_code=checkpoint._trust)
        with quiet_transformers(), quiet_warnings():
            wrapped = loaded(model, adapter, checkpoint.name, "cpu")
    except DetcheckError:
        raise
    except Exception as error:
        raise FailedError(
            f"transformers does not bring {checkpoint.name} up ({first_line(error)}), so that nobody knows whether {adapter.named} fits it. "
            "Merge it into the model (merge_and_unload of peft), and give what was saved with --model"
        ) from error
    return f"{adapter.folder.name}: {described(wrapped)}"


def room(adapters: Sequence[Adapter | None]) -> dict[str, object]:
    """Engine arguments of vLLM's."""
    there = [one for one in adapters if one]
    if not there:
        return {}
    most = max(one.rank for one in there)
    return {"enable_lora": True, "max_loras": len(there), "max_lora_rank": next(rank for rank in RANKS if rank >= most)}
