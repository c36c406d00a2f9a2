"""What is kept of the observations of a case while they stream by, and what the conditions alone tell. Pure, no torch.

Memory grows with the distinct outcomes and conditions and with the steps of a schedule, not with the observations.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from detcheck.judge import answers
from detcheck.judge.turns import PromptSizes
from detcheck.outcomes import token_key
from detcheck.records import Condition, Observation, Outcome, Step


@dataclass
class OpenBatch:
    """A batch whose samples are still coming."""

    number: int
    outcomes: set[str] = field(default_factory=set)
    as_asked: str | None = None
    """name of its condition, where it was seen at its size"""


@dataclass
class Tally:
    """Counts of one case."""

    by_process: dict[int, dict[Condition, Counter[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )
    """process -> condition -> outcome -> samples"""
    batches: Counter[frozenset[str]] = field(default_factory=Counter)
    """sets of outcomes that were in one batch -> number of such batches"""
    batch_sizes: Counter[int] = field(default_factory=Counter)
    formed: Counter[str] = field(default_factory=Counter)
    """condition name -> batches of it that were seen at the size asked for"""
    observed: Counter[int] = field(default_factory=Counter)
    """step of the schedule -> samples that came"""
    unseen: int = 0
    """samples whose batch could not be seen"""
    missing: Counter[str] = field(default_factory=Counter)
    """reason -> samples"""
    metrics: dict[int | None, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    """batch size -> name -> what was measured"""
    calls: Counter[str] = field(default_factory=Counter)
    """ "ours OP" or "stock OP" -> calls"""
    preemptions: int = 0
    in_flight: int = 0
    """the most requests that were sent to a server at once"""
    speculation: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """condition name -> "drafted" and "accepted" -> tokens; empty where the engine drafts none, or does not tell"""
    resent: int = 0
    """requests that had to be sent again, since the server was busy and said when"""
    doubtful: Counter[str] = field(default_factory=Counter)
    """what a server's answers say of themselves (`answers.COUNTED`) -> answers"""
    traced: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """condition name -> engine steps, and the most requests and tokens in one"""
    broken: Counter[str] = field(default_factory=Counter)
    """outcomes of conversations that broke off -> samples; these are missing, and in none of the other counts"""
    turns: PromptSizes = field(default_factory=PromptSizes)
    """of conversations"""
    unreadable: set[str] = field(default_factory=set)
    """ids of outcomes whose payload is lost: what they held is not known, but that they differ is"""
    _open: dict[tuple[str, int | None], OpenBatch] = field(default_factory=dict)

    def add(self, o: Observation, readable: bool, scheduled: bool) -> None:
        conditions = self.by_process[o.process]  # also where its sample is missing: that it was asked is known
        if o.metrics:
            self._measure(o)
        if o.calls:
            self.calls.update(dict(o.calls))
        self.preemptions += o.preemptions
        if o.batch_sizes and o.condition.batch_size is None:
            seen = self.traced[o.condition.name]
            seen["requests"] = max(seen["requests"], *o.batch_sizes)
        if o.steps:
            seen = self.traced[o.condition.name]
            seen["steps"] += len(o.steps)
            for key, most in zip(("requests", "tokens"), map(max, zip(*o.steps, strict=True)), strict=True):
                seen[key] = max(seen[key], most)
        self.turns.add(o)
        if o.outcome is None or o.missing:
            self.missing[o.missing or "no reason given"] += 1
            if o.outcome and readable:
                self.broken[o.outcome] += 1
            return
        if not readable:
            self.missing["its outcome cannot be read"] += 1
            self.unreadable.add(o.outcome)
            return
        kind = o.condition.name, o.condition.batch_size
        if kind not in self._open or self._open[kind].number != o.batch:
            self._close(kind)
            self._open[kind] = OpenBatch(o.batch)
        batch = self._open[kind]
        batch.outcomes.add(o.outcome)
        conditions[o.condition][o.outcome] += 1
        self.batch_sizes.update(o.batch_sizes)
        if scheduled:
            self.observed[o.batch] += 1
        if not o.batch_sizes:
            self.unseen += 1
        elif o.as_asked or (o.as_asked is None and o.batch_sizes == (o.condition.batch_size,)):
            batch.as_asked = o.condition.name

    def _measure(self, o: Observation) -> None:
        found = dict(o.metrics)
        if "error_allowed" in found:  # of a run before the share was stored
            found.setdefault("error_share", found["error"] / max(found["error_allowed"], 1e-300))
        self.in_flight = max(self.in_flight, int(found.pop("in_flight", 0)))
        self.resent += int(found.pop("resent", 0))
        for name in answers.COUNTED:
            if name in found:
                self.doubtful[name] += int(found.pop(name))
        for name in ("drafted", "accepted"):
            if name in found:
                self.speculation[o.condition.name][name] += int(found.pop(name))
        for name, value in found.items():
            self.metrics[o.condition.batch_size][name].append(value)

    def _close(self, kind: tuple[str, int | None]) -> None:
        if batch := self._open.pop(kind, None):
            self.batches[frozenset(batch.outcomes)] += 1
            if batch.as_asked is not None:
                self.formed[batch.as_asked] += 1

    def close(self) -> None:
        """No more observations come."""
        for kind in list(self._open):
            self._close(kind)

    @property
    def conditions(self) -> dict[Condition, Counter[str]]:
        """Condition -> outcome -> samples, over all processes."""
        together: dict[Condition, Counter[str]] = defaultdict(Counter)
        for conditions in self.by_process.values():
            for condition, found in conditions.items():
                together[condition] += found
        return together

    @property
    def kinds_of_batch(self) -> int:
        return len({(c.batch_size, c.composition) for c in self.conditions})


def absent(steps: Sequence[Step], tally: Tally) -> int:
    """Samples of the schedule that did not come. One that came twice does not stand in for another batch's."""
    return sum(max(step.samples - tally.observed[step.index], 0) for step in steps)


def repeat_arm(tally: Tally) -> bool | None:
    """Whether equal conditions gave different bits; None: nothing was repeated."""
    repeated = [found for c, found in tally.conditions.items() if c.complete and found.total() > 1]
    return any(len(found) > 1 for found in repeated) if repeated else None


def batch_arm(tally: Tally) -> bool | None:
    """Whether conditions that repeat themselves differ within one process; None: fewer than two of them in any."""
    comparable = [found for found in settled(tally) if len(found) > 1]
    return any(len(set(found.values())) > 1 for found in comparable) if comparable else None


def settled(tally: Tally) -> list[dict[Condition, str]]:
    """Per process: conditions of known batch that were seen at least twice in the run, always with the same outcome.

    Apart by process, since a difference between two processes would else be blamed on whatever else changed.
    """
    steady = {
        c: next(iter(found))
        for c, found in tally.conditions.items()
        if c.batch_size is not None and len(found) == 1 and found.total() > 1
    }
    return [{c: steady[c] for c in seen if c in steady} for seen in tally.by_process.values()]


def by_size(tally: Tally) -> dict[str, dict[str, float]]:
    """Per batch size: rows observed, rows that have other bits than the row alone, and the median of what was measured."""
    conditions = tally.conditions
    lone = sum((found for c, found in conditions.items() if c.batch_size == 1), Counter())
    usual = min(
        (lone or sum(conditions.values(), Counter())).items(), key=lambda item: (-item[1], item[0]), default=None
    )
    table: dict[int, dict[str, float]] = {}
    for condition, found in conditions.items():
        if condition.batch_size is not None:
            line = table.setdefault(condition.batch_size, {"rows": 0, "mismatching": 0})
            line["rows"] += found.total()
            line["mismatching"] += found.total() - found[usual[0]]
    for size, measured in tally.metrics.items():
        if size in table:
            table[size] |= {name: median(values) for name, values in measured.items()}
    return {str(size): table[size] for size in sorted(table)}


def first_variant(steps: Sequence[Step] | None, tally: Tally) -> str | None:
    """Name of the first condition, in the order of the schedule or else of size, in which a sample left what the first one gave."""
    order = {step.condition: step.index for step in reversed(steps or ())}
    conditions = tally.conditions
    ranked = sorted(conditions, key=lambda c: (c.name == "cold", order.get(c.name, 0), c.batch_size or 0, c.slot or 0))
    if not ranked:
        return None
    usual = min(conditions[ranked[0]].items(), key=lambda item: (-item[1], item[0]))[0]
    return next((c.name for c in ranked if set(conditions[c]) != {usual}), None)


def count_conditions(
    steps: Sequence[Step] | None, tally: Tally, outcomes: Mapping[str, Outcome]
) -> dict[str, dict[str, int]]:
    """Per condition's name: batches asked and formed, samples, and how many distinct ones came."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for condition, counter in tally.conditions.items():
        found[condition.name] += counter
    if steps is not None:
        asked = Counter(s.condition for s in steps)
    else:  # a file asks for nothing: what it holds was formed, unless it does not tell
        asked = Counter({name: tally.formed[name] or c.total() for name, c in found.items()})
    table = {}
    for name in [*asked, *(n for n in found if n not in asked)]:
        table[name] = {
            "asked": asked[name],
            "formed": min(tally.formed[name], asked[name]),
            "samples": found[name].total(),
            "distinct": len({token_key(outcomes[o]) for o in found[name]}),
            "distinct_bits": len(found[name]),
            **tally.traced.get(name, {}),
        }
    return table
