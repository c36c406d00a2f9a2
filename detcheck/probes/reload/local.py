"""Engines that run here, brought up one after the other."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detcheck.engine import Decoded, Engine, Row
from detcheck.errors import FailedError
from detcheck.harness import engines, prompts
from detcheck.harness.model import OpenModel
from detcheck.hashes import files_hash
from detcheck.models import amplifier, perturbed
from detcheck.models.folder import resolve
from detcheck.models.held import Held
from detcheck.models.stored import files, refuse_unlike, stored
from detcheck.models.stream import refuse_unsendable
from detcheck.outcomes import outcome
from detcheck.probes.reload.stack import SLEEP, Updatable
from detcheck.records import Outcome, Prompt, Schedule
from detcheck.spec import Spec

if TYPE_CHECKING:
    from detcheck.probes.reload.options import Options


class LocalStack:
    """See `stack.Stack`."""

    def __init__(self, spec: Spec) -> None:
        """Raises UsageError where a file is torn, or the two are not of one model; FailedError where the new weights cannot be loaded."""
        self._spec, self._own = spec, spec.options
        self._made: Path | None = None
        self.alike: tuple[str, ...] = ()
        self._engine: Engine | None = None
        try:
            self._new, self._old = self._folders()
            self._engine = engines.open_engine(spec)
            self._model = OpenModel(spec, self._engine, self._own.max_tokens)
            opened = self._model.open(prompts.asked(spec), lambda _: Schedule(()), None)
        except BaseException:
            self.close()
            raise
        self._new_is_up = True
        self.cache = bool(getattr(self._engine, "cache_block", 0))
        flags = opened.environment.flags | {"old weights": self._own.old or perturbed.SAID}
        old = {"old weights": files_hash(files(self._old, str(self._old)))}
        environment = replace(opened.environment, flags=flags)
        self.subject = replace(opened, digests={**opened.digests, **old}, environment=environment)
        self._longest = self._model.longest(max(len(p.token_ids) for p in opened.inputs))

    def _folders(self) -> tuple[Path, Path]:
        """Those of the new weights and of the old."""
        model, given = self._spec.model, self._own.old
        new = amplifier.folder() if model is None else resolve(model)[0]
        named = f"--model {model or amplifier.NAME}"
        tensors = stored(new, named)
        for way in self._own.update:
            refuse_unsendable(tensors, way, named)
        if given is not None:
            old = Path(given).expanduser()
            refuse_unlike(stored(old, f"--old {given}"), tensors, f"--old {given}")
            return new, old
        self._made = Path(tempfile.mkdtemp(prefix="detcheck-old-"))
        self.alike = perturbed.make(new, self._made)
        return new, self._made

    def engine(self, new: bool) -> Updatable:
        """See `stack.Stack`."""
        if not (new and self._new_is_up):
            if self._engine is not None:
                self._engine.close()
            self._engine = None  # its memory is wanted for the next one
            self._engine = engines.open_engine(self._spec if new else replace(self._spec, model=str(self._old)))
            self._engine.load(self._longest)
        self._new_is_up = new
        kind = UpdatableVllm if self._engine.schedules_itself else UpdatableTransformers
        return kind(self._spec, self._engine, self.subject.inputs, self._new)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)


class UpdatableLocal:
    """What both kinds of engine share."""

    def __init__(self, spec: Spec, engine: Engine, inputs: tuple[Prompt, ...], new: Path) -> None:
        self._spec, self._engine, self._new = spec, engine, new
        self._own: Options = spec.options
        self._prompts = {prompt.name: prompt.token_ids for prompt in inputs}

    def complete(self, prompt: str) -> tuple[Outcome, int]:
        with self._engine.running(self._spec.kernels):
            decoded = self._completed(self._prompts[prompt])
        completion = decoded.completions.get(0)
        if completion is None:
            raise FailedError(decoded.missing.get(0, "the engine returned no completion"))
        made = outcome(
            np.asarray(completion.tokens, np.int64),
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            margins=completion.margins,
            runners_up=np.asarray(completion.runners_up, np.int64),
            decode=self._engine.decode,
        )
        return made, decoded.traces[0].cached if 0 in decoded.traces else 0

    def _completed(self, prompt: tuple[int, ...], **how: Any) -> Decoded:
        return self._engine.complete([Row(prompt)], self._own.max_tokens, self._own.ignore_eos, **how)

    @property
    def _bucket_bytes(self) -> int:
        return self._own.bucket_mib << 20


class UpdatableTransformers(UpdatableLocal):
    """See `stack.Updatable`."""

    def holds(self) -> Held:
        from detcheck.engines.transformers.update import holds

        return holds(self._engine)

    def update(self, way: str) -> tuple[int, float]:
        from detcheck.engines.transformers.update import update

        return update(self._engine, way, self._new, self._bucket_bytes)

    def empty_cache(self) -> None:
        """There is none."""

    def ignores(self, way: str) -> bool:
        return False


class UpdatableVllm(UpdatableLocal):
    """See `stack.Updatable`. Its prefix cache is never emptied but by `empty_cache`."""

    def _completed(self, prompt: tuple[int, ...], **how: Any) -> Decoded:
        return super()._completed(prompt, goes_on=True)

    def holds(self) -> Held:
        return self._asked("holds")

    def update(self, way: str) -> tuple[int, float]:
        through = "files" if way == SLEEP else way
        how = {"way": through, "folder": str(self._new), "bucket_bytes": self._bucket_bytes}
        return self._asked(SLEEP if way == SLEEP else "update", how)

    def empty_cache(self) -> None:
        self._asked("empty")

    def ignores(self, way: str) -> bool:
        return way == SLEEP and self._engine.device == "cpu"

    def _asked(self, what: str, update: dict[str, object] | None = None) -> Any:
        from detcheck.engines.vllm.messages import WeightsRequest

        return self._engine.weights(WeightsRequest(what, update or {}))
