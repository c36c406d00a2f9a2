"""Who scores: servers, or a model that runs here, in the batches that completions are made in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from detcheck.condition_name import kind_of, named
from detcheck.engine import Decoded, Engine, Ran, Row, Sampler
from detcheck.engines.transformers.likelihood import likelihood
from detcheck.harness import engines
from detcheck.harness.samplers import Batches, Local, Requests
from detcheck.probes.score.greedy import scored
from detcheck.probes.score.pairs import PairedModel
from detcheck.records import NotTried, Schedule, Step
from detcheck.schedules import arrivals, batches
from detcheck.schedules.widths import swept
from detcheck.spec import Spec

OVER = "a request is over with its prompt, before anybody joins or leaves"
NOT_OF_PROMPTS = {  # conditions that vLLM does not have where prompts are scored -> why
    "staggered": OVER,
    "ragged": OVER,
    "cached": "vLLM computes a prompt whole where its log-probabilities are asked for, whatever the prefix cache holds",
}


def scorer(spec: Spec, engine: Engine | None = None) -> Sampler:
    """`engine`: one that is open. Raises UsageError or FailedError where it cannot be."""
    kind = engines.kind(spec)
    if engine is None and kind.sampler:
        from detcheck.probes.score.servers import ScoringServers

        return ScoringServers(spec)
    engine = engine or kind.open(spec)
    return (ScoredRequests if engine.schedules_itself else ScoredBatches)(spec, engine)


class Scoring(Local):
    """What both kinds of engine share."""

    def __init__(self, spec: Spec, engine: Engine) -> None:
        super().__init__(spec, engine)
        self._model = PairedModel(spec, engine, self.wanted.max_tokens)

    def run(self, step: Step) -> Ran:
        return scored(super().run(step))


class ScoredBatches(Scoring, Batches):
    """The probe forms the batch."""

    def plan(self, lengths: dict[str, int]) -> Schedule:
        room = min(self.engine.context, 2 * max(lengths.values()))
        planned = batches.schedule(lengths, self.wanted, self.engine.max_rows(room, logits=room), room)
        steps = list(planned.steps)
        for name, length in lengths.items():
            for width in self._widths(planned, name, length - 1):  # the last token is not fed
                steps += [
                    Step(len(steps) + trial, name, named("padded", width), trial, (0,), padding=width - length + 1)
                    for trial in range(self.wanted.trials)
                ]
        return replace(planned, steps=tuple(steps))

    def _widths(self, planned: Schedule, name: str, length: int) -> list[int]:
        """Of rows alone that are padded: as in each ragged batch, and what is swept."""
        ragged = [max(s.rows) - 1 for s in planned.steps if s.input == name and kind_of(s.condition) == "ragged"]
        return swept(length, ragged, self.engine.context)

    def complete(self, step: Step, rows: Sequence[Row], goes_on: bool = False) -> Decoded:
        slots = [slot for slot, length in enumerate(step.rows) if length == 0]
        given = self._model.given[step.input]
        return likelihood(self.engine, [row.prompt for row in rows], slots, given, step.padding)


class ScoredRequests(Scoring, Requests):
    """The engine forms its batches, from requests that are over with their prompts."""

    def plan(self, lengths: dict[str, int]) -> Schedule:
        planned = super().plan(lengths)
        left_out = tuple(NotTried(n.what, NOT_OF_PROMPTS.get(kind_of(n.what), n.reason)) for n in planned.not_tried)
        return replace(planned, not_tried=left_out)

    def limits(self, longest: int) -> arrivals.EngineLimits:
        return replace(super().limits(longest), cache_block=0)

    def complete(self, step: Step, rows: Sequence[Row], goes_on: bool = False) -> Decoded:
        return self.engine.score(rows, self._model.given[step.input], step.traffic.token_budget)
