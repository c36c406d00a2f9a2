"""One prompt's last logits, alone and in batches of every size: does a row depend on the co-batched requests, or on how it was fed?

A completion shows a difference only where it flips a token; logits show every bit. The same prompt is also fed as a shorter
prefill and its last tokens one by one (conditions `decode-N`), as an engine does that generates.
"""

from __future__ import annotations

import random
import time

from detcheck.engines.transformers.logits import last_logits
from detcheck.errors import OutOfMemoryError, UsageError
from detcheck.outcomes import row_outcome
from detcheck.probes.batch.options import DECODED, check
from detcheck.probes.completions import session as completions
from detcheck.records import Condition, Observation, Outcome, Schedule, Step
from detcheck.schedules.batches import RAGGED, THRESHOLDS, compose
from detcheck.schedules.batches import conditions as plans

SAMPLES = 3  # rows of a batch that are the prompt: at both ends and in between
DECODE_SIZES = (1, 2, 8)
ROWS = 64  # the largest batch of the default schedule: a forward pass of 257 prompts takes minutes on a CPU


class Batch(completions.Completions):
    """The probe, opened. Prompts and batches are made as `completions` makes them; what is observed of them are logits."""

    check = staticmethod(check)

    def _plan(self, lengths: dict[str, int]) -> Schedule:
        spec, longest = self._spec, max(lengths.values())
        room = min(self._engine.context - 1, 2 * longest)
        most = self._engine.max_rows(room)
        asked = spec.batch_sizes
        if asked and max(asked) > most:
            raise UsageError(f"--batch-sizes: memory is estimated to hold {most} rows; got {max(asked)}. Ask for less")
        sizes = asked or tuple(size for size in THRESHOLDS if size <= min(most, ROWS))
        not_tried = [
            f"batch-{size}: "
            + (f"memory is estimated to hold {most} rows" if size > most else "ask with --batch-sizes")
            for size in (() if asked else THRESHOLDS)
            if size not in sizes
        ]
        ragged = sizes if asked else RAGGED
        steps: list[Step] = []
        for name, length in lengths.items():
            batches: list[tuple[str, tuple[int, ...]]] = []
            for plan in plans((1, *sizes), ragged if room > length else (), spec.trials):
                plan.samples = min(SAMPLES, plan.room)
                batches.append((plan.name, compose(plan, length, room, random.Random(f"{spec.seed}/{plan.name}"))))
            if length > DECODED:
                named = {"alone" if size == 1 else f"batch-{size}": size for size in DECODE_SIZES}
                decode = [(f"decode-{named[name]}", rows) for name, rows in batches if name in named]
                batches += decode
            else:
                not_tried.append(
                    f"decode: a prompt of {length} tokens is too short to feed {DECODED} of them one by one"
                )
            for condition, rows in batches:
                steps += [Step(len(steps) + trial, name, condition, trial, rows) for trial in range(spec.trials)]
        return Schedule(tuple(steps), tuple(dict.fromkeys(not_tried)), most)

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Form the step's batch, run it once, and record the logits of every sample in it."""
        rows, composition = self._batch(step)
        case, _ = self.subject.cases[step.case]
        decoding = step.condition.startswith("decode")
        slots = [slot for slot, length in enumerate(step.rows) if length == 0]
        started = time.perf_counter()
        made, seen, why = [], (), ""
        calls: list[tuple[str, int]] = []
        try:
            with self._engine.running(case.kernels) as calls:
                bits, dtype, seen = last_logits(
                    self._engine, [row.prompt for row in rows], slots, DECODED if decoding else 0
                )
            made = [row_outcome(row, dtype) for row in bits]
        except OutOfMemoryError as error:
            why = str(error)
        wall_s = time.perf_counter() - started
        threads, observations = self.subject.environment.threads, []
        for sample, slot in enumerate(slots):
            condition = Condition(step.condition, None, None, threads=threads)
            if seen == (len(rows),):
                fed = "chunk" if decoding else ""
                condition = Condition(step.condition, len(rows), slot, composition, threads, fed)
            name = made[sample].id if made else None
            place = case, condition, step.trial, step.index, sample
            observations.append(
                Observation(*place, name, seen, wall_s=wall_s, missing=why, calls=() if sample else tuple(calls))
            )
        return observations, list({o.id: o for o in made}.values())

    def _filler_seed(self, step: Step) -> str:
        """The same fillers however many there are."""
        return f"{self._spec.seed}/batch"


open_session = Batch
