"""transformers as an engine: it runs exactly the batch that the probe forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck import switch
from detcheck.engine import EngineType
from detcheck.models.adapter import adapters_of
from detcheck.schedules import adapters
from detcheck.schedules.batches import fit
from detcheck.schedules.wanted import Wanted

if TYPE_CHECKING:
    from detcheck.engine import Engine
    from detcheck.spec import Spec

ENOUGH = 2**31  # rows: what memory holds is known when the model is open


def check(spec: Spec) -> None:
    switch.check(spec.kernels, spec.device)
    adapters_of(spec)


def check_schedule(spec: Spec) -> None:
    wanted = Wanted.of(spec)
    adapters.check(wanted)
    fit(adapters.rest(wanted), ENOUGH)


def open_engine(spec: Spec) -> Engine:
    from detcheck.engines.transformers.engine import TransformersEngine

    own, place = spec.options, (spec.model, spec.dtype, spec.device)
    task = getattr(own, "task", None)  # a probe without tasks asks for completions
    tested, *others = adapters_of(spec) or (None,)
    return TransformersEngine(*place, own.attn, own.trust_remote_code, task, tested, others)


ENGINE = EngineType("transformers", "add --engine transformers", lambda spec: 1, check, check_schedule, open_engine)
