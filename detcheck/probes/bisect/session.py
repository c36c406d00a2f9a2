"""A prompt alone and in batches: which module and which op diverges first, and is it the run or the batch?

The first call, in the order of execution, whose inputs are equal by bytes and whose output is not. Every call is also asked
again and alone on the inputs that it has in the batch, so that a second cause does not hide behind the first. In vLLM these are
the calls of modules (`vllm.py`).
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from detcheck.condition_name import kind_of, named
from detcheck.engine import Engine, Row
from detcheck.engines.transformers.compiled import compiled_part
from detcheck.errors import FailedError, OutOfMemoryError, UsageError
from detcheck.harness import prompts
from detcheck.harness.engines import open_engine
from detcheck.harness.model import OpenModel
from detcheck.outcomes import digest_outcome
from detcheck.probes.batch.options import fillers
from detcheck.probes.bisect import apply
from detcheck.probes.bisect.facts import Bisected, Followed, to_json
from detcheck.probes.bisect.from_run import LONGEST, weights_of
from detcheck.probes.bisect.options import SIZES, check
from detcheck.probes.bisect.transformers import Bisection, FormedBatch
from detcheck.probes.bisect.vllm import VllmBisection, Wave
from detcheck.records import Condition, Observation, Outcome, Prompt, Schedule, Step, Traffic
from detcheck.schedules.batches import Plan, compose, conditions
from detcheck.schedules.widths import edges
from detcheck.spec import Spec

if TYPE_CHECKING:
    import torch

REPEATS = 2  # calls of each arm of a test: more with --trials


class Bisect:
    """The probe, opened: a model and its prompts. A step is a whole bisection of one prompt."""

    def __init__(self, spec: Spec, engine: Engine | None = None, planned: Schedule | None = None) -> None:
        """`planned`: the schedule of a run that is resumed. Raises UsageError before the weights are loaded, FailedError if they cannot be."""
        check(spec)
        questions, own = prompts.asked(spec), spec.options
        engine = engine or open_engine(spec)
        if engine.schedules_itself and not own.run:
            own = replace(own, max_tokens=1 + own.decode)  # what is decoded, it generates
        self._spec, self._own, self._engine = spec, own, engine
        self._model = OpenModel(spec, engine, own.max_tokens)
        # A run's prompt is asked as it was, whatever has become of its file, and of a template that tells the date.
        known = Prompt(own.name, questions[0].shown, own.tokens) if own.tokens else None
        self.subject = self._model.open(questions, self._plan, planned, known)
        now = weights_of(engine.digests)
        if own.weights not in ("", now):
            engine.close()
            raise UsageError(
                f"the weights that {own.run} asked are not there any more: their digest was {own.weights}, and what is there now has "
                f"{now or 'none'}. Put them back, or ask with --model"
            )

    def close(self) -> None:
        self._engine.close()

    def _plan(self, lengths: dict[str, int]) -> Schedule:
        """A step a prompt. What it runs is the prompt alone and each of `_batches`."""
        most = self._model.most_rows(self._model.longest(max(lengths.values())))
        if not self._engine.schedules_itself:
            refuse_compiled(self._engine._model)
        steps = [Step(n, name, "bisect", 0, (0,)) for n, name in enumerate(lengths)]
        return Schedule(tuple(steps), (), most)

    def _batch(self, step: Step) -> list[Row]:
        """With the fillers that the run's own probe has: `batch` takes the same ones however many there are."""
        of_batch = self._own.run and self._own.max_tokens == 1 and not step.traffic
        return self._model.batch(step, fillers(step.condition) if of_batch else "")[0]

    def _batches(self, name: str) -> tuple[FormedBatch, ...]:
        prompt = self._model.prompts[name].token_ids
        if self._own.run:
            fed = self._own.fed
            formed = self._batch(Step(0, name, self._own.condition, 0, self._own.company))
            rows = [r.prompt + (fed if r.continuation is None else r.continuation[: len(fed)]) for r in formed]
            return (FormedBatch(self._own.condition, tuple(rows), self._own.company.index(0), self._own.padding),)
        made = []
        for plan, rows in self._plans(len(prompt), self._engine.context - 1):
            formed = self._batch(Step(0, name, plan.name, 0, rows))
            made.append(FormedBatch(plan.name, tuple(row.prompt for row in formed), rows.index(0)))
        return tuple(made)

    def _waves(self, name: str) -> tuple[Wave, ...]:
        """The prompt alone and its batches, for vLLM to form."""
        own, prompt = self._own, self._model.prompts[name].token_ids
        tokens = len(own.fed) + 1 if own.run else own.max_tokens
        waves = [Wave("alone", (Row(prompt),), 0, tokens)]
        if own.run:
            traffic = Traffic(own.arrivals, own.new_tokens, own.token_budget, own.cached)
            rows = self._batch(Step(0, name, own.condition, 0, own.company, traffic=traffic))
            return *waves, Wave(own.condition, tuple(rows), own.company.index(0), tokens, own.token_budget, own.cached)
        for plan, lengths in self._plans(len(prompt), self._engine.context - tokens):
            rows = self._batch(Step(0, name, plan.name, 0, lengths))
            waves.append(Wave(as_wave(plan), tuple(rows), lengths.index(0), tokens))
        return tuple(waves)

    def _plans(self, length: int, context: int) -> list[tuple[Plan, tuple[int, ...]]]:
        """Conditions and the lengths of their rows (0: the prompt)."""
        sizes = tuple(size for size in self._spec.batch_sizes or SIZES if size > 1)
        width = edges(length)[0]
        room = min(context, max(2 * length, width))
        ragged = (max(sizes),) if room > length > 1 else ()
        made = conditions(sizes, ragged, 1)
        return [
            (plan, compose(plan, length, room, random.Random(f"{self._spec.seed}/{plan.name}"), width)) for plan in made
        ]

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Trace, test, and write down what was seen."""
        case, _ = self.subject.cases[step.case]
        started = time.perf_counter()
        calls: list[tuple[str, int]] = []
        made, why = [], ""
        try:
            with self._engine.running(case.kernels) as calls:
                facts = self._facts(step)
            text = to_json(facts)
            made = [replace(digest_outcome(text.encode()), text=text)]
        except (FailedError, OutOfMemoryError) as error:
            why = str(error)
        condition = Condition(step.condition, 1, 0, threads=self.subject.environment.threads)
        found = made[0].id if made else None
        wall_s = time.perf_counter() - started
        seen = Observation(
            case, condition, 0, step.index, 0, found, (1,), wall_s=wall_s, missing=why, calls=tuple(calls)
        )
        return [seen], made

    def _facts(self, step: Step) -> Bisected:
        repeats, own = max(REPEATS, self._spec.trials), self._own
        if self._engine.schedules_itself:
            lone, *waves = self._waves(step.input)
            looked = VllmBisection(self._engine, lone, tuple(waves), self._spec.trials, repeats)
        else:
            prompt = self._model.prompts[step.input].token_ids + own.fed
            batches = self._batches(step.input)
            shortest = min(len(row) for batch in batches for row in batch.rows)
            asked = (
                self._engine,
                prompt,
                batches,
                min(own.decode, shortest - 1),
                self._spec.trials,
            )  # a prefill comes first
            looked = Bisection(*asked, repeats)
        looked.run()
        facts = looked.facts()
        followed = Followed(own.condition, len(own.fed), LONGEST) if own.run else None
        facts = replace(facts, control=looked.control(), of_run=followed)
        return replace(facts, stages=apply.stages(facts, *asked)) if own.apply else facts


def as_wave(plan: Plan) -> str:
    """What the plan's batch is called where an engine forms it from requests that are sent at once."""
    return named("wave", plan.size) if kind_of(plan.name) == "batch" else plan.name


def refuse_compiled(model: torch.nn.Module) -> None:
    """Raises FailedError for a model under torch.compile: its ops are fused, and there is nothing to name."""
    if (name := compiled_part(model)) is not None:
        raise FailedError(
            f"{name or 'the model'} is compiled by torch.compile, whose fused kernels run several ops at once: bisect the model without it"
        )


open_session = Bisect
