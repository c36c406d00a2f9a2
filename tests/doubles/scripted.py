"""Engines whose answer we wrote: the detector's test subjects."""

import contextlib
import copy

import numpy as np

from detcheck.engine import Completion, Decoded
from detcheck.errors import OutOfMemoryError
from detcheck.judge.conditions import judge
from detcheck.probes.completions.options import Options
from detcheck.probes.completions.session import Completions
from detcheck.records import Case
from detcheck.spec import Spec


def completion(tokens, bits=0, finish_reason="length"):
    """A completion whose log-probabilities are -1 moved by so many ulp."""
    logprobs = (np.full(len(tokens), -1.0, np.float32).view(np.uint32) + np.uint32(bits)).view(np.float32)
    return Completion(
        tuple(tokens), logprobs, np.full(len(tokens), 0.5, np.float32), tuple(t + 1 for t in tokens), finish_reason
    )


SAME = completion([5, 6, 7, 8])
OTHER = completion([5, 6, 9, 9])
LATENT = completion([5, 6, 7, 8], bits=3)
SHORT = completion([5, 6], finish_reason="stop")


class Scripted:
    """Answers by `answer(rows, slot, call)`, where `call` counts the batches; None drops the sample."""

    name, dtype, device, context = "scripted", "float32", "cpu", 4096
    digests, flags = {"model": "0" * 64, "tokenizer": "1" * 64}, {}
    schedules_itself, threads = False, 2

    def __init__(self, answer, seen=True, formed=lambda rows: rows, memory=1000):
        self._answer, self._seen, self._formed, self._memory, self._calls = answer, seen, formed, memory, -1

    def load(self, longest=0):
        pass

    def close(self):
        pass

    @contextlib.contextmanager
    def running(self, kernels):
        yield []

    def encode(self, text):
        return tuple(text.encode())

    def decode(self, tokens):
        return " ".join(map(str, tokens))

    def ordinary_tokens(self):
        return np.arange(3, 250)

    def max_rows(self, tokens):
        return self._memory

    def complete(self, rows, max_tokens, ignore_eos, padding=0):
        self._calls += 1
        samples = [slot for slot, row in enumerate(rows) if row.continuation is None]
        answers = {slot: self._answer(len(rows), slot, self._calls) for slot in samples}
        if any(a == "out of memory" for a in answers.values()):
            raise OutOfMemoryError(f"out of memory with {len(rows)} rows")
        sizes = (self._formed(len(rows)),) if self._seen else ()
        return Decoded({slot: a for slot, a in answers.items() if a is not None}, sizes)


def observe(engine, samples=24, conditions=None, **spec):
    """Run the probe on a scripted engine and judge it: the finding, and all observations."""
    asked = Options(samples=samples, prompt="ask me", max_tokens=4, conditions=conditions)
    return observe_asked(engine, Spec("completions", asked, **spec))


def observe_asked(engine, spec):
    probe = Completions(spec, copy.copy(engine))
    observations, outcomes = [], {}
    for step in probe.subject.schedule.steps:
        seen, found = probe.observe(step)
        observations += seen
        outcomes |= {o.id: o for o in found}
    cases = [Case("completions", "scripted", "stock", "float32", p.name) for p in probe.subject.inputs]
    (finding,) = judge(cases, probe.subject.schedule, observations, outcomes)
    return finding, observations
