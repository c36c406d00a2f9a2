"""Engines that run here: the sampler makes tokens, or a file has them, and the trainer scores the same tokens."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detcheck import switch
from detcheck.condition_name import ConditionName
from detcheck.engine import Question
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.environment import observe_environment
from detcheck.errors import OutOfMemoryError, UsageError
from detcheck.harness import prompts
from detcheck.harness.arms import ARMS, kernel_flags
from detcheck.hashes import content_hash
from detcheck.models import amplifier
from detcheck.outcomes import digest_outcome, outcome
from detcheck.probes.logprobs import trainer
from detcheck.probes.logprobs.explain import explanations
from detcheck.probes.logprobs.facts import CAUSES, SAMPLER, TOKENIZER, TRAINER, WEIGHTS, WIDTHS
from detcheck.probes.logprobs.options import CONDITIONS, Options, parameter
from detcheck.probes.logprobs.places import KeptPlaces
from detcheck.probes.logprobs.sampler import TOGETHER, AskedSequence, EngineSampler, FileSampler, Made, TokenSampler
from detcheck.probes.logprobs.weights import tensor_digests
from detcheck.records import Case, Condition, NotTried, Observation, Outcome, Prompt, Schedule, Step, Subject
from detcheck.spec import Spec
from detcheck.verdict import Role

if TYPE_CHECKING:
    pass

PROMPTS = 8  # of unequal length, unless told
MOST_SPELLED = 200_000  # tokens whose text is kept one by one


class ModelSession:
    """The probe, opened, with a trainer that runs here."""

    def __init__(self, spec: Spec) -> None:
        """Raises UsageError, FailedError."""
        own: Options = spec.options
        self._spec, self._own = spec, own
        model = own.trainer_model or spec.model
        self._trainer = TransformersEngine(model, spec.dtype, spec.device, own.attn, own.trust_remote_code)
        self._engine = self._sampling_engine()
        self._closes = [one for one in (self._engine, self._trainer) if one is not None]
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _sampling_engine(self) -> object | None:
        """None: the tokens come from a file."""
        spec, own = self._spec, self._own
        if own.sampler is None or own.server:
            return None
        if own.sampler == "vllm":
            from detcheck.engines.vllm.engine import VllmEngine

            drawn = bool(dict(parameter(one) for one in own.sampling).get("temperature"))
            place = spec.model, spec.dtype, spec.device, own.trust_remote_code, own.engine_arg, spec.kernels
            return VllmEngine(*place, seeded=drawn)
        if own.trainer_model is None:
            return self._trainer
        return TransformersEngine(spec.model, spec.dtype, spec.device, own.attn, own.trust_remote_code)

    def _open(self) -> None:
        spec, own = self._spec, self._own
        self._sampler: TokenSampler
        asked, longest = self._asked()
        for engine in dict.fromkeys(one for one in (self._engine, self._trainer) if one is not None):
            engine.load(longest)
        switch.check(spec.kernels, self._trainer.device)
        self._form = trainer.LOGSUMEXP if own.sampler == "transformers" else trainer.LOG_SOFTMAX
        self._wanted = [AskedSequence(prompt, n) for prompt in asked for n in range(own.samples)]
        self._conditions, left_out = self._formable()
        self._made: dict[str, list[Made | None]] = {}
        self._places: dict[str, KeptPlaces] = defaultdict(KeptPlaces)
        who = f"{own.sampler or Path(own.file).name} and {own.trainer}"
        name, dtype = f"{self._trainer.name}: {who}", self._trainer.dtype
        arms = ARMS[spec.kernels]
        cases, steps = [], []
        for kernels, role in arms:
            first = len(cases)
            cases += [
                (Case("logprobs", name, kernels, dtype, sequence_name(one, own.samples)), role) for one in self._wanted
            ]
            cases.append((Case("logprobs", name, kernels, dtype, CAUSES), role))
            steps += self._steps(first)
        for kind in self._of_both():
            steps.append(Step(0, kind, kind, 0, (0, 0), case=len(cases)))
            cases.append((Case("logprobs", name, arms[-1][0], dtype, kind), Role.GATES))
        flags = {**self._sampler.flags, "trainer": f"transformers, {self._form} of float32 logits"}
        if self._engine is not self._trainer:
            flags |= {f"trainer.{key}": value for key, value in self._trainer.flags.items()}
        environment = observe_environment(
            self._trainer.device, {**flags, **kernel_flags(spec.kernels)}, self._trainer.threads
        )
        self.subject = Subject(
            name, dtype, self._digests(), () if isinstance(self._sampler, FileSampler) else asked,
            Schedule(tuple(replace(step, index=n) for n, step in enumerate(steps)), left_out), environment, tuple(cases),
        )  # fmt: skip

    def _digests(self) -> dict[str, str]:
        found = dict((self._engine or self._trainer).digests)
        if self._own.trainer_model is not None:
            found |= {f"trainer's {name}": digest for name, digest in self._trainer.digests.items()}
        return found

    def _of_both(self) -> Iterator[str]:
        """What is looked at of both models, where they are two, or of a file."""
        if self._own.trainer_model is not None and self._engine is not None:
            other = self._engine.digests
            if other.get("model") != self._trainer.digests.get("model"):
                yield WEIGHTS
            if other.get("tokenizer") != self._trainer.digests.get("tokenizer"):
                yield TOKENIZER
        if self._engine is None:
            yield WIDTHS

    def _asked(self) -> tuple[tuple[Prompt, ...], int]:
        """(the prompts, tokens of the longest sequence), with whoever makes the tokens."""
        spec, own = self._spec, self._own
        if self._engine is None and not own.server:
            self._sampler = FileSampler(Path(own.file), self._trainer)
            return self._sampler.prompts(), self._sampler.longest
        asking = questions(spec)
        if own.server:
            from detcheck.probes.logprobs.served import ServedTokens

            self._sampler = ServedTokens(spec, asking)
            self._closes.insert(0, self._sampler)
            known = [self._sampler.ids(n) for n in range(len(asking))]
        else:
            self._sampler = EngineSampler(self._engine, own)
            known = [()] * len(asking)
        asked = tuple(self._tokenize(n, one, ids) for n, (one, ids) in enumerate(zip(asking, known, strict=True)))
        return asked, max(len(p.token_ids) for p in asked) + own.max_tokens

    def _tokenize(self, index: int, question: Question, ids: tuple[int, ...]) -> Prompt:
        """`ids`: what the sampler makes of it, where it says so; (): it is asked here."""
        engine, own = self._engine or self._trainer, self._own
        if ids:
            pass
        elif question.messages or own.chat:
            ids = engine.encode_chat(question.messages or [{"role": "user", "content": question.text}])
        else:
            ids = engine.encode(question.text)
        needed, room = len(ids) + own.max_tokens, min(engine.context, self._trainer.context)
        if not ids or needed > room:
            raise UsageError(
                f"prompt {index} ({question.shown[:40]!a}) has {len(ids)} tokens; with --max-tokens {own.max_tokens} that is {needed}, and the model holds "
                f"{room}. Shorten it, or ask for fewer tokens"
            )
        name = f"{index}:{content_hash(np.asarray(ids, '<i8').tobytes())[:8]}"
        return Prompt(name, question.shown, tuple(ids))

    def _formable(self) -> tuple[tuple[str, ...], tuple[NotTried, ...]]:
        """How the trainer scores, and what of the default these sequences give no batch for. What the user names stays, and is no pass then."""
        asked, files = self._own.conditions, isinstance(self._sampler, FileSampler)
        lengths = [
            len(one.prompt.token_ids) + (len(self._sampler.sequences[n].tokens) if files else 0)
            for n, one in enumerate(self._wanted)
        ]
        left = [name for name in asked if asked == CONDITIONS and not trainer.has_batches(name, lengths)]
        why = "there is one sequence alone" if len(lengths) == 1 else "no batch of it has sequences of unequal length"
        return tuple(name for name in asked if name not in left), tuple(NotTried(name, why) for name in left)

    def _steps(self, first: int) -> Iterator[Step]:
        count = len(self._wanted)
        for begin in range(0, count, TOGETHER):
            yield Step(0, "", SAMPLER, 0, (0,) * min(TOGETHER, count - begin), case=first + begin)
        for condition in self._conditions:
            size = ConditionName.parse(condition).size or 1
            for trial in range(self._spec.trials):
                for begin in range(0, count, size):
                    yield Step(0, "", condition, trial, (0,) * min(size, count - begin), case=first + begin)
        yield Step(0, CAUSES, CAUSES, 0, (0,), case=first + count)

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        if step.condition in (WEIGHTS, TOKENIZER, WIDTHS):
            return self._observe_both(step)
        kernels = self.subject.cases[step.case][0].kernels
        if step.condition == CAUSES:
            return self._observe_causes(step, kernels)
        if step.condition == SAMPLER:
            return self._observe_sampler(step, kernels)
        return self._observe_trainer(step, kernels)

    def _observe_sampler(self, step: Step, kernels: str) -> tuple[list[Observation], list[Outcome]]:
        made = self._made.setdefault(kernels, [])
        wanted = self._wanted[len(made) :][: len(step.rows)]
        answers, calls = self._sampler.make(wanted, kernels)
        observations, outcomes = [], []
        for n, answer in enumerate(answers):
            case, _ = self.subject.cases[step.case + n]
            made.append(None if isinstance(answer, str) else answer)
            found, missing, sizes = None, answer, ()
            if not isinstance(answer, str):
                found = outcome(answer.tokens, logprobs=answer.logprobs, text=answer.text)
                found = replace(found, names=self._spelled(answer.tokens.tolist()))
                missing, sizes = "", answer.batch_sizes
                outcomes.append(found)
            condition = Condition(SAMPLER, None, None, threads=self._trainer.threads)
            place = case, condition, step.trial, step.index, n
            of_first = {} if n else {"calls": tuple(calls)}
            observations.append(Observation(*place, found and found.id, sizes, missing=missing, **of_first))
        return observations, outcomes

    def _spelled(self, tokens: list[int]) -> tuple[str, ...]:
        """The text that each token adds to the one before it."""
        if len(tokens) * len(self._wanted) > MOST_SPELLED:
            return ()
        decode = self._trainer.decode
        pairs = zip([[], *([t] for t in tokens)], tokens, strict=False)
        return tuple(decode([*before, token])[len(decode(before)) if before else 0 :] for before, token in pairs)

    def _observe_trainer(self, step: Step, kernels: str) -> tuple[list[Observation], list[Outcome]]:
        begin = step.case - next(n for n, (case, _) in enumerate(self.subject.cases) if case.kernels == kernels)
        made = self._made[kernels][begin : begin + len(step.rows)]
        there = [one for one in made if one is not None]
        rows = [trainer.Asked(one.prompt, tuple(one.tokens.tolist())) for one in there]
        keeps = step.condition == self._conditions[0] and step.trial == 0
        see = (lambda n, logits: self._places[kernels].keep(there[n], logits, len(self._wanted))) if keeps else None
        scored, formed, calls, why = [], False, [], "the sampler did not make it"
        if rows:
            try:
                with self._trainer.running(kernels) as calls:
                    scored, formed = trainer.score(self._trainer, rows, step.condition, self._form, see)
            except OutOfMemoryError as error:
                why = str(error)
        lengths = [one and len(one.prompt) + len(one.tokens) for one in self._made[kernels]]
        formed = formed and trainer.has_batches(step.condition, lengths)
        numbers = iter(scored)
        composition = content_hash(*(np.asarray(row.prompt + row.tokens, "<i8").tobytes() for row in rows))[:12]
        observations, outcomes = [], []
        for n, one in enumerate(made):
            case, _ = self.subject.cases[step.case + n]
            logprobs = None if one is None else next(numbers, None)
            found = None if logprobs is None else outcome(one.tokens, logprobs=logprobs, text=one.text)
            outcomes += [found] if found else []
            size = len(rows) if formed else None
            condition = Condition(step.condition, size, n, composition, self._trainer.threads)
            of_first = {} if n else {"calls": tuple(calls)}
            place = case, condition, step.trial, step.index, n
            observations.append(
                Observation(
                    *place, found and found.id, (size,) if size else (), missing="" if found else why, **of_first
                )
            )
        return observations, outcomes

    def _observe_causes(self, step: Step, kernels: str) -> tuple[list[Observation], list[Outcome]]:
        places = self._places.pop(kernels, None)
        text = json.dumps([one.plain() for one in explanations(places.held())] if places and places.tokens else [])
        found = replace(digest_outcome(text.encode()), text=text)
        return [self._of_model(step, CAUSES, 0, found)], [found]

    def _observe_both(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        made = [outcome(np.arange(len(words)), words=tuple(words)) for words in self._looked_at(step.condition)]
        return [
            self._of_model(step, side, n, found)
            for n, (side, found) in enumerate(zip((SAMPLER, TRAINER), made, strict=True))
        ], made

    def _of_model(self, step: Step, side: str, n: int, found: Outcome) -> Observation:
        case, _ = self.subject.cases[step.case]
        return Observation(case, Condition(side, None, None), 0, step.index, n, found.id)

    def _looked_at(self, kind: str) -> list[Sequence[str]]:
        """Of both sides."""
        if kind == WIDTHS:
            return [(self._sampler.precision,), ("float32",)]
        engines = self._engine, self._trainer
        if kind == WEIGHTS:
            return [[f"{name} {digest}" for name, digest in tensor_digests(one.folder).items()] for one in engines]
        return [one.vocabulary_words() for one in engines]

    def close(self) -> None:
        for engine in dict.fromkeys(self._closes):
            engine.close()


def questions(spec: Spec) -> list[Question]:
    """Those that are asked for, or some of unequal length, so that padding and packing have something to do."""
    if spec.options.prompt is not None or spec.options.prompt_file is not None:
        return prompts.asked(spec)
    words = (amplifier.PROMPT if spec.model is None else prompts.LONG_PROMPT).split()
    return [Question(" ".join(words[: len(words) * n // PROMPTS])) for n in range(1, PROMPTS + 1)]


def sequence_name(one: AskedSequence, samples: int) -> str:
    return one.prompt.name if samples == 1 else f"{one.prompt.name}.{one.sample}"
