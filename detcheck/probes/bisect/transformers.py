"""A prompt traced alone and in batches: what was seen of every call, and nothing about causes (`judge.py` names those).

What two runs did with the same inputs at the same place is put side by side: *in the run*. In the first run of each batch every
call is moreover asked again, and alone: *again*. Nothing is kept of a run but hashes.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import forward, last_logits
from detcheck.errors import FailedError, OutOfMemoryError
from detcheck.models.checkpoint import first_line
from detcheck.probes.bisect import orders
from detcheck.probes.bisect.call import Key, TracedCall
from detcheck.probes.bisect.collect import LONE, Kinds, evidence, named
from detcheck.probes.bisect.facts import AGAIN, IN_THE_RUN, BatchForm, Bisected, Control, Evidence, Site
from detcheck.probes.bisect.replays import Replays, Tested, site_of
from detcheck.probes.bisect.rows import Layout
from detcheck.probes.bisect.trace import Tracer
from detcheck.replay import apart
from detcheck.tensors import integers, out_of_memory

Tokens = Sequence[int]


@dataclass(frozen=True)
class FormedBatch:
    """A condition: the rows that are computed together, and which is the prompt."""

    name: str
    rows: tuple[tuple[int, ...], ...]
    slot: int
    padding: int = 0
    """columns before the longest"""

    @property
    def layout(self) -> Layout:
        width = max(map(len, self.rows)) + self.padding
        return Layout(len(self.rows), self.slot, width - len(self.rows[self.slot]))


@dataclass
class Bisection:
    """Runs and what came of them."""

    engine: TransformersEngine
    prompt: tuple[int, ...]
    batches: tuple[FormedBatch, ...]
    decoded: int
    trials: int
    repeats: int
    alone: dict[Key, TracedCall] = field(default_factory=dict)
    seen: dict[Key, dict[int, dict[str, list[int]]]] = field(default_factory=lambda: defaultdict(dict))
    """call -> what went in -> condition -> what came out, a hash each time"""
    replays: dict[str, Replays] = field(default_factory=dict)
    logits: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unmatched: Counter[str] = field(default_factory=Counter)
    only_alone: Counter[str] = field(default_factory=Counter)
    calls: dict[Key, TracedCall] = field(default_factory=dict)
    """as they were in a batch"""

    def run(self) -> None:
        for trial in range(self.trials):
            tracer = Tracer(self.engine._model, self.alone or None)
            self._forward(tracer, FormedBatch(LONE, (self.prompt,), 0))
            if not trial:
                self.alone = tracer.calls
            self._note(tracer, LONE)
        for batch in self.batches:
            for trial in range(self.trials):
                layout = replace(batch.layout, tokens=len(self.prompt) - self.decoded)
                replays = None if trial else Replays(layout, self.repeats)
                tracer = Tracer(self.engine._model, self.alone, layout, replays)
                self._forward(tracer, batch)
                self._note(tracer, batch.name)
                if replays:
                    self.replays[batch.name] = replays
                    self.unmatched += tracer.unmatched
                    self.calls |= {k: c for k, c in tracer.calls.items() if k not in self.calls}
                    self.only_alone |= Counter(c.op for k, c in self.alone.items() if c.after and k not in tracer.calls)
        orders.data.cache_clear()  # as large as a product's weight

    def _forward(self, tracer: Tracer, batch: FormedBatch) -> None:
        self.logits[batch.name].append(named(traced(self.engine, tracer, batch, self.decoded)))

    def _note(self, tracer: Tracer, name: str) -> None:
        for key, call in tracer.calls.items():
            if call.before is not None and call.after is not None:
                self.seen[key].setdefault(call.before, {}).setdefault(name, []).append(call.after)

    def control(self) -> Control | None:
        """One call's last row comes out one ulp off: is that call named, and what becomes of it at the logits?

        And what are the logits without a trace?
        """
        weighed = [k for k, c in self.alone.items() if k[0] == 0 and k[4] and c.after and not c.module]
        if not weighed:
            return None
        key = weighed[0]
        plain, dtype, _ = last_logits(self.engine, [self.prompt], [0], self.decoded)
        tracer = Tracer(self.engine._model, self.alone, None, nudge=key)
        moved = traced(self.engine, tracer, FormedBatch(LONE, (self.prompt,), 0), self.decoded)
        differing = [
            (c.order, k)
            for k, c in tracer.calls.items()
            if c.before is not None and c.before == self.alone[k].before and c.after != self.alone[k].after
        ]
        last = self.batches[-1]
        together, _, _ = last_logits(self.engine, last.rows, [last.slot], self.decoded, last.padding)
        change = apart(plain[0], moved, dtype)
        return Control(
            key[3],
            key[1],
            bool(differing) and min(differing)[1] == key,
            change.elements,
            change.differing,
            change.max_ulp or 0.0,
            {LONE: named(plain[0]), last.name: named(together[0])},
        )

    def facts(self) -> Bisected:
        """All that judging needs."""
        kinds = Kinds()
        for key, call in self.alone.items():
            if call.after is None:
                continue
            tests = {name: replays.tested[key] for name, replays in self.replays.items() if key in replays.tested}
            several = len({name for together in self.seen[key].values() for name in together}) > 1
            evidence = self._evidence(key, call, tests)
            site = functools.partial(self._site, key, call, tests)
            kinds.add(call.op, call.path, call.module, several or bool(tests), bool(tests), evidence, site)
        untested = sum((replays.untested for replays in self.replays.values()), Counter())
        return Bisected(
            tuple(BatchForm(b.name, b.layout.rows, b.slot, b.layout.padding) for b in self.batches),
            len(self.prompt),
            self.decoded,
            self.trials,
            self.repeats,
            kinds.made(),
            tuple(untested.items()),
            dict(self.only_alone),
            dict(self.unmatched),
            {name: tuple(self.logits[name]) for name in (LONE, *(b.name for b in self.batches))},
        )

    def _site(self, key: Key, call: TracedCall, tests: Mapping[str, Tested]) -> Site:
        differing = [test.site for test in tests.values() if test.site.difference]
        return differing[0] if differing else site_of(call, self.calls.get(key, call))

    def _evidence(self, key: Key, call: TracedCall, tests: Mapping[str, Tested]) -> list[Evidence]:
        """Outputs of the same inputs that are not all the same."""
        found = []
        for name, test in tests.items():
            if test.replayed.differs:
                found.append(evidence(call.order, name, AGAIN, test.replayed.alone, test.replayed.batch))
        for together in self.seen[key].values():
            lone = together.get(LONE, [])
            if len(set(lone)) > 1 and len(together) == 1:
                found.append(evidence(call.order, LONE, IN_THE_RUN, lone, []))
            for name, outcomes in together.items():
                if name != LONE and len({*lone, *outcomes}) > 1:
                    found.append(evidence(call.order, name, IN_THE_RUN, lone, outcomes))
        return found


def traced(engine: TransformersEngine, tracer: Tracer, batch: FormedBatch, decoded: int) -> np.ndarray:
    """The bit patterns of the logits of the prompt's row. Raises OutOfMemoryError, FailedError where an op raised."""
    import torch

    try:
        with tracer.running(), torch.no_grad():
            logits = forward(engine, batch.rows, decoded, batch.padding)[batch.slot]
    except Exception as error:  # the model's code may raise anything
        if not out_of_memory(error):
            if tracer.raised and tracer.raised[0] is error:
                raise FailedError(tracer.raised[1]) from error
            raise
        raise OutOfMemoryError(
            f"out of memory with {len(batch.rows)} rows under the trace: {first_line(error)}"
        ) from None
    return integers(logits).numpy()
