"""Puts a LoRA adapter onto a model that is loaded, with nothing made up, nothing left out, and what it does to one prompt measured.

peft puts its layers into the model itself, so what runs, with the names of its modules, is the model and not a wrapper around it.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from detcheck.errors import DetcheckError, FailedError, UsageError
from detcheck.models.adapter import WEIGHTS, Adapter
from detcheck.models.checkpoint import first_line, quiet_transformers
from detcheck.models.complete import some

if TYPE_CHECKING:
    import torch

NAME = "default"  # peft's own name for a model's first adapter
TOKENS = 16  # of the prompt that shows what the adapter changes


def require_peft() -> None:
    """Raises FailedError where it is not there."""
    try:
        with quiet_transformers():
            import peft  # noqa: F401
    except ImportError as error:
        raise FailedError(f"--adapter needs peft ({error}): pip install 'detcheck[adapters]'") from None


def put_on(model: Any, adapter: Adapter, of: str, device: str, prompt: Sequence[int]) -> tuple[Any, dict[str, str]]:
    """(the model with its adapter, what there is to say of it). `of`: the model's name; `prompt`: tokens that show what the adapter changes.

    Raises UsageError where the two do not belong together, FailedError where the adapter cannot be loaded.
    """
    try:
        with quiet_transformers(), quiet_warnings():
            without = logits(model, prompt, device)
            wrapped = loaded(model, adapter, of, device)
            said = f"{adapter.folder.name}: {described(wrapped)}"
            made = wrapped.get_base_model().eval()
            apart = logits(made, prompt, device)
            if not adapter.merged:
                return made, {"adapter": f"{said}, not merged", "adapter effect": effect(without, apart)}
            made = wrapped.merge_and_unload(safe_merge=True).eval()
            together = logits(made, prompt, device)
            moved = f"{effect(without, together)}; merging {moves(apart, together)}"
            return made, {"adapter": f"{said}, merged", "adapter effect": moved}
    except DetcheckError:
        raise
    except Exception as error:
        raise FailedError(f"cannot load {adapter.named}: {first_line(error)}") from error


def loaded(model: Any, adapter: Adapter, of: str, device: str, name: str = NAME) -> Any:
    """peft's model around this one, whose modules it replaces; of one that has an adapter the same, with another. `name`: peft's for it."""
    from peft import PeftConfig, PeftModel, get_peft_model
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(adapter.folder / WEIGHTS, framework="pt") as file:
            held = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise FailedError(
            f"cannot load {adapter.named}: {WEIGHTS} is damaged ({first_line(error)}). Save or fetch it again"
        ) from None
    config = PeftConfig.from_pretrained(str(adapter.folder))
    config.inference_mode = True
    try:
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
            wrapped = model
        else:
            wrapped = get_peft_model(model, config, name)
    except ValueError as error:  # no module of these names
        raise misfit(adapter, of, first_line(error)) from None
    lost, extra, other = [], [], []
    try:
        mapping = getattr(model, "_checkpoint_conversion_mapping", {})
        result = wrapped.load_adapter(str(adapter.folder), name, torch_device=device, key_mapping=mapping)
        lost, extra = list(result.missing_keys), list(result.unexpected_keys)
    except KeyError as error:  # a module that the config says is stored whole
        lost = [str(error.args[0])]
    except RuntimeError as error:
        other = re.findall(r"size mismatch for (\S+):", str(error))
        if not other:
            raise
    if not held:
        raise misfit(adapter, of, f"{WEIGHTS} holds no tensor")
    told = (("missing", lost), ("of another shape", other), ("in it and not used", extra))
    if what := [
        f"{len(names)} {'is' if len(names) == 1 else 'are'} {how} ({named(names, name)})"
        for how, names in told
        if names
    ]:
        raise misfit(adapter, of, f"of the tensors that it needs or holds, {', '.join(what)}")
    return wrapped


def misfit(adapter: Adapter, of: str, why: str) -> UsageError:
    return UsageError(f"{adapter.named} does not fit {of}: {why}. Give the adapter that was made for this model")


def named(keys: Collection[str], name: str) -> str:
    """As they are called in the file."""
    return some([key.removeprefix("base_model.model.").replace(f".{name}", "") for key in keys])


def described(wrapped: Any, name: str = NAME) -> str:
    """ "LoRA of rank 8 on 64 modules" """
    from peft.tuners.lora import LoraLayer

    ranks = [m.r[name] for m in wrapped.modules() if isinstance(m, LoraLayer) and name in m.r]
    span = " to ".join(map(str, sorted({min(ranks, default=0), max(ranks, default=0)})))
    return f"LoRA of rank {span} on {len(ranks)} module{'s' * (len(ranks) != 1)}"


def logits(model: Any, prompt: Sequence[int], device: str) -> torch.Tensor:
    """What the model gives for each token of one prompt, computed alone, as float64: logits, or hidden states where it has none."""
    import torch

    ids = torch.tensor([list(prompt)], device=device)
    with torch.inference_mode():
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        made = getattr(out, "logits", None)
        return (out.last_hidden_state if made is None else made).double().cpu()


def effect(without: torch.Tensor, now: torch.Tensor) -> str:
    if without.equal(now):
        return "the adapter changes no logit of the prompt that was tried"
    return f"the adapter changes logits by up to {farthest(without, now)}"


def moves(apart: torch.Tensor, together: torch.Tensor) -> str:
    return "moves none" if apart.equal(together) else f"moves them by up to {farthest(apart, together)}"


def farthest(a: torch.Tensor, b: torch.Tensor) -> str:
    return f"{(a - b).abs().max().item():.2g}"


@contextlib.contextmanager
def quiet_warnings() -> Iterator[None]:
    """peft warns of what is refused here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
