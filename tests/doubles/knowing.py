"""Engines whose answer may follow anything that an engine could let in: rows and their places, lengths, the arm, what came before.

`Forming` computes the batch that it is given, as transformers does. `Scheduling` gets requests and forms its batches itself, step by step, as
vLLM does, with a token budget, a prefix cache and preemptions, and tells what every step computed.
"""

import contextlib
import random
from dataclasses import dataclass, field

import numpy as np
from scripted import Scripted

from detcheck.engine import Decoded, RequestTrace, Row
from detcheck.hashes import content_hash

ALONE = RequestTrace((1,), "", 1, 0, 0)


@dataclass(frozen=True)
class Asked:
    """A sample that an answer is wanted for, and all around it."""

    rows: tuple[Row, ...]
    slot: int
    call: int
    """how many batches there were before"""
    kernels: str
    padding: int = 0
    trace: RequestTrace = ALONE
    before: tuple[Row, ...] = ()
    """the rows of the batch before"""

    @property
    def row(self):
        return self.rows[self.slot]

    @property
    def size(self):
        return len(self.rows)

    @property
    def width(self):
        return max(len(row.prompt) for row in self.rows) + self.padding

    @property
    def pads(self):
        return self.width - len(self.row.prompt)

    @property
    def text(self):
        """Of the prompt."""
        return bytes(self.row.prompt).decode()


class Forming(Scripted):
    """Answers by `answer(asked)`: a completion, None for a sample that is dropped, or "out of memory"."""

    def __init__(self, answer, calls=None, threads=2, **how):
        """`calls`: arm -> (op, calls) that it counts."""
        super().__init__(None, **how)
        self._of, self._counted, self.threads = answer, calls or {}, threads
        self._kernels, self._before = "", ()

    @contextlib.contextmanager
    def running(self, kernels):
        self._kernels = str(kernels)
        yield list(self._counted.get(self._kernels, ()))

    def encode_chat(self, messages):
        return tuple("".join(m["content"] for m in messages).encode())

    def encode_later(self, first, later):
        return tuple((1, *self.encode_chat(group), 2) for group in later)

    def complete(self, rows, max_tokens, ignore_eos, padding=0, token_budget=None):
        return self._asked(rows, max_tokens, ignore_eos, padding, {})

    def prefill(self, row, made):
        decoded = self._asked([row], len(made.tokens), True, 0, {0: ALONE})
        return Decoded(decoded.completions, (1,), {0: ALONE}, ((1, len(row.prompt)),))

    def _asked(self, rows, max_tokens, ignore_eos, padding, traces):
        rows = tuple(rows)
        self._answer = lambda n, slot, call: self._of(
            Asked(rows, slot, call, self._kernels, padding, traces.get(slot, ALONE), self._before)
        )
        decoded = super().complete(rows, max_tokens, ignore_eos, padding)
        self._before = rows
        return decoded


@dataclass
class Request:
    """While it runs."""

    slot: int
    row: Row
    left: int
    """tokens that it has still to make"""
    cached: int = 0
    computed: int = 0
    """tokens of its prompt, those of the cache among them"""
    chunks: int = 0
    preemptions: int = 0
    steps: list = field(default_factory=list)


class Scheduling(Forming):
    """Every token that is left over of a step's budget goes to prompts, in the order in which they came."""

    schedules_itself, uncut = True, ""

    def __init__(
        self,
        answer,
        budget=8192,
        block=4,
        at_once=1000,
        puts_aside=0,
        order=None,
        tells=True,
        cuts=True,
        reads_cache=True,
        drafts=None,
        **how,
    ):
        """`at_once`: requests that a step computes; `puts_aside`: from how many on it computes the last one again, 0: never; `order`: a random.Random
        that draws who is computed first; `tells`: its steps; `reads_cache`: finds prefixes in it; `drafts`: (drafted, accepted) of each request."""
        super().__init__(answer, **how)
        self.token_budget, self.cache_block, self._at_once, self._aside = budget, block, at_once, puts_aside
        self._order, self._tells, self._cuts, self._reads, self._drafts = order, tells, cuts, reads_cache, drafts
        self._held = ()

    def complete(self, rows, max_tokens, ignore_eos, token_budget=None, cached=False, goes_on=False):
        first = next(row for row in rows if row.continuation is None)
        held = [first.prompt] if cached else self._held if goes_on else []
        running = [self._arrived(slot, row, max_tokens, held) for slot, row in enumerate(rows)]
        steps = self._run(running, token_budget or self.token_budget)
        adapters = {slot: row.adapter for slot, row in enumerate(rows)}
        traces = {r.slot: self._trace(r, steps, adapters) for r in running}
        decoded = self._asked(rows, max_tokens, ignore_eos, 0, traces)
        made = {slot: one.tokens for slot, one in decoded.completions.items()}
        self._held = [(*r.row.prompt, *(r.row.continuation or made.get(r.slot, ()))) for r in running]
        if not self._tells:
            return Decoded(decoded.completions, ())
        sizes = tuple(sorted({size for trace in traces.values() for size in trace.batch_sizes}))
        samples = sum(row.continuation is None for row in rows)
        drafted = tuple(n * samples for n in self._drafts(len(rows))) if self._drafts else None
        told = tuple((len(step), sum(step.values())) for step in steps)
        return Decoded(decoded.completions, sizes, traces, told, speculation=drafted)

    def _arrived(self, slot, row, max_tokens, held):
        request = Request(slot, row, max_tokens if row.continuation is None else max(1, len(row.continuation)))
        if self._reads and self.cache_block:
            shared = max((common(row.prompt, one) for one in held), default=0)
            request.cached = min(shared, len(row.prompt) - 1) // self.cache_block * self.cache_block
        request.computed = request.cached
        return request

    def _run(self, requests, budget):
        """Engine steps: slot -> tokens."""
        steps, waiting, aside = [], list(requests), False
        if self._order:
            self._order.shuffle(waiting)
        while any(r.left for r in waiting):
            here = [r for r in waiting if r.left and r.row.arrival <= len(steps)]
            here = sorted(here, key=lambda r: r.computed < len(r.row.prompt))[: self._at_once]
            step, left = {}, budget
            for r in here:
                to_read = len(r.row.prompt) - r.computed
                if not to_read:
                    step[r.slot], r.left, left = 1, r.left - 1, left - 1
                elif left > 0 and (self._cuts or to_read <= left or not step):
                    tokens = min(to_read, left) if self._cuts else to_read
                    r.computed, r.chunks, left = r.computed + tokens, r.chunks + 1, left - tokens
                    r.left -= r.computed == len(r.row.prompt)
                    step[r.slot] = tokens
            for r in here:
                r.steps += [len(steps)] if r.slot in step else []
            steps.append(step)
            if self._aside and len(here) >= self._aside and not aside and here[-1].left:
                here[-1].computed, here[-1].preemptions, aside = 0, 1, True
        return steps

    def _trace(self, r, steps, adapters):
        until = steps[: r.steps[-1] + 1]
        hashed = content_hash(repr([list(step.items()) for step in until]).encode())[:16]
        sizes = tuple(sorted({len(steps[n]) for n in r.steps}))
        drafted, accepted = self._drafts(len(steps[r.steps[0]])) if self._drafts else (0, 0)
        beside = max(len({adapters[slot] for slot in steps[n]}) for n in r.steps)
        return RequestTrace(sizes, hashed, r.chunks, r.cached, r.preemptions, beside, drafted, accepted)


def common(a, b):
    """Tokens that both begin with."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def moved(completion, ulp=1, at=0, only=False):
    """The completion with log-probabilities so many ulp further from token `at` on, or at that token alone."""
    bits = completion.logprobs.view(np.uint32).copy()
    bits[at : at + 1 if only else None] += np.uint32(ulp)
    return with_logprobs(completion, bits.view(np.float32))


def with_logprobs(completion, numbers):
    import dataclasses

    return dataclasses.replace(completion, logprobs=np.asarray(numbers, np.float32))


def noise(chance, seed=0):
    """() -> whether it strikes now."""
    rng = random.Random(seed)
    return lambda: rng.random() < chance
