"""transformers as an engine: it runs exactly the batch that the probe forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck import switch
from detcheck.engine import EngineType
from detcheck.models.adapter import Adapter, find
from detcheck.schedules.batches import fit
from detcheck.schedules.wanted import Wanted

if TYPE_CHECKING:
    from detcheck.engine import Engine
    from detcheck.spec import Spec

ENOUGH = 2**31  # rows: what memory holds is known when the model is open


def check(spec: Spec) -> None:
    switch.check(spec.kernels, spec.device)
    adapter_of(spec)


def check_schedule(spec: Spec) -> None:
    fit(Wanted.of(spec), ENOUGH)


def open_engine(spec: Spec) -> Engine:
    from detcheck.engines.transformers.engine import TransformersEngine

    own, place = spec.options, (spec.model, spec.dtype, spec.device)
    task = getattr(own, "task", None)  # a probe without tasks asks for completions
    return TransformersEngine(*place, own.attn, own.trust_remote_code, task, adapter_of(spec))


def adapter_of(spec: Spec) -> Adapter | None:
    return find(getattr(spec.options, "adapter", None), getattr(spec.options, "merge_adapter", False))


ENGINE = EngineType("transformers", "add --engine transformers", lambda spec: 1, check, check_schedule, open_engine)
