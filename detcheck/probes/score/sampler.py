"""Who scores: a model that runs here, in the batches that completions are made in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from detcheck.condition_name import kind_of, named
from detcheck.engine import Decoded, Engine, Ran, Row, Sample
from detcheck.engines.transformers.likelihood import likelihood
from detcheck.harness.engines import open_engine
from detcheck.harness.samplers import Batches, Local
from detcheck.hashes import content_hash
from detcheck.probes.batch.session import edges
from detcheck.probes.score.pairs import PairedModel
from detcheck.records import Outcome, Schedule, Step
from detcheck.schedules import batches
from detcheck.spec import Spec


def scorer(spec: Spec, engine: Engine | None = None) -> Local:
    """`engine`: one that is open. Raises UsageError or FailedError where it cannot be."""
    return ScoredBatches(spec, engine or open_engine(spec))


class Scoring(Local):
    """What both kinds of engine share."""

    def __init__(self, spec: Spec, engine: Engine) -> None:
        super().__init__(spec, engine)
        self._model = PairedModel(spec, engine, self.wanted.max_tokens)

    def run(self, step: Step) -> Ran:
        ran = super().run(step)
        found = ran.samples[0].outcome
        return replace(ran, metrics=(("loglikelihood", float(found.logprobs.sum(dtype="float64"))),)) if found else ran


class ScoredBatches(Scoring, Batches):
    """The probe forms the batch."""

    def plan(self, lengths: dict[str, int]) -> Schedule:
        longest = max(lengths.values())
        room = min(self.engine.context, 2 * longest)
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
        """Of rows alone that are padded: as in each ragged batch, and around the next multiples of 32 and 128."""
        ragged = {max(s.rows) - 1 for s in planned.steps if s.input == name and kind_of(s.condition) == "ragged"}
        return sorted(width for width in ragged | edges(length) if length < width <= self.engine.context)

    def complete(self, step: Step, rows: Sequence[Row]) -> Decoded:
        slots = [slot for slot, length in enumerate(step.rows) if length == 0]
        given = self._model.given[step.input]
        return likelihood(self.engine, [row.prompt for row in rows], slots, given, step.padding)

    def sample(
        self, step: Step, slot: int, composition: str, decoded: Decoded, found: Outcome | None, missing: str
    ) -> Sample:
        made = super().sample(step, slot, composition, decoded, found, missing)
        if not step.padding or made.condition.batch_size is None:
            return made
        known = content_hash(f"{composition} padding {step.padding}".encode())[:12]
        return replace(made, condition=replace(made.condition, composition=known, fed="padding"))
