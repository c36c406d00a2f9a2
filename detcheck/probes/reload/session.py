"""Weights updated in place in an engine that runs: does it give what a fresh load of them gives, bit for bit, and is nothing left of the old?

An engine with the new weights is asked first (`fresh`), and says what it holds. Then, for each way of updating, one that has the old weights
is asked (`old`), so that caches and graphs are made of them; its weights are updated (`update`); and it is asked again (`updated`). Where there
is a prefix cache, it is asked once more after that was emptied (`emptied`). A name like `updated-2` is of the second time that a prompt is asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace

from detcheck.errors import FailedError, OutOfMemoryError, UsageError
from detcheck.harness import engines
from detcheck.models.held import Held
from detcheck.outcomes import digest_outcome
from detcheck.probes.reload.options import check
from detcheck.probes.reload.stack import Stack, Updatable
from detcheck.probes.reload.tensors import SHOWN, compared
from detcheck.records import Case, Condition, Observation, Outcome, Prompt, Schedule, Step
from detcheck.spec import Spec
from detcheck.verdict import Role

FRESH, OLD, UPDATE, UPDATED, EMPTIED = "fresh", "old", "update", "updated", "emptied"
STAGES = (OLD, UPDATE, UPDATED, EMPTIED)  # of one engine, in this order


def stack(spec: Spec, resumed: bool) -> Stack:
    """Servers where a URL is given. Raises UsageError, FailedError."""
    if engines.chosen(spec) == "server":
        if resumed:
            raise UsageError(
                "--resume: the server may have the new weights already, and it is asked with the old ones first. Start it with the old ones, and a new run"
            )
        from detcheck.probes.reload.served import ServedStack

        return ServedStack(spec)
    from detcheck.probes.reload.local import LocalStack

    return LocalStack(spec)


def schedule(ways: Sequence[str], asked: Sequence[Prompt], trials: int, cache: bool) -> Schedule:
    """A case each way. All that is fresh comes first, as that engine is ended before the next one is brought up."""
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
        for stage in STAGES if cache else STAGES[:-1]:
            add(stage, case)
    return Schedule(tuple(steps))


class Reload:
    """The probe, opened."""

    def __init__(self, spec: Spec, planned: Schedule | None = None, serving: Stack | None = None) -> None:
        """`planned`: the schedule of a run that is resumed; `serving`: what is open already.

        Raises UsageError, FailedError where the new weights cannot be loaded.
        """
        check(spec)
        self._spec = spec
        self._stack = serving or stack(spec, planned is not None)
        opened, ways = self._stack.subject, spec.options.update
        cases = [(Case(spec.probe, opened.name, spec.kernels, opened.dtype, way), Role.GATES) for way in ways]
        steps = planned or schedule(ways, opened.inputs, spec.trials, self._stack.cache)
        self.subject = replace(opened, schedule=steps, cases=tuple(cases))
        self._up: Updatable | None = None
        self._at: tuple[int, str] | None = None  # (case, stage) that the engine which is up has come to
        self._fresh_case: int | None = None  # whose fresh completions it gives
        self._fresh_held: tuple[Held, str] | None = None
        self._warm = 0  # completions before the update
        self._lost = ""  # why the engine that is up answers no more

    def close(self) -> None:
        self._stack.close()

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Bring an engine to where the step is, and ask it. What does not come is missing, with the reason.

        Raises FailedError where there is nothing to compare with: the new weights do not come up, or give nothing.
        """
        case, _ = self.subject.cases[step.case]
        stage, started = step.condition.partition("-")[0], time.perf_counter()
        found, why, metrics, cached = None, "", (), 0
        if stage == FRESH:
            found, cached = self._fresh(step.case).complete(step.input)
        else:
            try:
                self._reach(step.case, stage)
                if stage == UPDATE:
                    found, metrics = self._update(step.case)
                else:
                    found, cached = self._up.complete(step.input)
            except (FailedError, OutOfMemoryError) as error:
                why = self._lost = str(error)
        condition = Condition(
            step.condition, 1, 0, step.input, self.subject.environment.threads, "cache" if cached else ""
        )
        wall_s = time.perf_counter() - started
        place = case, condition, step.trial, step.index, 0
        seen = Observation(*place, found and found.id, (1,), wall_s=wall_s, missing=why, metrics=metrics)
        return [seen], [found] if found else []

    def _fresh(self, case: int) -> Updatable:
        """With an empty prefix cache at the beginning of each case."""
        if self._up is None or self._at is not None:
            self._up, self._at = None, None
            self._up = self._stack.engine(new=True)
        elif self._fresh_case not in (None, case):
            self._up.empty_cache()
        self._fresh_case = case
        return self._up

    def _reach(self, case: int, stage: str) -> None:
        """An engine that has come as far as that: the one that is up, or another one. A run that is resumed begins again with the old weights."""
        if self._at is None or self._at[0] != case or STAGES.index(self._at[1]) > STAGES.index(stage):
            if self._fresh_held is None:
                self._fresh_held = held_by(self._fresh(case))
            self._up = None
            self._up = self._stack.engine(new=False)
            self._at, self._lost, self._warm = (case, OLD), "", 0
        if self._lost:
            raise FailedError(self._lost)
        if stage == OLD:
            self._warm += 1
            return
        while self._warm < self._spec.trials * len(self.subject.inputs):  # of a run that was resumed
            for prompt in self.subject.inputs:
                self._up.complete(prompt.name)
                self._warm += 1
        if stage != UPDATE and self._at[1] == OLD:
            self._update(case)
        if stage == EMPTIED and self._at[1] != EMPTIED:
            self._up.empty_cache()
            self._at = case, EMPTIED

    def _update(self, case: int) -> tuple[Outcome, tuple[tuple[str, float], ...]]:
        """What the update was and left, as an outcome; and its bytes and seconds."""
        way = self.subject.cases[case][0].input
        before, *silent = held_by(self._up)
        known = {"cache": self._stack.cache, "ignored": self._up.ignores(way)}
        moved, took, why = 0, 0.0, ""
        try:
            moved, took = self._up.update(way)
            if not self._spec.options.keep_cache:
                self._up.empty_cache()
        except Exception as error:  # noqa: BLE001  an engine may raise anything: what it serves then is asked
            why = str(error) or type(error).__name__
        self._at = case, UPDATED
        after, then = held_by(self._up)
        fresh, first = self._fresh_held
        known |= {"alike": self._stack.alike[:SHOWN], "alike_count": len(self._stack.alike)}
        known["silent"] = "; ".join(dict.fromkeys(one for one in (first, *silent, then) if one))
        made = compared(before, after, fresh, failed=why, **known)
        text = json.dumps(made.to_json(), sort_keys=True)
        metrics = () if why else (("bytes", float(moved)), ("seconds", took))
        return replace(digest_outcome(text.encode()), text=text), metrics


def held_by(engine: Updatable) -> tuple[Held, str]:
    """(what it holds, why it does not say)"""
    try:
        return engine.holds(), ""
    except Exception as error:  # noqa: BLE001  an engine may raise anything: what it gives is judged all the same
        return {}, str(error) or type(error).__name__


open_session = Reload
