"""Several LoRA adapters in one model, a row each, as peft mixes them (`adapter_names`).

peft computes the rows of one adapter together and adds them to what the model's own weights gave all rows. Every pass goes that way, also
of a batch whose rows have one adapter, so that batches differ in nothing but the adapters of their rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from detcheck.engines.transformers.adapter import described, effect, farthest, loaded, logits, quiet_warnings
from detcheck.errors import DetcheckError, FailedError, UsageError
from detcheck.models.adapter import Adapter
from detcheck.models.checkpoint import first_line, quiet_transformers

BASE = "__base__"  # peft's name for the model without an adapter


class Mixed:
    """A model with adapters, each known by its place."""

    def __init__(self, wrapped: Any, names: Sequence[str]) -> None:
        """`wrapped`: peft's model; `names`: peft's of the adapters."""
        self._wrapped, self._names = wrapped, names

    @contextlib.contextmanager
    def rows(self, which: Sequence[int]) -> Iterator[set[int]]:
        """Inside, row n of each pass has adapter `which[n]`. The set that it gives holds those whose products were seen, and the model's own."""
        from peft.tuners.lora import LoraLayer

        met = {n for n, name in enumerate(self._names) if name == BASE}
        with contextlib.ExitStack() as hooks:
            for n, name in enumerate(self._names):
                layers = [
                    m.lora_A[name] for m in self._wrapped.modules() if isinstance(m, LoraLayer) and name in m.lora_A
                ]
                if layers:
                    handle = layers[0].register_forward_pre_hook(lambda _, __, n=n: met.add(n))
                    hooks.callback(handle.remove)
            names = [self._names[n] for n in which]
            hooks.enter_context(self._wrapped.base_model._enable_peft_forward_hooks(adapter_names=names))
            yield met


def mix(
    model: Any, adapters: Sequence[Adapter | None], of: str, device: str, prompt: Sequence[int]
) -> tuple[Any, Mixed, dict[str, str]]:
    """(the model with its adapters, how its rows get one, what there is to say). The first is the tested prompt's; None: no adapter.

    `of`, `prompt`: as in `put_on`. Raises UsageError where they do not fit, or where a neighbour's changes nothing.
    """
    try:
        with quiet_transformers(), quiet_warnings():
            without, wrapped = logits(model, prompt, device), model
            names = [BASE if one is None else f"adapter{n:02d}" for n, one in enumerate(adapters)]
            for one, name in zip(adapters, names, strict=True):
                wrapped = wrapped if one is None else loaded(wrapped, one, of, device, name)
            made = wrapped.get_base_model().eval()
            mixed, alone = Mixed(wrapped, names), []
            for n in range(len(names)):
                with mixed.rows([n]):
                    alone.append(logits(made, prompt, device))
    except DetcheckError:
        raise
    except ValueError as error:
        raise UsageError(
            f"--other-adapter: peft does not mix these adapters in a batch: {first_line(error)}"
        ) from error
    except Exception as error:
        raise FailedError(f"cannot load --adapter or --other-adapter: {first_line(error)}") from error
    said, others = {}, []
    for one, name, found in zip(adapters, names, alone, strict=True):
        if one is adapters[0]:
            if one is not None:
                said["adapter"] = f"{one.folder.name}: {described(wrapped, name)}, not merged"
                said["adapter effect"] = effect(without, found)
            continue
        if one is not None and found.equal(alone[0]):
            raise UsageError(
                f"{one.named} gives the same logits as the prompt's own adapter (or none), so that neighbours with it show nothing. Give another one"
            )
        what = "none" if one is None else f"{one.folder.name}: {described(wrapped, name)}"
        others.append(f"{what}, logits up to {farthest(alone[0], found)} apart")
    return made, mixed, said | {"other adapters": "; ".join(others)}
