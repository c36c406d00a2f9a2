"""What a model gives for one prompt, alone and in batches of every size: does a row depend on the co-batched requests, or on how it was fed?

A completion shows a difference only where it flips a token; logits, embeddings and scores show every bit. Of a model that generates, the logits
at every position of the prompt count: those behind its last token as generation asks for them, those before as a scorer does. The same
prompt is also fed as a shorter prefill and its last tokens one by one (conditions `decode-N`), as an engine does then.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace

from detcheck.condition_name import kind_of, named
from detcheck.engine import Engine
from detcheck.engines.transformers.given import given
from detcheck.engines.transformers.gradients import Gradients, gradients, lone_gradients
from detcheck.engines.transformers.logits import last_logits
from detcheck.engines.transformers.positions import Lone, earlier_logits, gives_all, lone_logits
from detcheck.errors import OutOfMemoryError, UsageError
from detcheck.harness import prompts
from detcheck.harness.engines import open_engine
from detcheck.harness.model import OpenModel
from detcheck.hashes import content_hash
from detcheck.models.task import Task
from detcheck.outcomes import Earlier, row_outcome
from detcheck.probes.batch.options import DECODED, check, fillers
from detcheck.records import Condition, NotTried, Observation, Outcome, Schedule, Step
from detcheck.schedules.batches import RAGGED, THRESHOLDS, compose, first_again_last
from detcheck.schedules.batches import conditions as plans
from detcheck.schedules.widths import swept
from detcheck.spec import Spec

SAMPLES = 3  # rows of a batch that are the prompt: at both ends and in between
DECODE_SIZES = (1, 2, 8)
MIXED_SIZES = (2, 8, 32)  # asked again with other tokens in the neighbours: does what they hold reach the row?
BEFORE = "positions before the last"
ROWS_BACKWARD = 16  # with a backward pass for each sample
ROWS = 64  # the largest batch of the default schedule: a forward pass of 257 prompts takes minutes on a CPU


class Batch:
    """The probe, opened: a model, its prompts, and a schedule. `observe` runs one step of it."""

    def __init__(self, spec: Spec, engine: Engine | None = None, planned: Schedule | None = None) -> None:
        """`planned`: the schedule of a run that is resumed. Raises UsageError before the weights are loaded, FailedError if they cannot be."""
        check(spec)
        questions = prompts.asked(spec)
        self._model = OpenModel(spec, engine or open_engine(spec), spec.options.max_tokens)
        self._engine = self._model.engine
        if spec.options.backward and not self._engine.causal:
            raise UsageError(f"--backward: {self._engine.name} is no causal language model. Leave it out")
        self._lone: tuple[int, Lone | Gradients] | None = None  # of the case that is being observed
        self.subject = self._model.open(questions, self._plan, planned)
        if spec.options.backward:
            environment = self.subject.environment
            flags = {
                **environment.flags,
                "gradients of": "minus the sum of the log-probabilities of the prompt's tokens",
            }
            self.subject = replace(self.subject, environment=replace(environment, flags=flags))

    def close(self) -> None:
        self._engine.close()

    def _plan(self, lengths: dict[str, int]) -> Schedule:
        spec, longest = self._model.spec, max(lengths.values())
        if longest >= self._engine.context:  # known in full only with the weights
            raise UsageError(
                f"a prompt has {longest} tokens, and {self._engine.name} holds {self._engine.context - 1}. Shorten it"
            )
        if spec.options.backward and min(lengths.values()) < 2:
            raise UsageError("--backward: a prompt of one token has no loss. Give it two or more")
        room = min(self._engine.context - 1, 2 * longest)
        backward = spec.options.backward
        most = self._model.most_rows(room, logits=room, backward=True) if backward else self._model.most_rows(room)
        asked = spec.batch_sizes
        sizes = asked or tuple(n for n in THRESHOLDS if n <= min(most, ROWS_BACKWARD if backward else ROWS))
        not_tried = [
            NotTried(
                named("batch", size),
                f"memory is estimated to hold {most} rows" if size > most else "ask with --batch-sizes",
            )
            for size in (() if asked else THRESHOLDS)
            if size not in sizes
        ]
        missing = [] if backward else self._missing_positions(max(sizes, default=1), room)
        not_tried += missing
        ragged = sizes if asked else RAGGED
        steps: list[Step] = []
        for name, length in lengths.items():
            batches: list[tuple[str, tuple[int, ...]]] = []
            for plan in plans((1, *sizes), ragged if room > length else (), spec.trials):
                plan.samples = min(SAMPLES, plan.room)
                batches.append((plan.name, compose(plan, length, room, random.Random(f"{spec.seed}/{plan.name}"))))
            ragged_widths = [max(rows) for condition, rows in batches if kind_of(condition) == "ragged"]
            widths = swept(length, ragged_widths, self._engine.context - 1)
            padded = {named("padded", width): width - length for width in widths}
            batches += [(condition, (0,)) for condition in padded]
            formed = dict(batches)
            batches += [
                (named("mixed", size), formed[same]) for size in MIXED_SIZES if (same := named("batch", size)) in formed
            ]
            if backward:
                not_tried.append(NotTried("decode", "a backward pass takes a prompt in one piece"))
            elif not self._engine.causal:
                who = "an encoder" if self._engine.task is Task.GENERATE else f"--task {self._engine.task}"
                not_tried.append(NotTried("decode", f"{who} takes a prompt in one piece"))
            elif length > DECODED:
                sizes_of = {"alone" if size == 1 else named("batch", size): size for size in DECODE_SIZES}
                decode = [(named("decode", sizes_of[name]), rows) for name, rows in batches if name in sizes_of]
                batches += decode
            else:
                not_tried.append(
                    NotTried("decode", f"a prompt of {length} tokens is too short to feed {DECODED} of them one by one")
                )
            for condition, rows in batches:
                every = self._engine.causal and length > 1 and not missing and not backward
                steps += [
                    Step(
                        len(steps) + t, name, condition, t, rows, padding=padded.get(condition, 0), every_position=every
                    )
                    for t in range(spec.trials)
                ]
        return first_again_last(steps, spec.fail_fast, not_tried, most)

    def _missing_positions(self, rows: int, room: int) -> list[NotTried]:
        """Why the logits before a prompt's last position are not observed; [] where they are, in every condition."""
        if not self._engine.causal:
            return []
        most = self._engine.max_rows(room, logits=room)
        if most < max(rows, 2):  # at least one row is estimated to fit, whether or not it does
            why = f"memory is estimated to hold the logits of {most} whole rows; ask for fewer with --batch-sizes"
            return [NotTried(BEFORE, why)]
        return (
            [] if gives_all(self._engine) else [NotTried(BEFORE, "the model gives the logits of its last token alone")]
        )

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Form the step's batch, run it once, and record what came of every sample in it."""
        rows, composition = self._model.batch(step, fillers(step.condition))
        case, _ = self.subject.cases[step.case]
        decoding = kind_of(step.condition) == "decode"
        slots = [slot for slot, length in enumerate(step.rows) if length == 0]
        started = time.perf_counter()
        made, seen, why = [], (), ""
        decoded = DECODED if decoding else 0
        calls: list[tuple[str, int]] = []
        earlier: list[Earlier | None] = [None] * len(slots)
        try:
            asked, backward = [row.prompt for row in rows], self._model.spec.options.backward
            with self._engine.running(case.kernels) as calls:
                lone, first = self._alone(step) if step.every_position or backward else (None, False)
                first &= len(rows) == 1 and not decoded and not step.padding
                if backward:
                    found, seen = ([lone], (1,)) if first else gradients(self._engine, asked, slots, lone, step.padding)
                    bits, dtype = [one.first_input for one in found], found[0].dtype
                    earlier, lone = [one.result() for one in found], None
                else:
                    bits, dtype, seen = (
                        last_logits(self._engine, asked, slots, decoded, step.padding)
                        if self._engine.causal
                        else given(self._engine, asked, slots, step.padding)
                    )
                if lone and first:  # what came first of all is a sample: it may be the one that differs
                    earlier = [lone.result()]
                elif lone:
                    earlier, also = earlier_logits(self._engine, asked, slots, lone, decoded, step.padding)
                    seen = tuple(sorted({*seen, *also}))
            made = [row_outcome(row, dtype, before) for row, before in zip(bits, earlier, strict=True)]
        except OutOfMemoryError as error:
            why = str(error)
        wall_s = time.perf_counter() - started
        threads, observations = self.subject.environment.threads, []
        for sample, slot in enumerate(slots):
            condition = Condition(step.condition, None, None, threads=threads)
            if seen == (len(rows),):
                fed = "chunk" if decoding else "padding" if step.padding else ""
                known = content_hash(f"{composition} padding {step.padding}".encode()) if step.padding else composition
                condition = Condition(step.condition, len(rows), slot, known, threads, fed)
            name = made[sample].id if made else None
            place = case, condition, step.trial, step.index, sample
            observations.append(
                Observation(*place, name, seen, wall_s=wall_s, missing=why, calls=() if sample else tuple(calls))
            )
        return observations, list({o.id: o for o in made}.values())

    def _alone(self, step: Step) -> tuple[Lone | Gradients, bool]:
        """(what the case's prompt gives alone, whether it was computed now): once before its first step, and again where a run is resumed."""
        now = not self._lone or self._lone[0] != step.case
        if now:
            of = lone_gradients if self._model.spec.options.backward else lone_logits
            self._lone = step.case, of(self._engine, self._model.prompts[step.input].token_ids)
        return self._lone[1], now


open_session = Batch
