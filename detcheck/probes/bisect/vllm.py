"""A prompt looked at in vLLM, alone and in batches, module by module: what was seen, and nothing about causes.

The facts are those of `transformers.py`, with innermost modules in the place of ops. What two runs did with equal rows at the same
place is put side by side, row by row: vLLM may compute them in other steps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detcheck.bits import furthest, patterns
from detcheck.engine import Row
from detcheck.engines.vllm.calls import Call
from detcheck.engines.vllm.engine import VllmEngine
from detcheck.engines.vllm.messages import Look, Request
from detcheck.errors import FailedError
from detcheck.probes.bisect.judge import arms
from detcheck.probes.bisect.transformers import LONE, MOST_EVIDENCE, named, pattern

OP = "vllm::"


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
    def request(self) -> Request:
        return Request(self.rows, self.max_tokens, (), self.token_budget, self.cached, self.slot)


@dataclass
class VllmBisection:
    """Runs and what came of them."""

    engine: VllmEngine
    lone: Wave
    batches: tuple[Wave, ...]
    trials: int
    repeats: int
    alone: list[Call] = field(default_factory=list)
    """of the first lone run"""
    rows: dict[tuple[str, int, int], dict[int, dict[str, list[int]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    )
    """(path, visit, position) -> what went in -> condition -> what came out, a hash each time"""
    tested: dict[str, list[Call]] = field(default_factory=dict)
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

    def _look(self, wave: Wave, lone: bool, test: bool = False) -> tuple[list[Call], np.ndarray]:
        calls, logits = self._seen(wave, lone, test)
        self.logits[wave.name].append(named(np.concatenate(logits)))
        for place, (before, after) in by_row(calls).items():
            if before is not None and after is not None:
                self.rows[place][before][wave.name].append(after)
        return calls, logits[0]

    def _seen(
        self, wave: Wave, lone: bool, test: bool = False, nudge: str | None = None, only_logits: bool = False
    ) -> tuple[list[Call], list[np.ndarray]]:
        asked = Look(wave.request, lone, test, nudge, only_logits=only_logits, repeats=self.repeats)
        calls, logits, _ = self.engine.look(asked)
        made = [logits[at] for at in sorted(logits) if at >= len(self.lone.rows[0].prompt) - 1]  # not those of chunks
        if not made:
            raise FailedError(f"{self.engine.name} has no LogitsProcessor, so that its logits cannot be followed")
        return calls, made

    def control(self) -> dict[str, Any]:
        """One module's last row comes out one ulp off: is that call named, and what becomes of it at the logits?

        And what are the logits where no module is looked at?
        """
        weighed = next((c for c in self.alone if c.inner and None not in c.after and "Linear" in c.op), None)
        if weighed is None:
            return {}
        calls, logits = self._seen(self.lone, lone=True, nudge=weighed.path)
        known, orders = by_row(self.alone), {(c.path, c.visit, at): c.order for c in calls for at in c.positions}
        guilty = [
            (orders[place], place[0])
            for place, (before, after) in by_row(calls).items()
            if None not in (before, after) and known[place][0] == before and known[place][1] not in (None, after)
        ]
        a, b = patterns(self.last), patterns(logits[0])
        untraced = {w.name: self._seen(w, True, only_logits=True)[1] for w in (self.lone, self.batches[-1])}
        return {
            "op": OP + weighed.op,
            "path": weighed.path,
            "untraced": {name: named(np.concatenate(logits)) for name, logits in untraced.items()},
            "named": bool(guilty) and min(guilty)[1] == weighed.path,
            "elements": len(a),
            "changed": int((a != b).sum()),
            "max_ulp": furthest(a, b, "float32")[0] if (a != b).any() else 0.0,
        }

    def facts(self) -> dict[str, Any]:
        """All that judging needs, as JSON values."""
        kinds: dict[tuple[str, str], dict[str, Any]] = {}
        untested: Counter[str] = Counter()
        tests: dict[tuple[str, int, int], list[tuple[str, Call]]] = defaultdict(list)
        lone = {(c.path, c.visit, at): c for c in self.alone for at in c.positions}
        others: Counter[str] = Counter()
        for name, calls in self.tested.items():
            for call in calls:
                untested[call.untested] += bool(call.untested)
                counterpart = next((k for at in call.positions if (k := (call.path, call.visit, at)) in lone), None)
                if counterpart is None:
                    others[call.op] += 1
                elif call.batch:
                    tests[counterpart].append((name, call))
        for call in self.alone:
            op = f"{OP}{call.op}" if call.inner else f"module {call.op}"
            kind = kinds.setdefault((op, pattern(call.path)), fresh(op, call))
            places = [(call.path, call.visit, at) for at in call.positions]
            asked = [test for place in places for test in tests[place]]
            kind["calls"] += 1
            kind["tested"] += bool(asked)
            kind["compared"] += bool(asked) or any(len(w) > 1 for p in places for w in self.rows[p].values())
            for evidence, seen in self._evidence(call, places, asked):
                kind["guilty"].append(evidence)
                details = seen.details if seen else {}
                first = kind["first"]
                if not first or ("differing" in details and "differing" not in first):
                    kind["first"] = place_of(op, call, seen) | details
        for kind in kinds.values():
            shown = next((e for e in kind["guilty"] if "at" in e), None)
            if shown and "differing" not in kind["first"]:
                kind["first"] |= self._apart(shown)
            for each in kind["guilty"]:
                each.pop("at", None)
            kind["guilty_calls"] = len({e["order"] for e in kind["guilty"]})
            kind["guilty"] = sorted(kind["guilty"], key=lambda e: e["order"])[:MOST_EVIDENCE]
        return {
            "batches": [{"name": w.name, "rows": len(w.rows), "slot": w.slot, "padding": 0} for w in self.batches],
            "tokens": len(self.lone.rows[0].prompt),
            "decoded": self.lone.max_tokens - 1,
            "trials": self.trials,
            "repeats": self.repeats,
            "kinds": [kind for kind in kinds.values() if not kind["module"] or kind["guilty"]],
            "untested": {why: n for why, n in untested.items() if why},
            "only_alone": {},
            "only_in_batches": dict(others),
            "logits": dict(self.logits),
        }

    def _evidence(
        self, call: Call, places: Sequence[tuple[str, int, int]], asked: Sequence[tuple[str, Call]]
    ) -> list[tuple[dict[str, Any], Call | None]]:
        """Outputs of the same inputs that are not all the same: of both arms, and the first row that shows it in each condition."""
        found: list[tuple[dict[str, Any], Call | None]] = [
            (evidence(call, name, "again", seen.alone, seen.batch), seen)
            for name, seen in asked
            if len({*seen.alone, *seen.batch}) > 1
        ]
        shown: set[str] = set()
        for place in places:
            for together in self.rows[place].values():
                lone = together.get(LONE, [])
                for name, came in together.items():
                    alone, batch = (lone, came) if name != LONE else (lone, [])
                    if name not in shown and any(arms(alone, batch)):
                        shown.add(name)
                        seen = next((s for n, s in asked if n == name), None)
                        found.append((evidence(call, name, "in the run", alone, batch) | {"at": place}, seen))
        return found

    def _apart(self, shown: dict[str, Any]) -> dict[str, Any]:
        """How far a row is from its own in another run: both run again, and the row is kept this time."""
        waves = [self.lone, next((w for w in self.batches if w.name == shown["condition"]), self.lone)]
        kept = [self.engine.look(Look(w.request, n == 0, keep=shown["at"]))[2] for n, w in enumerate(waves)]
        if None in kept or not (kept[0][0] != kept[1][0]).any():
            return {}  # noise, and this time there was none
        (a, dtype), (b, _) = kept
        ulp, absolute = furthest(patterns(a), patterns(b), dtype) if a.dtype.itemsize > 1 else (None, None)
        return {"elements": a.size, "differing": int((a != b).sum()), "max_ulp": ulp, "max_abs": absolute}


def by_row(calls: Sequence[Call]) -> dict[tuple[str, int, int], tuple[int | None, int | None]]:
    """(path, visit, position) -> hashes of what went in and came out, the last time where a row was computed again."""
    rows = {}
    for c in calls:
        rows |= {(c.path, c.visit, at): pair for at, *pair in zip(c.positions, c.before, c.after, strict=True)}
    return rows


def evidence(call: Call, condition: str, how: str, alone: Sequence[int], batch: Sequence[int]) -> dict[str, Any]:
    """Bits are numbered: equal numbers are equal bits."""
    numbers = {bits: n for n, bits in enumerate(dict.fromkeys((*alone, *batch)))}
    arms_of = {"alone": [numbers[b] for b in alone], "batch": [numbers[b] for b in batch]}
    return {"order": call.order, "condition": condition, "how": how} | arms_of


def fresh(op: str, call: Call) -> dict[str, Any]:
    numbers = {"calls": 0, "compared": 0, "tested": 0, "guilty_calls": 0}
    return {"op": op, "pattern": pattern(call.path), "module": not call.inner, "guilty": [], "first": {}} | numbers


def place_of(op: str, call: Call, seen: Call | None) -> dict[str, Any]:
    inputs = {"alone": call.forms, "batch": (seen or call).forms}
    about = {"order": call.order, "op": op, "path": call.path, "step": call.step, "weight": "", "inputs": inputs}
    return about | ({"source": seen.source} if seen and seen.source else {})
