"""What a bisection saw of every call, as data: an outcome of `bisect` holds this as JSON. Pure; `judge.py` names causes from it.

JSON names are those of version 0.1.0's runs, which are still read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from detcheck.reason import Reason
from detcheck.replay import Difference
from detcheck.summation.tree import Tree

AGAIN, IN_THE_RUN = "again", "in the run"


def arms(alone: Sequence[int], batch: Sequence[int]) -> tuple[bool, bool]:
    """(run, batch): whether equal inputs gave different bits, and whether the batch has other bits than the row alone.

    Where repeats differ, the batch is told from chance only where no bits came on both sides and on each some came again.
    """
    run = len(set(alone)) > 1 or len(set(batch)) > 1
    apart = bool(alone) and bool(batch) and not set(alone) & set(batch)
    again = all(Counter(side).most_common(1)[0][1] > 1 for side in (alone, batch)) if apart else False
    return run, apart and (not run or again)


@dataclass(frozen=True)
class BatchForm:
    """A condition's batch."""

    name: str
    rows: int
    slot: int
    """which row is the prompt's"""
    padding: int


@dataclass(frozen=True)
class TensorForm:
    """A tensor that went into a call."""

    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]
    weight: str = ""
    """name of the parameter that it is; "": none"""


@dataclass(frozen=True)
class Evidence:
    """Results of one call on equal inputs that are not all equal. Bits are numbered: equal numbers are equal bits."""

    order: int
    """of the call, in the order in which calls ended"""
    condition: str
    how: str
    """AGAIN: the call was asked again; IN_THE_RUN: two runs are put side by side"""
    alone: tuple[int, ...]
    batch: tuple[int, ...]

    @property
    def shows(self) -> tuple[bool, bool]:
        return arms(self.alone, self.batch)


@dataclass(frozen=True)
class Site:
    """The first call of a kind that is a cause."""

    order: int
    op: str
    path: str
    """of the module"""
    step: int
    """index of the forward pass: 0 is the prefill"""
    weight: str
    alone: tuple[TensorForm, ...]
    """what went in when the prompt ran alone"""
    batch: tuple[TensorForm, ...]
    source: str = ""
    """file and line of the model's code"""
    difference: Difference | None = None
    starts_at: int | None = None
    """rows from which on the bits are others"""
    starts_by: str = ""
    """where one row is enough: "padding" or "layout" (how the rows lie in memory)"""
    orders: Mapping[str, Tree | str] = field(default_factory=dict)
    """"alone", "batch" -> the order in which it adds. An older run has it in words"""


@dataclass(frozen=True)
class Kind:
    """All calls of one op at one place of the layers."""

    op: str
    pattern: str
    """the module's path, with numbers left open"""
    module: bool
    """whether it is a module that others are called in, or an op is"""
    calls: int
    compared: int
    tested: int
    differing_calls: int
    evidence: tuple[Evidence, ...] = ()
    """the first of it"""
    first: Site | None = None


@dataclass(frozen=True)
class Control:
    """One call's last row, moved by one ulp on purpose: is that call named, and what becomes of it at the logits?"""

    op: str
    path: str
    named: bool
    elements: int
    """logits"""
    changed: int
    max_ulp: float
    untraced: Mapping[str, str]
    """condition -> hash of the logits without a trace"""


@dataclass(frozen=True)
class Followed:
    """What a stored run found to differ, and how much of it is followed."""

    condition: str
    tokens: int
    most: int
    """tokens that are followed at most"""


@dataclass(frozen=True)
class Stage:
    """What is left after some ops are replaced by ours."""

    replaced: tuple[str, ...]
    first: Mapping[str, str | int] | None
    """op, path and step of the first difference; None: there is no cause any more"""
    causes: tuple[str, ...]
    logits_equal: bool


@dataclass(frozen=True)
class Bisected:
    """Of one prompt."""

    batches: tuple[BatchForm, ...]
    tokens: int
    decoded: int
    """of the tokens, those fed one by one"""
    trials: int
    repeats: int
    kinds: tuple[Kind, ...]
    untested: tuple[tuple[Reason, int], ...]
    """why calls were not asked again, and how many"""
    only_alone: Mapping[str, int]
    """op -> calls that the batch has no counterpart of"""
    only_in_batches: Mapping[str, int]
    logits: Mapping[str, tuple[str, ...]]
    """condition -> hashes, a run each"""
    control: Control | None = None
    of_run: Followed | None = None
    stages: tuple[Stage, ...] = ()


def to_json(facts: Bisected) -> str:
    made = asdict(replace(facts, kinds=(), untested=(), stages=()))
    made["kinds"] = [_kind_json(kind) for kind in facts.kinds]
    made["untested"] = [{**reason.to_json(), "calls": n} for reason, n in facts.untested]
    made["stages"] = [stage_json(stage) for stage in facts.stages]
    return json.dumps({name: value for name, value in made.items() if value is not None}, sort_keys=True)


def site_json(site: Site | None) -> dict[str, Any]:
    """As it stands in a run and, with orders in words, in report.json."""
    if site is None:
        return {}
    made = {name: getattr(site, name) for name in ("order", "op", "path", "step", "weight")}
    made["inputs"] = {"alone": [asdict(form) for form in site.alone], "batch": [asdict(form) for form in site.batch]}
    made |= asdict(site.difference) | {"starts_at": site.starts_at} if site.difference else {}
    given = {"source": site.source, "starts_by": site.starts_by}
    return made | {name: value for name, value in given.items() if value}


def stage_json(stage: Stage) -> dict[str, Any]:
    made = asdict(stage)
    return made | {"guilty": made.pop("causes")}


def from_json(text: str) -> Bisected:
    """Also what version 0.1.0 stored: it had reasons and orders of addition in words."""
    stored = json.loads(text)
    untested = stored["untested"]
    if isinstance(untested, Mapping):
        reasons = [(Reason.from_json(why), n) for why, n in untested.items()]
    else:
        reasons = [
            (Reason.from_json({k: v for k, v in each.items() if k != "calls"}), each["calls"]) for each in untested
        ]
    return Bisected(
        tuple(BatchForm(**batch) for batch in stored["batches"]),
        *(stored[name] for name in ("tokens", "decoded", "trials", "repeats")),
        kinds=tuple(map(_kind, stored["kinds"])),
        untested=tuple(reasons),
        only_alone=stored["only_alone"],
        only_in_batches=stored["only_in_batches"],
        logits={name: tuple(hashes) for name, hashes in stored["logits"].items()},
        control=Control(**stored["control"]) if stored.get("control") else None,
        of_run=Followed(**stored["of_run"]) if stored.get("of_run") else None,
        stages=tuple(map(_stage, stored.get("stages") or ())),
    )


def _kind_json(kind: Kind) -> dict[str, Any]:
    made = asdict(replace(kind, first=None))
    first = site_json(kind.first)
    if kind.first and kind.first.orders:
        first["order_of_additions"] = {arm: _tree_json(tree) for arm, tree in kind.first.orders.items()}
    return made | {"guilty": made.pop("evidence"), "guilty_calls": made.pop("differing_calls"), "first": first}


def _kind(stored: Mapping[str, Any]) -> Kind:
    evidence = [
        Evidence(**each | {"alone": tuple(each["alone"]), "batch": tuple(each["batch"])}) for each in stored["guilty"]
    ]
    numbers = {name: stored[name] for name in ("op", "pattern", "module", "calls", "compared", "tested")}
    first = _site(stored["first"]) if stored["first"] else None
    return Kind(**numbers, differing_calls=stored["guilty_calls"], evidence=tuple(evidence), first=first)


def _site(stored: Mapping[str, Any]) -> Site:
    place = {name: stored[name] for name in ("order", "op", "path", "step", "weight")}
    given = {name: stored[name] for name in ("source", "starts_at", "starts_by") if stored.get(name)}
    numbers = ("elements", "differing", "max_ulp", "max_abs")
    difference = Difference(*(stored[name] for name in numbers)) if "differing" in stored else None
    orders = {arm: _tree(tree) for arm, tree in (stored.get("order_of_additions") or {}).items()}
    forms = {arm: tuple(map(_form, stored["inputs"][arm])) for arm in ("alone", "batch")}
    return Site(**place, **forms, **given, difference=difference, orders=orders)


def _form(stored: Mapping[str, Any]) -> TensorForm:
    return TensorForm(tuple(stored["shape"]), stored["dtype"], tuple(stored["strides"]), stored["weight"])


def _stage(stored: Mapping[str, Any]) -> Stage:
    return Stage(tuple(stored["replaced"]), stored["first"], tuple(stored["guilty"]), stored["logits_equal"])


def _tree_json(tree: Tree | str) -> str | dict[str, Any]:
    return tree if isinstance(tree, str) else {"length": tree.length, "children": [list(node) for node in tree.nodes]}


def _tree(stored: str | Mapping[str, Any]) -> Tree | str:
    if isinstance(stored, str):
        return stored
    return Tree(stored["length"], tuple(map(tuple, stored["children"])))
