"""A prompt looked at in vLLM, alone and in batches, module by module: what was seen, and nothing about causes.

The facts are those of `transformers.py`, with innermost modules in the place of ops. What two runs did with equal rows at the same
place is put side by side, row by row: vLLM may compute them in other steps.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from detcheck.engine import Row
from detcheck.engines.vllm.calls import ModuleTrace
from detcheck.engines.vllm.engine import VllmEngine
from detcheck.engines.vllm.messages import BatchRequest, TraceRequest
from detcheck.errors import FailedError
from detcheck.probes.bisect.collect import LONE, Kinds, evidence, named
from detcheck.probes.bisect.facts import (
    AGAIN,
    IN_THE_RUN,
    BatchForm,
    Bisected,
    Control,
    Evidence,
    Site,
    TensorForm,
    arms,
)
from detcheck.reason import Reason
from detcheck.replay import Difference, apart

OP = "vllm::"
Place = tuple[str, int, int]
"""of a row: (path of the module, visit, position in the prompt)"""


@dataclass(frozen=True)
class Wave:
    """A condition: the requests that are sent, and which is the prompt's."""

    name: str
    rows: tuple[Row, ...]
    slot: int
    max_tokens: int
    token_budget: int | None = None
    cached: bool = False

    @property
    def request(self) -> BatchRequest:
        return BatchRequest(self.rows, self.max_tokens, (), self.token_budget, self.cached, self.slot)


@dataclass
class VllmBisection:
    """Runs and what came of them."""

    engine: VllmEngine
    lone: Wave
    batches: tuple[Wave, ...]
    trials: int
    repeats: int
    alone: list[ModuleTrace] = field(default_factory=list)
    """of the first lone run"""
    rows: dict[Place, dict[int, dict[str, list[int]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    )
    """place -> what went in -> condition -> what came out, a hash each time"""
    tested: dict[str, list[ModuleTrace]] = field(default_factory=dict)
    logits: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    last: np.ndarray = field(default_factory=lambda: np.empty(0))

    def run(self) -> None:
        for trial in range(self.trials):
            calls, self.last = self._look(self.lone, lone=True)
            self.alone = self.alone if trial else calls
        for wave in self.batches:
            for trial in range(self.trials):
                calls, _ = self._look(wave, lone=False, test=not trial)
                if not trial:
                    self.tested[wave.name] = calls

    def _look(self, wave: Wave, lone: bool, test: bool = False) -> tuple[list[ModuleTrace], np.ndarray]:
        calls, logits = self._seen(wave, lone, test)
        self.logits[wave.name].append(named(np.concatenate(logits)))
        for place, (before, after) in by_row(calls).items():
            if before is not None and after is not None:
                self.rows[place][before][wave.name].append(after)
        return calls, logits[0]

    def _seen(
        self, wave: Wave, lone: bool, test: bool = False, nudge: str | None = None, only_logits: bool = False
    ) -> tuple[list[ModuleTrace], list[np.ndarray]]:
        asked = TraceRequest(wave.request, lone, test, nudge, only_logits=only_logits, repeats=self.repeats)
        calls, logits, _ = self.engine.look(asked)
        made = [logits[at] for at in sorted(logits) if at >= len(self.lone.rows[0].prompt) - 1]  # not those of chunks
        if not made:
            raise FailedError(f"{self.engine.name} has no LogitsProcessor, so that its logits cannot be followed")
        return calls, made

    def control(self) -> Control | None:
        """One module's last row comes out one ulp off: is that call named, and what becomes of it at the logits?

        And what are the logits where no module is looked at?
        """
        weighed = next((c for c in self.alone if c.inner and None not in c.after and "Linear" in c.op), None)
        if weighed is None:
            return None
        calls, logits = self._seen(self.lone, lone=True, nudge=weighed.path)
        known, orders = by_row(self.alone), {(c.path, c.visit, at): c.order for c in calls for at in c.positions}
        differing = [
            (orders[place], place[0])
            for place, (before, after) in by_row(calls).items()
            if None not in (before, after) and known[place][0] == before and known[place][1] not in (None, after)
        ]
        change = apart(self.last, logits[0], "float32")
        untraced = {w.name: self._seen(w, True, only_logits=True)[1] for w in (self.lone, self.batches[-1])}
        return Control(
            OP + weighed.op,
            weighed.path,
            bool(differing) and min(differing)[1] == weighed.path,
            change.elements,
            change.differing,
            change.max_ulp or 0.0,
            {name: named(np.concatenate(logits)) for name, logits in untraced.items()},
        )

    def facts(self) -> Bisected:
        """All that judging needs."""
        untested, others, tests = self._tests()
        kinds = Kinds()
        for call in self.alone:
            op = f"{OP}{call.op}" if call.inner else f"module {call.op}"
            places = [(call.path, call.visit, at) for at in call.positions]
            asked = [test for place in places for test in tests[place]]
            compared = bool(asked) or any(len(w) > 1 for p in places for w in self.rows[p].values())
            found = self._evidence(call, places, asked)
            site = functools.partial(self._site, op, call, asked, found)
            kinds.add(op, call.path, not call.inner, compared, bool(asked), [each for each, _ in found], site)
        return Bisected(
            tuple(BatchForm(w.name, len(w.rows), w.slot, 0) for w in self.batches),
            len(self.lone.rows[0].prompt),
            self.lone.max_tokens - 1,
            self.trials,
            self.repeats,
            kinds.made(),
            tuple(untested.items()),
            {},
            dict(others),
            {name: tuple(hashes) for name, hashes in self.logits.items()},
        )

    def _tests(self) -> tuple[Counter[Reason], Counter[str], dict[Place, list[tuple[str, ModuleTrace]]]]:
        """(why calls were not asked again, modules without a counterpart, place of a lone call -> (condition, call in it))"""
        untested: Counter[Reason] = Counter()
        others: Counter[str] = Counter()
        tests: dict[Place, list[tuple[str, ModuleTrace]]] = defaultdict(list)
        lone = {(c.path, c.visit, at) for c in self.alone for at in c.positions}
        for name, calls in self.tested.items():
            for call in calls:
                if call.replayed and call.replayed.untested:
                    untested[call.replayed.untested] += 1
                counterpart = next((k for at in call.positions if (k := (call.path, call.visit, at)) in lone), None)
                if counterpart is None:
                    others[call.op] += 1
                elif call.replayed and call.replayed.batch:
                    tests[counterpart].append((name, call))
        return untested, others, tests

    def _evidence(
        self, call: ModuleTrace, places: Sequence[Place], asked: Sequence[tuple[str, ModuleTrace]]
    ) -> list[tuple[Evidence, Place | None]]:
        """Outputs of the same inputs that are not all the same: of both arms, and the first row that shows it in each condition."""
        found: list[tuple[Evidence, Place | None]] = [
            (evidence(call.order, name, AGAIN, seen.replayed.alone, seen.replayed.batch), None)
            for name, seen in asked
            if seen.replayed.differs
        ]
        shown: set[str] = set()
        for place in places:
            for together in self.rows[place].values():
                lone = together.get(LONE, [])
                for name, came in together.items():
                    alone, batch = (lone, came) if name != LONE else (lone, [])
                    if name not in shown and any(arms(alone, batch)):
                        shown.add(name)
                        found.append((evidence(call.order, name, IN_THE_RUN, alone, batch), place))
        return found

    def _site(
        self,
        op: str,
        call: ModuleTrace,
        asked: Sequence[tuple[str, ModuleTrace]],
        found: Sequence[tuple[Evidence, Place | None]],
    ) -> Site:
        """Of a call that is a cause. How far apart its results are is asked with two more runs, where no replay shows it."""
        differing = [seen for _, seen in asked if seen.replayed.differs]
        seen = next((s for s in differing if s.replayed.difference), differing[0] if differing else call)
        site = Site(call.order, op, call.path, call.step, "", forms(call), forms(seen), seen.source)
        if replayed := seen.replayed:
            by = "layout" if replayed.starts_at == 1 else ""
            site = replace(site, difference=replayed.difference, starts_at=replayed.starts_at, starts_by=by)
        rows = [(each.condition, place) for each, place in found if place]
        return replace(site, difference=self._apart(*rows[0])) if rows and not site.difference else site

    def _apart(self, condition: str, place: Place) -> Difference | None:
        """How far a row is from its own in another run: both run again, and the row is kept this time."""
        waves = [self.lone, next((w for w in self.batches if w.name == condition), self.lone)]
        kept = [self.engine.look(TraceRequest(w.request, n == 0, keep=place))[2] for n, w in enumerate(waves)]
        if None in kept or not (kept[0][0] != kept[1][0]).any():
            return None  # noise, and this time there was none
        (a, dtype), (b, _) = kept
        return apart(a, b, dtype)


def by_row(calls: Sequence[ModuleTrace]) -> dict[Place, tuple[int | None, int | None]]:
    """(path, visit, position) -> hashes of what went in and came out, the last time where a row was computed again."""
    rows = {}
    for c in calls:
        rows |= {(c.path, c.visit, at): pair for at, *pair in zip(c.positions, c.before, c.after, strict=True)}
    return rows


def forms(call: ModuleTrace) -> tuple[TensorForm, ...]:
    return tuple(TensorForm(form.shape, form.dtype, form.strides) for form in call.forms)
