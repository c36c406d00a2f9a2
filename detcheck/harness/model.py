"""A model that is open, with its prompts as tokens and the batches around them: what every probe of a model holds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from detcheck import sampling, switch
from detcheck.engine import Completion, Engine, EngineType, Question, Row
from detcheck.environment import observe_environment
from detcheck.errors import UsageError
from detcheck.harness import engines, prompts
from detcheck.harness.arms import cases, in_arms, kernel_flags
from detcheck.harness.turns import answered, filled, no_room
from detcheck.hashes import content_hash
from detcheck.records import Prompt, Schedule, Step, Subject
from detcheck.schedules import adapters, arrivals, batches
from detcheck.spec import Spec

Plan = Callable[[dict[str, int]], Schedule]
"""tokens of each prompt, by its name -> the schedule of one arm"""


def check(spec: Spec) -> EngineType:
    """What can be known before anything is loaded. Raises UsageError."""
    engine = engines.check(spec)
    prompts.check(spec)
    return engine


class OpenModel:
    """An engine, and the prompts that it is asked."""

    def __init__(self, spec: Spec, engine: Engine, max_tokens: int) -> None:
        """`max_tokens`: what a sample makes beyond its prompt, and what fillers are given."""
        self.spec, self.engine, self.max_tokens = spec, engine, max_tokens
        self.prompts: dict[str, Prompt] = {}
        self.grows = 0  # tokens that a conversation's prompt may grow by until its last turn, at most
        self.loaded = 0
        """tokens of the longest row that the engine was opened for"""
        own = spec.options
        others = len(getattr(own, "other_adapter", ()))
        self._others = others + bool(
            others and own.adapter
        )  # what neighbours can have, the model without an adapter among them
        self._formed: tuple[object, tuple[list[Row], str]] | None = None

    def open(
        self, questions: Sequence[Question], plan: Plan, planned: Schedule | None, known: Prompt | None = None
    ) -> Subject:
        """Bring the model up. `planned`: the schedule of a run that is resumed; `known`: a prompt whose tokens are given.

        Raises UsageError before the weights are loaded, FailedError if they cannot be. Whatever is raised, the engine is closed.
        """
        try:
            return self._open(questions, plan, planned, known)
        except BaseException:
            self.engine.close()
            raise

    def _open(
        self, questions: Sequence[Question], plan: Plan, planned: Schedule | None, known: Prompt | None
    ) -> Subject:
        spec, engine = self.spec, self.engine
        asked = (
            (known,) if known else tuple(self._tokenize(index, question) for index, question in enumerate(questions))
        )
        asked = sampling.with_seeds(asked, spec)
        self.grows = max(grown(p, self.max_tokens) for p in asked)
        self.loaded = self.longest(max(len(p.token_ids) for p in asked))
        engine.load(self.loaded)
        if not engine.schedules_itself:
            switch.check(spec.kernels, engine.device)
        judged = cases(spec.kernels, spec.probe, engine.name, engine.dtype, asked)
        steps = planned or in_arms(plan({p.name: len(p.token_ids) for p in asked}), judged)
        steps = planned or in_turns(steps, asked)
        flags = {**engine.flags, **kernel_flags(spec.kernels)}
        environment = observe_environment(engine.device, flags, engine.threads)
        self.prompts = {p.name: p for p in asked}
        return Subject(engine.name, engine.dtype, engine.digests, asked, steps, environment, judged)

    def longest(self, prompt: int) -> int:
        """Tokens of the longest row that will be asked for."""
        return min(self.engine.context, max(2 * prompt, arrivals.LONGEST) + self.max_tokens + self.grows)

    def most_rows(self, tokens: int, **how: object) -> int:
        """Rows of that length that memory is estimated to hold; `how`: as the engine's own. Raises UsageError where --batch-sizes asks for more."""
        most, asked = self.engine.max_rows(tokens, **how), self.spec.batch_sizes
        if asked and max(asked) > most:
            raise UsageError(f"--batch-sizes: memory is estimated to hold {most} rows; got {max(asked)}. Ask for less")
        return most

    def _tokenize(self, index: int, question: Question) -> Prompt:
        where = f"prompt {index} ({question.shown[:40]!a})"
        if question.messages:
            ids = self.engine.encode_chat(question.messages)
        elif self.spec.options.chat:
            ids = self.engine.encode_chat([{"role": "user", "content": question.text}])
        else:
            ids = self.engine.encode(question.text)
        if not ids:
            raise UsageError(f"{where} has no tokens. Give it a text")
        needed = len(ids) + self.max_tokens
        if needed > self.engine.context:
            if question.shorter:
                return self._tokenize(index, Question(question.shorter))
            raise UsageError(
                f"{where} has {len(ids)} tokens; with --max-tokens {self.max_tokens} that is {needed}, and {self.engine.name} "
                f"holds {self.engine.context}. Shorten it, or ask for fewer tokens"
            )
        later = self.engine.encode_later(question.messages, question.later) if question.later else ()
        least = len(ids) + sum(map(len, later))  # with empty answers
        if why := no_room(least, self.max_tokens, self.engine.name, self.engine.context):
            raise UsageError(f"{where}: in its turn {1 + len(later)} {why}")
        parts = [np.asarray(part, "<i8").tobytes() for part in (ids, *later)]
        return Prompt(f"{index}:{content_hash(*parts)[:8]}", question.shown, tuple(ids), later=later)

    def batch(self, step: Step, fillers: str = "") -> tuple[list[Row], str]:
        """The rows of a batch and their content hash. Fillers are made of ordinary tokens, seeded by `fillers` ("": the condition)
        and slot.

        The last one is kept, since repeats of a condition follow each other.
        """
        key = step.condition, step.input, step.rows, step.traffic
        if self._formed and self._formed[0] == key:
            return self._formed[1]
        drawn = arrivals if step.traffic else batches
        seed = fillers or drawn.neighbours(step.condition)
        others = self._others if adapters.of_this(step.condition) else 0
        ordinary, most = self.engine.ordinary_tokens(), self.max_tokens
        starts = step.traffic.arrivals if step.traffic else (0,) * len(step.rows)
        new_tokens = step.traffic.new_tokens if step.traffic else (0,) * len(step.rows)
        prompt, rows = self.prompts[step.input], []
        for slot, length in enumerate(step.rows):
            if length == 0:
                rows.append(Row(prompt.token_ids, None, starts[slot], sampling=sampling.of(self.spec, prompt.seed)))
            else:
                made = made_up(ordinary, f"{self.spec.seed}/{seed}/{slot}", length + most)
                fed = tuple(made[length:][: new_tokens[slot] or most])
                own = 1 + (slot - step.rows[:slot].count(0)) % others if others else 0
                drawn_with = sampling.beside(self.spec, prompt.seed, slot, seed)
                rows.append(Row(tuple(made[:length]), fed, starts[slot], own, drawn_with))
        parts = [np.asarray(row.prompt + (row.continuation or ()), "<i8").tobytes() for row in rows]
        parts += [np.asarray(starts, "<i8").tobytes()] if any(starts) else []
        parts += [repr([row.sampling for row in rows]).encode()] if prompt.seed is not None else []
        self._formed = key, (rows, content_hash(*parts)[:12])
        return self._formed[1]

    def after(
        self, step: Step, rows: Sequence[Row], completions: Mapping[int, Completion], tail: Sequence[int], turn: int
    ) -> list[Row]:
        """The rows of a conversation's next turn. A filler's is made up, as long as that of a sample that makes all its tokens."""
        ordinary, found = self.engine.ordinary_tokens(), []
        for slot, row in enumerate(rows):
            if row.continuation is None:
                found.append(answered(row, completions[slot], tail))
            else:
                seed = f"{self.spec.seed}/{step.condition}/{slot}/turn {turn}"
                found.append(filled(row, functools.partial(made_up, ordinary, seed), len(tail)))
        return found


def in_turns(planned: Schedule, asked: Sequence[Prompt]) -> Schedule:
    """With the number of turns that each step has."""
    turns = {p.name: p.turns for p in asked}
    return replace(planned, steps=tuple(replace(step, turns=turns[step.input]) for step in planned.steps))


def grown(prompt: Prompt, max_tokens: int) -> int:
    """Tokens that a conversation's prompt may grow by until its last turn."""
    return sum(max_tokens + len(tail) for tail in prompt.later)


def made_up(ordinary: np.ndarray, name: str, count: int) -> list[int]:
    """Tokens of a filler."""
    key = int(content_hash(name.encode())[:16], 16)
    picks = np.random.Generator(np.random.Philox(key=key)).integers(0, len(ordinary), count)
    return ordinary[picks].tolist()
