"""An engine that runs here while its weights are updated: what the session asks of it, whichever engine it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from detcheck.engine import Decoded, Engine, Row
from detcheck.models.held import Held
from detcheck.spec import Spec

if TYPE_CHECKING:
    from detcheck.engines.transformers.engine import TransformersEngine
    from detcheck.engines.vllm.engine import VllmEngine

SLEEP = "sleep"


class Updatable(Protocol):
    """Holds an engine that is loaded."""

    @property
    def cache(self) -> bool:
        """Whether it keeps a prefix cache."""

    def complete(self, prompt: tuple[int, ...]) -> tuple[Decoded, int]:
        """(what came, tokens of the prompt that were in the prefix cache). Raises FailedError."""

    def holds(self) -> Held: ...

    def update(self, way: str, folder: Path) -> tuple[int, float]:
        """(bytes, seconds). Raises whatever the engine does."""

    def empty_cache(self) -> None: ...

    def ignores(self, way: str) -> bool:
        """Whether it takes that way's calls and does nothing."""


class UpdatableTransformers:
    """See `Updatable`."""

    cache = False

    def __init__(self, spec: Spec, engine: TransformersEngine) -> None:
        self._spec, self._own, self._engine = spec, spec.options, engine

    def complete(self, prompt: tuple[int, ...]) -> tuple[Decoded, int]:
        with self._engine.running(self._spec.kernels):
            return self._engine.complete([Row(prompt)], self._own.max_tokens, self._own.ignore_eos), 0

    def holds(self) -> Held:
        from detcheck.engines.transformers.update import holds

        return holds(self._engine)

    def update(self, way: str, folder: Path) -> tuple[int, float]:
        from detcheck.engines.transformers.update import update

        return update(self._engine, way, folder, self._own.bucket_mib << 20)

    def empty_cache(self) -> None:
        """There is none."""

    def ignores(self, way: str) -> bool:
        return False


class UpdatableVllm:
    """See `Updatable`. Its prefix cache is never emptied but by `empty_cache`."""

    def __init__(self, spec: Spec, engine: VllmEngine) -> None:
        self._spec, self._own, self._engine = spec, spec.options, engine

    @property
    def cache(self) -> bool:
        return bool(self._engine.cache_block)

    def complete(self, prompt: tuple[int, ...]) -> tuple[Decoded, int]:
        with self._engine.running(self._spec.kernels):
            decoded = self._engine.complete([Row(prompt)], self._own.max_tokens, self._own.ignore_eos, goes_on=True)
        return decoded, decoded.traces[0].cached if 0 in decoded.traces else 0

    def holds(self) -> Held:
        return self._asked("holds")

    def update(self, way: str, folder: Path) -> tuple[int, float]:
        how = {
            "way": "files" if way == SLEEP else way,
            "folder": str(folder),
            "bucket_bytes": self._own.bucket_mib << 20,
        }
        return self._asked(SLEEP if way == SLEEP else "update", how)

    def empty_cache(self) -> None:
        self._asked("empty")

    def ignores(self, way: str) -> bool:
        return way == SLEEP and self._engine.device == "cpu"

    def _asked(self, what: str, update: dict[str, object] | None = None) -> object:
        from detcheck.engines.vllm.messages import WeightsRequest

        return self._engine.weights(WeightsRequest(what, update or {}))


def updatable(spec: Spec, engine: Engine) -> Updatable:
    return (UpdatableVllm if engine.schedules_itself else UpdatableTransformers)(spec, engine)
