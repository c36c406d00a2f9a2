"""A prompt alone and in batches: which module and which op diverges first, and is it the run or the batch?

The first call, in the order of execution, whose inputs are equal by bytes and whose output is not. Every call is also asked
again and alone on the inputs that it has in the batch, so that a second culprit does not hide behind the first.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from detcheck.differing import Differing
from detcheck.errors import FailedError, OutOfMemoryError, UsageError
from detcheck.outcomes import digest_outcome
from detcheck.probes import _apply, completions
from detcheck.probes._bisection import Batch, Bisection
from detcheck.probes.prompts import Question
from detcheck.probes.schedule import compose, conditions
from detcheck.records import Condition, Kernels, Observation, Outcome, Schedule, Spec, Step

SIZES = (2, 8)
REPEATS = 2  # calls of each arm of a test: more with --trials
DECODED = 2  # tokens fed one by one: the first step after a prefill, and one on a cache that a step wrote


@dataclass(frozen=True)
class Options:
    """The knobs of this probe."""

    run: str | None = field(default=None, metadata={"argument": True})
    """folder of a run that found a difference; it gives what else is asked"""
    prompt: str | None = None
    """None: the default prompt, unless there is a file"""
    prompt_file: str | None = None
    chat: bool = False
    """put prompts through the chat template"""
    attn: str | None = None
    """attention implementation; None: the model's own"""
    trust_remote_code: bool = False
    decode: int = DECODED
    """last tokens that are fed one by one"""
    apply: bool = False
    """replace the guilty by kernels of ours, one kind at a time"""

    question: int | None = None
    """of a run: which of its prompts; None: all"""
    condition: str | None = None
    """of a run: the batch that differs"""
    company: tuple[int, ...] = ()
    """of a run: that batch's rows"""
    fed: tuple[int, ...] = ()
    """of a run: tokens that came before the first that differs; they are fed one by one"""
    max_tokens: int = 1
    """of a run: what its fillers were given beyond their prompt"""

    FROM_RUN: ClassVar[tuple[str, ...]] = (
        "model", "kernels", "dtype", "device", "seed", "batch_sizes", "prompt", "prompt_file", "chat", "attn", "trust_remote_code",
        "decode", "question", "condition", "company", "fed", "max_tokens",
    )  # fmt: skip


def of_run(path: str, spec: Spec, asked: Spec, found: Differing) -> Spec:
    """The question that a run leaves open: its own model, prompt and batch."""
    theirs, same = asked.options, {"decode": max(len(found.fed), 0 if found.fed else DECODED)}
    same |= {
        name: getattr(theirs, name)
        for name in ("prompt", "prompt_file", "chat", "attn", "trust_remote_code", "max_tokens")
    }
    place = {"question": found.prompt, "condition": found.condition, "company": found.rows, "fed": found.fed}
    if asked.probe == "batch" or not found.fed:
        same["decode"] = 0
    options = replace(spec.options, run=path, **same, **place)
    knobs = {name: getattr(asked, name) for name in ("model", "dtype", "device", "seed")}
    return replace(spec, options=options, kernels=found.kernels, **knobs)


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    same = completions.Options(
        1_000_000, 1, False, own.prompt, own.prompt_file, own.chat, own.attn, own.trust_remote_code
    )
    completions.check(Spec("completions", same, spec.model, spec.kernels, device=spec.device, trials=spec.trials))
    if own.decode < 0:
        raise UsageError(f"--decode must be at least 0; got {own.decode}")
    if own.apply and spec.kernels is not Kernels.STOCK:
        raise UsageError(f"--apply puts our kernels in the place of stock ones; leave out --kernels {spec.kernels}")
    if spec.batch_sizes and max(spec.batch_sizes) < 2:
        raise UsageError("--batch-sizes: the prompt alone is compared with it in a batch; name a size of 2 or more")


class Bisect(completions.Completions):
    """The probe, opened. Prompts and batches are made as `completions` makes them; a step is a whole bisection."""

    check = staticmethod(check)

    def _plan(self, lengths: dict[str, int]) -> Schedule:
        """A step a prompt. What it runs is the prompt alone and each of `_batches`."""
        refuse_compiled(self._engine._model)
        steps = [Step(n, name, "bisect", 0, (0,)) for n, name in enumerate(lengths)]
        return Schedule(tuple(steps), (), self._engine.max_rows(self._longest(max(lengths.values()))))

    def _questions(self) -> list[Question]:
        asked, only = super()._questions(), self._own.question
        return asked if only is None else asked[only : only + 1]

    def _filler_seed(self, step: Step) -> str:
        """As the run's own probe has it: `batch` takes the same fillers however many there are."""
        return f"{self._spec.seed}/{'batch' if self._own.run and self._own.max_tokens == 1 else step.condition}"

    def _batches(self, name: str) -> tuple[Batch, ...]:
        spec, prompt = self._spec, self._prompts[name].token_ids
        if self._own.run:
            fed = self._own.fed
            formed, _ = self._batch(Step(0, name, self._own.condition, 0, self._own.company))
            rows = [r.prompt + (fed if r.continuation is None else r.continuation[: len(fed)]) for r in formed]
            return (Batch(self._own.condition, tuple(rows), self._own.company.index(0)),)
        sizes = tuple(size for size in spec.batch_sizes or SIZES if size > 1)
        room = min(self._engine.context - 1, 2 * len(prompt))
        ragged = (max(sizes),) if room > len(prompt) > 1 else ()
        made = []
        for plan in conditions(sizes, ragged, 1):
            rows = compose(plan, len(prompt), room, random.Random(f"{spec.seed}/{plan.name}"))
            formed, _ = self._batch(Step(0, name, plan.name, 0, rows))
            made.append(Batch(plan.name, tuple(row.prompt for row in formed), rows.index(0)))
        return tuple(made)

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Trace, test, and write down what was seen."""
        case, _ = self.subject.cases[step.case]
        started = time.perf_counter()
        calls: list[tuple[str, int]] = []
        made, why = [], ""
        try:
            with self._engine.running(case.kernels) as calls:
                facts = self._facts(step)
            text = json.dumps(facts, sort_keys=True)
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

    def _facts(self, step: Step) -> dict[str, Any]:
        prompt = self._prompts[step.input].token_ids + self._own.fed
        batches = self._batches(step.input)
        decoded = min(
            self._own.decode, *(len(row) - 1 for batch in batches for row in batch.rows)
        )  # a prefill comes first
        asked = self._engine, prompt, batches, decoded, self._spec.trials
        bisection = Bisection(*asked, max(REPEATS, self._spec.trials))
        bisection.run()
        facts = bisection.facts() | {"control": bisection.control()}
        return facts | ({"stages": _apply.stages(facts, *asked)} if self._own.apply else {})


def refuse_compiled(model: Any) -> None:
    """Raises FailedError for a model under torch.compile: its ops are fused, and there is nothing to name."""
    for name, module in model.named_modules():
        if getattr(module, "_compiled_call_impl", None) is not None or type(module).__name__ == "OptimizedModule":
            raise FailedError(
                f"{name or 'the model'} is compiled by torch.compile, whose fused kernels run several ops at once: bisect the model without it"
            )


PROBE = Bisect
