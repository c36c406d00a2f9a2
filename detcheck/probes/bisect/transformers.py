"""A prompt traced alone and in batches: what was seen of every call, and nothing about causes (`judge.py` names those).

What two runs did with the same inputs at the same place is put side by side: *in the run*. In the first run of each batch every
call is moreover asked again, and alone: *again*. Nothing is kept of a run but hashes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from detcheck.bits import furthest, patterns
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import forward, last_logits
from detcheck.errors import FailedError, OutOfMemoryError
from detcheck.hashes import content_hash
from detcheck.models.checkpoint import first_line
from detcheck.probes.bisect import orders
from detcheck.probes.bisect.call import Call, Key
from detcheck.probes.bisect.replay import Tested, TwoArms, forms
from detcheck.probes.bisect.rows import Layout
from detcheck.probes.bisect.trace import Tracer
from detcheck.tensors import integers, out_of_memory

Tokens = Sequence[int]
LONE = "alone"
MOST_EVIDENCE = 64  # of one kind, that is stored


@dataclass(frozen=True)
class Batch:
    """A condition: the rows that are computed together, and which is the prompt."""

    name: str
    rows: tuple[tuple[int, ...], ...]
    slot: int

    @property
    def layout(self) -> Layout:
        return Layout(len(self.rows), self.slot, max(map(len, self.rows)) - len(self.rows[self.slot]))


@dataclass
class Bisection:
    """Runs and what came of them."""

    engine: TransformersEngine
    prompt: tuple[int, ...]
    batches: tuple[Batch, ...]
    decoded: int
    trials: int
    repeats: int
    alone: dict[Key, Call] = field(default_factory=dict)
    seen: dict[Key, dict[int, dict[str, list[int]]]] = field(default_factory=lambda: defaultdict(dict))
    """call -> what went in -> condition -> what came out, a hash each time"""
    tested: dict[str, TwoArms] = field(default_factory=dict)
    logits: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unmatched: Counter[str] = field(default_factory=Counter)
    only_alone: Counter[str] = field(default_factory=Counter)
    calls: dict[Key, Call] = field(default_factory=dict)
    """as they were in a batch"""

    def run(self) -> None:
        for trial in range(self.trials):
            tracer = Tracer(self.engine._model, self.alone or None)
            self._forward(tracer, LONE, (self.prompt,), 0)
            if not trial:
                self.alone = tracer.calls
            self._note(tracer, LONE)
        for batch in self.batches:
            for trial in range(self.trials):
                layout = replace(batch.layout, tokens=len(self.prompt) - self.decoded)
                test = None if trial else TwoArms(layout, self.repeats)
                tracer = Tracer(self.engine._model, self.alone, layout, test)
                self._forward(tracer, batch.name, batch.rows, batch.slot)
                self._note(tracer, batch.name)
                if test:
                    self.tested[batch.name] = test
                    self.unmatched += tracer.unmatched
                    self.calls |= {k: c for k, c in tracer.calls.items() if k not in self.calls}
                    self.only_alone |= Counter(c.op for k, c in self.alone.items() if c.after and k not in tracer.calls)
        orders.data.cache_clear()  # as large as a product's weight

    def _forward(self, tracer: Tracer, name: str, rows: Sequence[Tokens], slot: int) -> Any:
        bits = traced(self.engine, tracer, rows, slot, self.decoded)
        self.logits[name].append(named(bits))
        return bits

    def _note(self, tracer: Tracer, name: str) -> None:
        for key, call in tracer.calls.items():
            if call.before is not None and call.after is not None:
                self.seen[key].setdefault(call.before, {}).setdefault(name, []).append(call.after)

    def control(self) -> dict[str, Any]:
        """One call's last row comes out one ulp off: is that call named, and what becomes of it at the logits?

        And what are the logits without a trace?
        """
        weighed = [k for k, c in self.alone.items() if k[0] == 0 and k[4] and c.after and not c.module]
        if not weighed:
            return {}
        key = weighed[0]
        plain, dtype, _ = last_logits(self.engine, [self.prompt], [0], self.decoded)
        tracer = Tracer(self.engine._model, self.alone, None, nudge=key)
        moved = traced(self.engine, tracer, [self.prompt], 0, self.decoded)
        guilty = [
            (c.order, k)
            for k, c in tracer.calls.items()
            if c.before is not None and c.before == self.alone[k].before and c.after != self.alone[k].after
        ]
        last = self.batches[-1]
        together, _, _ = last_logits(self.engine, last.rows, [last.slot], self.decoded)
        a, b = patterns(plain[0]), patterns(moved)
        return {
            "op": key[3],
            "path": key[1],
            "untraced": {LONE: named(plain[0]), last.name: named(together[0])},
            "named": bool(guilty) and min(guilty)[1] == key,
            "elements": len(a),
            "changed": int((a != b).sum()),
            "max_ulp": furthest(a, b, dtype)[0] if (a != b).any() else 0.0,
        }

    def facts(self) -> dict[str, Any]:
        """All that judging needs, as JSON values."""
        kinds: dict[tuple[str, str], dict[str, Any]] = {}
        places = {key: call for key, call in self.alone.items() if call.after is not None}
        judged = {key for key, found in self.seen.items() if len({c for w in found.values() for c in w}) > 1}
        for key, call in places.items():
            kind = kinds.setdefault((call.op, pattern(call.path)), fresh(call))
            tests = {name: t.tested[key] for name, t in self.tested.items() if key in t.tested}
            kind["calls"] += 1
            kind["compared"] += key in judged or bool(tests)
            kind["tested"] += bool(tests)
            for evidence in self._evidence(key, call, tests):
                kind["guilty"].setdefault(str(call.order), []).append(evidence)
                better = "differing" in kind["first"] or "differing" not in evidence["details"]
                if kind["first"] and (better or kind["first"]["order"] < call.order):
                    continue
                kind["first"] = self._place(key, call) | evidence["details"]
        for kind in kinds.values():
            kind["guilty_calls"] = len(kind["guilty"])
            for _, evidences in kind["guilty"].items():
                for evidence in evidences:
                    evidence.pop("details")
            kind["guilty"] = [e for found in kind["guilty"].values() for e in found]
            kind["guilty"] = sorted(kind["guilty"], key=lambda e: e["order"])[:MOST_EVIDENCE]
        untested: Counter[str] = Counter()
        for test in self.tested.values():
            untested += Counter(test.untested)
        return {
            "batches": [
                {"name": b.name, "rows": b.layout.rows, "slot": b.slot, "padding": b.layout.padding}
                for b in self.batches
            ],
            "tokens": len(self.prompt),
            "decoded": self.decoded,
            "trials": self.trials,
            "repeats": self.repeats,
            "kinds": [kind for kind in kinds.values() if not kind["module"] or kind["guilty"]],
            "untested": dict(untested),
            "only_alone": dict(self.only_alone),
            "only_in_batches": dict(self.unmatched),
            "logits": {"alone": self.logits[LONE], **{b.name: self.logits[b.name] for b in self.batches}},
        }

    def _place(self, key: Key, call: Call) -> dict[str, Any]:
        together = self.calls.get(key, call)
        place = {
            "order": call.order,
            "op": call.op,
            "path": call.path,
            "step": call.step,
            "weight": (key[4] or "").split("[")[0],
        }
        return place | {"inputs": {"alone": forms(call), "batch": forms(together)}}

    def _evidence(self, key: Key, call: Call, tests: dict[str, Tested]) -> list[dict[str, Any]]:
        """Outputs of the same inputs that are not all the same. Bits are numbered: equal numbers are equal bits."""
        found = []
        for name, test in tests.items():
            if test.differs:
                found.append(evidence(call, name, "again", test.alone, test.batch, test.details))
        for together in self.seen[key].values():
            lone = together.get(LONE, [])
            if len(set(lone)) > 1 and len(together) == 1:
                found.append(evidence(call, LONE, "in the run", lone, [], {}))
            for name, outcomes in together.items():
                if name != LONE and len({*lone, *outcomes}) > 1:
                    found.append(evidence(call, name, "in the run", lone, outcomes, {}))
        return found


def named(bits: np.ndarray) -> str:
    return content_hash(bits.tobytes())[:16]


def traced(engine: TransformersEngine, tracer: Tracer, rows: Sequence[Tokens], slot: int, decoded: int) -> np.ndarray:
    """The bit patterns of the logits of that row. Raises OutOfMemoryError, FailedError where an op raised."""
    import torch

    try:
        with tracer.running(), torch.no_grad():
            logits = forward(engine, rows, decoded)[slot]
    except Exception as error:  # the model's code may raise anything
        if not out_of_memory(error):
            if tracer.raised and tracer.raised[0] is error:
                raise FailedError(tracer.raised[1]) from error
            raise
        raise OutOfMemoryError(f"out of memory with {len(rows)} rows under the trace: {first_line(error)}") from None
    return integers(logits).numpy()


def evidence(
    call: Call, condition: str, how: str, alone: list[int], batch: list[int], details: dict[str, Any]
) -> dict[str, Any]:
    numbers = {bits: n for n, bits in enumerate(dict.fromkeys((*alone, *batch)))}
    return {
        "order": call.order,
        "condition": condition,
        "how": how,
        "alone": [numbers[b] for b in alone],
        "batch": [numbers[b] for b in batch],
        "details": details,
    }


def fresh(call: Call) -> dict[str, Any]:
    numbers = {"calls": 0, "compared": 0, "tested": 0, "guilty_calls": 0}
    return {"op": call.op, "pattern": pattern(call.path), "module": call.module, "guilty": {}, "first": {}} | numbers


def pattern(path: str) -> str:
    """A module's path with its numbers left open: model.layers.*.mlp.down_proj."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)
