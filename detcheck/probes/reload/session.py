"""Weights updated in place in an engine that runs: does it give what a fresh load of them gives, bit for bit, and is nothing left of the old?

An engine with the new weights is asked first (`fresh`), and says what it holds. Then, for each way of updating, one that has the old weights
is asked (`old`), so that caches and graphs are made of them; its weights are updated (`update`); and it is asked again (`updated`). Where there
is a prefix cache, it is asked once more after that was emptied (`emptied`). A name like `updated-2` is of the second time that a prompt is asked.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detcheck.engine import Completion
from detcheck.errors import FailedError, OutOfMemoryError
from detcheck.harness import engines, prompts
from detcheck.harness.model import OpenModel
from detcheck.hashes import files_hash
from detcheck.models import perturbed
from detcheck.models.folder import resolve
from detcheck.models.held import Held
from detcheck.models.stored import files, refuse_unlike, stored
from detcheck.outcomes import digest_outcome, outcome
from detcheck.probes.reload.facts import WeightUpdate
from detcheck.probes.reload.options import check
from detcheck.probes.reload.running import Updatable, updatable
from detcheck.probes.reload.tensors import compared
from detcheck.records import Case, Condition, Observation, Outcome, Prompt, Schedule, Step
from detcheck.spec import Spec
from detcheck.verdict import Role

FRESH, OLD, UPDATE, UPDATED, EMPTIED = "fresh", "old", "update", "updated", "emptied"


def schedule(ways: Sequence[str], asked: Sequence[Prompt], trials: int, cache: bool) -> Schedule:
    """One case a way: all that is fresh first, as that engine is ended before the next one is brought up."""
    steps: list[Step] = []

    def add(stage: str, case: int) -> None:
        if stage == UPDATE:
            steps.append(Step(len(steps), "", UPDATE, 0, (0,), case))
            return
        for trial in range(trials):
            for prompt in asked:
                steps.append(Step(len(steps), prompt.name, f"{stage}-{trial + 1}", trial, (0,), case))

    for case in range(len(ways)):
        add(FRESH, case)
    for case in range(len(ways)):
        for stage in (OLD, UPDATE, UPDATED, *([EMPTIED] if cache else [])):
            add(stage, case)
    return Schedule(tuple(steps))


class Reload:
    """The probe, opened, on an engine that runs here."""

    def __init__(self, spec: Spec, planned: Schedule | None = None) -> None:
        """`planned`: the schedule of a run that is resumed. Raises UsageError, FailedError where the new weights cannot be loaded."""
        check(spec)
        self._spec, self._own = spec, spec.options
        self._made: Path | None = None
        self._fresh_held: Held | None = None
        self._at: tuple[int | None, str] | None = None  # (case, stage) that the engine which is up has come to
        self._lost = ""  # why the engine of this case answers no more
        self._warm = 0  # times that every prompt was asked of it before the update
        self._engine = None
        try:
            self._new, self._old = self._folders()
            self._engine = engines.open_engine(spec)
            self._model = OpenModel(spec, self._engine, self._own.max_tokens)
            base = self._model.open(prompts.asked(spec), lambda _: Schedule(()), None)
        except BaseException:
            self.close()
            raise
        self._up: Updatable = updatable(spec, self._engine)
        self._at = None, FRESH
        self._asked, self._cache = base.inputs, self._up.cache
        cases = tuple(
            (Case(spec.probe, base.name, spec.kernels, base.dtype, way), Role.GATES) for way in self._own.update
        )
        steps = planned or schedule(self._own.update, base.inputs, spec.trials, self._cache)
        old = {"old weights": files_hash(files(self._old, str(self._old)))}
        flags = base.environment.flags | {"old weights": self._own.old or perturbed.SAID}
        environment = replace(base.environment, flags=flags)
        digests = {**base.digests, **old}
        self.subject = replace(base, schedule=steps, cases=cases, digests=digests, environment=environment)

    def _folders(self) -> tuple[Path, Path]:
        """Those of the new weights and of the old. Raises UsageError where a file is torn, or the two are not of one model."""
        from detcheck.models import amplifier

        spec = self._spec
        new = amplifier.folder() if spec.model is None else resolve(spec.model)[0]
        tensors = stored(new, f"--model {spec.model or amplifier.NAME}")
        if self._own.old is not None:
            old = Path(self._own.old).expanduser()
            refuse_unlike(stored(old, f"--old {self._own.old}"), tensors, f"--old {self._own.old}")
            return new, old
        self._made = Path(tempfile.mkdtemp(prefix="detcheck-old-"))
        perturbed.make(new, self._made)
        return new, self._made

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Bring the engine to where the step is, and ask it. What does not come is missing, with the reason."""
        case, _ = self.subject.cases[step.case]
        stage = step.condition.partition("-")[0]
        started = time.perf_counter()
        found, why, metrics, fed = None, "", (), ""
        try:
            self._reach(step.case, stage)
            if stage == UPDATE:
                found, metrics = self._update(case.input)
            else:
                if self._lost:
                    raise FailedError(self._lost)
                found, cached = self._complete(self._prompt(step.input))
                fed = "cache" if cached else ""
                metrics = (("cached", float(cached)),) if cached else ()
        except (FailedError, OutOfMemoryError) as error:
            if stage == FRESH:
                raise
            why = self._lost = str(error)
        condition = Condition(step.condition, 1, 0, step.input, self.subject.environment.threads, fed)
        if stage == UPDATE:
            self._at = step.case, UPDATED
        seen = Observation(
            case,
            condition,
            step.trial,
            step.index,
            0,
            found and found.id,
            (1,),
            wall_s=time.perf_counter() - started,
            missing=why,
            metrics=metrics,
        )
        return [seen], [found] if found else []

    def _prompt(self, name: str) -> tuple[int, ...]:
        return next(p.token_ids for p in self._asked if p.name == name)

    def _reach(self, case: int, stage: str) -> None:
        """An engine that has come as far as that: the one that is up, or another one. A run that is resumed begins anew with its old weights."""
        if stage == FRESH:
            if self._at != (None, FRESH):
                self._open(self._spec, None, FRESH)
            return
        order = (OLD, UPDATE, UPDATED, EMPTIED)
        if self._at is None or self._at[0] != case or order.index(self._at[1]) > order.index(stage):
            if self._fresh_held is None:
                if self._at != (None, FRESH):
                    self._open(self._spec, None, FRESH)
                self._fresh_held = self._up.holds()
            self._open(replace(self._spec, model=str(self._old)), case, OLD)
        if self._lost:
            return
        if stage == OLD:
            self._warm += 1
            return
        while self._warm < self._spec.trials * len(self._asked):
            for prompt in self._asked:
                self._complete(prompt.token_ids)
                self._warm += 1
        if stage in (UPDATED, EMPTIED) and self._at[1] == OLD:  # a run that was resumed after its update
            self._update(self.subject.cases[case][0].input)
            self._at = case, UPDATED
        if stage == EMPTIED and self._at[1] != EMPTIED:
            self._up.empty_cache()
            self._at = case, EMPTIED

    def _open(self, spec: Spec, case: int | None, stage: str) -> None:
        self._engine.close()
        self._up, self._at = None, None  # its memory is wanted for the next one
        self._engine = engines.open_engine(spec)
        longest = self._model.longest(max(len(p.token_ids) for p in self._asked))
        self._engine.load(longest)
        self._up = updatable(spec, self._engine)
        self._at, self._lost, self._warm = (case, stage), "", 0

    def _update(self, way: str) -> tuple[Outcome, tuple[tuple[str, float], ...]]:
        """What the update was and left, as an outcome; and its bytes and seconds."""
        if self._lost:
            raise FailedError(self._lost)
        before = self._up.holds()
        known = {"cache": self._cache, "ignored": self._up.ignores(way)}
        moved, took, why = 0, 0.0, ""
        try:
            moved, took = self._up.update(way, self._new)
            if not self._own.keep_cache:
                self._up.empty_cache()
        except Exception as error:  # noqa: BLE001  an engine may raise anything: what it serves then is asked
            why = str(error) or type(error).__name__
        try:
            made = compared(before, self._up.holds(), self._fresh_held, failed=why, **known)
        except Exception as error:  # noqa: BLE001  it cannot even say what it holds
            made = WeightUpdate(failed=why or f"what it holds cannot be read: {error}", **known)
        text = json.dumps(made.to_json(), sort_keys=True)
        metrics = (("bytes", float(moved)), ("seconds", took)) if not why else ()
        return replace(digest_outcome(text.encode()), text=text), metrics

    def _complete(self, prompt: tuple[int, ...]) -> tuple[Outcome, int]:
        """Raises FailedError where nothing came."""
        decoded, cached = self._up.complete(prompt)
        completion: Completion | None = decoded.completions.get(0)
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
        return made, cached


def open_session(spec: Spec, planned: Schedule | None = None) -> Reload:
    """On servers where a URL is given."""
    if engines.chosen(spec) == "server":
        from detcheck.probes.reload.served import ServedReload

        return ServedReload(spec, planned)
    return Reload(spec, planned)
