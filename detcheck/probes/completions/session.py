"""N temperature-0 completions of each prompt, in batches of every kind: how many distinct, and where do they fork?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from detcheck.engine import Completion, Decoded, Engine, Row
from detcheck.environment import observe_environment
from detcheck.errors import OutOfMemoryError, UsageError
from detcheck.harness.arms import cases, check_kernels, in_arms, kernel_flags
from detcheck.harness.engines import open_engine
from detcheck.harness.prompts import Question
from detcheck.hashes import content_hash
from detcheck.outcomes import outcome
from detcheck.probes.completions.options import Options, asked_questions, check
from detcheck.records import Condition, Observation, Outcome, Prompt, Schedule, Step, Subject
from detcheck.schedules import arrivals as traffic
from detcheck.schedules.batches import schedule
from detcheck.spec import Spec

if TYPE_CHECKING:
    from detcheck.probes.completions.server import Served


class Completions:
    """The probe, opened: a model, prompts as tokens, and a schedule. `observe` runs one step of it."""

    check = staticmethod(check)

    def __init__(self, spec: Spec, engine: Engine | None = None, planned: Schedule | None = None) -> None:
        """`planned`: the schedule of a run that is resumed; else one is made.

        Raises UsageError before the weights are loaded, FailedError if they cannot be.
        """
        self.check(spec)
        own: Options = spec.options
        self._spec, self._own = spec, own
        questions = asked_questions(spec)
        self._engine = engine = engine or open_engine(spec)
        try:
            self._open(questions, planned)
        except BaseException:
            engine.close()
            raise

    def _open(self, questions: list[Question], planned: Schedule | None) -> None:
        spec, engine = self._spec, self._engine
        prompts = tuple(self._tokenize(index, question) for index, question in enumerate(questions))
        engine.load(self._longest(max(len(p.token_ids) for p in prompts)))
        if not engine.schedules_itself:
            check_kernels(spec.kernels, engine.device)
        judged = cases(spec.kernels, spec.probe, engine.name, engine.dtype, prompts)
        steps = planned or in_arms(self._plan({p.name: len(p.token_ids) for p in prompts}), judged)
        flags = {**engine.flags, **kernel_flags(spec.kernels)}
        environment = observe_environment(engine.device, flags, engine.threads)
        self.subject = Subject(engine.name, engine.dtype, engine.digests, prompts, steps, environment, judged)
        self._prompts = {p.name: p for p in prompts}
        self._formed: tuple[object, tuple[list[Row], str]] | None = None

    def close(self) -> None:
        self._engine.close()

    def _longest(self, prompt: int) -> int:
        """Tokens of the longest row that will be asked for."""
        return min(self._engine.context, max(2 * prompt, traffic.LONGEST) + self._own.max_tokens)

    def _plan(self, lengths: dict[str, int]) -> Schedule:
        """The schedule of one arm."""
        spec, own, engine = self._spec, self._own, self._engine
        longest = max(lengths.values())
        if engine.schedules_itself:
            room = self._longest(longest) - own.max_tokens
            most = engine.max_rows(longest + own.max_tokens)
            limits = traffic.Limits(most, engine.token_budget, engine.cache_block, room)
            asked = own.samples, own.max_tokens, spec.trials, own.conditions, spec.batch_sizes, spec.seed
            return traffic.schedule(lengths, *asked, limits)
        room = min(engine.context - own.max_tokens, 2 * longest)
        most = engine.max_rows(room + own.max_tokens)
        return schedule(lengths, own.samples, spec.trials, spec.batch_sizes, own.conditions, spec.seed, most, room)

    def _tokenize(self, index: int, question: Question) -> Prompt:
        where = f"prompt {index} ({question.shown[:40]!a})"
        if question.messages:
            ids = self._engine.encode_chat(question.messages)
        elif self._own.chat:
            ids = self._engine.encode_chat([{"role": "user", "content": question.text}])
        else:
            ids = self._engine.encode(question.text)
        if not ids:
            raise UsageError(f"{where} has no tokens. Give it a text")
        needed = len(ids) + self._own.max_tokens
        if needed > self._engine.context:
            raise UsageError(
                f"{where} has {len(ids)} tokens; with --max-tokens {self._own.max_tokens} that is {needed}, and {self._engine.name} "
                f"holds {self._engine.context}. Shorten it, or ask for fewer tokens"
            )
        return Prompt(f"{index}:{content_hash(np.asarray(ids, '<i8').tobytes())[:8]}", question.shown, tuple(ids))

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Form the step's batch, run it, and record every sample in it. A sample that did not come is recorded as missing."""
        rows, composition = self._batch(step)
        case, _ = self.subject.cases[step.case]
        started = time.perf_counter()
        decoded, calls, why = Decoded({}, ()), [], "the engine returned no completion"
        way = {"token_budget": step.traffic.token_budget, "cached": step.traffic.cached} if step.traffic else {}
        try:
            with self._engine.running(case.kernels) as calls:
                decoded = self._engine.complete(rows, self._own.max_tokens, self._own.ignore_eos, **way)
        except OutOfMemoryError as error:
            why = str(error)
        wall_s = time.perf_counter() - started
        observations, outcomes = [], {}
        for sample, slot in enumerate(slot for slot, length in enumerate(step.rows) if length == 0):
            found = self._outcome(decoded.completions[slot]) if slot in decoded.completions else None
            if found:
                outcomes[found.id] = found
            condition, seen = self._condition(step, slot, composition, decoded)
            first = {} if sample else {"calls": tuple(calls), "steps": decoded.steps}
            observations.append(
                Observation(
                    case,
                    condition,
                    step.trial,
                    step.index,
                    sample,
                    found.id if found else None,
                    wall_s=wall_s,
                    missing="" if found else decoded.missing.get(slot, why),
                    **seen,
                    **first,
                )
            )
        return observations, list(outcomes.values())

    def _condition(
        self, step: Step, slot: int, composition: str, decoded: Decoded
    ) -> tuple[Condition, dict[str, object]]:
        """The condition that a sample was really under, and what the observation says of it."""
        size, threads = len(step.rows), self.subject.environment.threads
        unknown = Condition(step.condition, None, None, threads=threads)
        if step.traffic is None:
            known = Condition(step.condition, size, slot, composition, threads)
            # Not formed as asked, or not seen: which batch this was is not known.
            return known if decoded.batch_sizes == (size,) else unknown, {"batch_sizes": decoded.batch_sizes}
        ride = decoded.rides.get(slot)
        if ride is None or not decoded.steps:
            return unknown, {}
        most = max(requests for requests, _ in decoded.steps)
        known = Condition(step.condition, most, slot, composition, threads, traffic.fed(step.condition), ride.trace)
        as_asked = traffic.came_about(step.condition, size, slot, decoded)
        return known, {"batch_sizes": ride.batch_sizes, "as_asked": as_asked, "preemptions": ride.preemptions}

    def _outcome(self, completion: Completion) -> Outcome:
        return outcome(
            np.asarray(completion.tokens, np.int64),
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            margins=completion.margins,
            runners_up=np.asarray(completion.runners_up, np.int64),
            decode=self._engine.decode,
        )

    def _batch(self, step: Step) -> tuple[list[Row], str]:
        """The rows of a batch and their content hash. Fillers are made of ordinary tokens, seeded by condition and slot.

        The last one is kept, since repeats of a condition follow each other.
        """
        key = step.condition, step.input, step.rows, step.traffic
        if self._formed and self._formed[0] == key:
            return self._formed[1]
        ordinary, most = self._engine.ordinary_tokens(), self._own.max_tokens
        arrivals = step.traffic.arrivals if step.traffic else (0,) * len(step.rows)
        new_tokens = step.traffic.new_tokens if step.traffic else (0,) * len(step.rows)
        rows = []
        for slot, length in enumerate(step.rows):
            if length == 0:
                rows.append(Row(self._prompts[step.input].token_ids, None, arrivals[slot]))
            else:
                made = self._made_up(ordinary, f"{self._filler_seed(step)}/{slot}", length + most)
                rows.append(Row(tuple(made[:length]), tuple(made[length:][: new_tokens[slot] or most]), arrivals[slot]))
        parts = [np.asarray(row.prompt + (row.continuation or ()), "<i8").tobytes() for row in rows]
        parts += [np.asarray(arrivals, "<i8").tobytes()] if any(arrivals) else []
        self._formed = key, (rows, content_hash(*parts)[:12])
        return self._formed[1]

    def _filler_seed(self, step: Step) -> str:
        return f"{self._spec.seed}/{traffic.company(step.condition) if step.traffic else step.condition}"

    @staticmethod
    def _made_up(ordinary: np.ndarray, name: str, count: int) -> list[int]:
        key = int(content_hash(name.encode())[:16], 16)
        picks = np.random.Generator(np.random.Philox(key=key)).integers(0, len(ordinary), count)
        return ordinary[picks].tolist()


def opened(spec: Spec, planned: Schedule | None = None) -> Completions | Served:
    """The probe of a model that runs here, or of servers. Raises UsageError, FailedError."""
    if not spec.options.base_url:
        return Completions(spec, planned=planned)
    from detcheck.probes.completions.server import Served

    check(spec)
    return Served(spec, asked_questions(spec), planned)


open_session = opened
