"""transformers as an engine: it runs exactly the batch that the probe forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcheck import switch
from detcheck.engine import EngineType
from detcheck.errors import UsageError
from detcheck.models.adapter import adapters_of
from detcheck.models.cache import Cache
from detcheck.schedules import adapters, lone
from detcheck.schedules.batches import fit
from detcheck.schedules.wanted import Wanted
from detcheck.spec import Kernels

if TYPE_CHECKING:
    from detcheck.engine import Engine
    from detcheck.spec import Spec

ENOUGH = 2**31  # rows: what memory holds is known when the model is open


def check(spec: Spec) -> None:
    own = spec.options
    switch.check(spec.kernels, spec.device)
    if "/" in (attn := getattr(own, "attn", None) or "") and not own.trust_remote_code:
        raise UsageError(
            f"--attn {attn}: kernels of the hub are code that would run here. Read it, and allow it with --trust-remote-code"
        )
    adapters_of(spec)
    if (cache := getattr(own, "cache", Cache.DYNAMIC)) not in tuple(Cache):
        raise UsageError(f"--cache {cache}: use {' or '.join(Cache)}")
    if getattr(own, "compile", False) and spec.kernels is not Kernels.STOCK:
        raise UsageError(
            f"--compile with --kernels {spec.kernels}: a compiled model adds in loops of its own, which call none of our kernels. "
            "Leave one of them out; `detcheck compare` takes a run of each"
        )
    if getattr(own, "compile", False) and getattr(own, "other_adapter", ()):
        raise UsageError(
            "--compile with --other-adapter: adapters that change from row to row have not been compiled here. Leave one of them out"
        )


def check_schedule(spec: Spec) -> None:
    wanted = lone.rest(Wanted.of(spec), arriving=False)
    adapters.check(wanted)
    fit(adapters.rest(wanted), ENOUGH)


def open_engine(spec: Spec) -> Engine:
    from detcheck.engines.transformers.engine import TransformersEngine

    own, place = spec.options, (spec.model, spec.dtype, spec.device)
    task = getattr(own, "task", None)  # a probe without tasks asks for completions
    tested, *others = adapters_of(spec) or (None,)
    how = {"cache": getattr(own, "cache", None), "compile": getattr(own, "compile", None)}
    return TransformersEngine(*place, own.attn, own.trust_remote_code, task, tested, others, **how)


ENGINE = EngineType("transformers", "add --engine transformers", lambda spec: 1, check, check_schedule, open_engine)
