"""In which order does an op add, at each batch size, row, column and thread count? The tree itself, revealed and re-added.

A tree is called sure only where adding in software in its order gives the op's own bits on `COLUMNS` columns of data that cancels,
and where the same data would have told a wrong order from it (`_confirm.py`). See `_reading.py` for how it is read, and FPRev (Xie,
Gao, Wang, Xue, USENIX ATC 2025), whose idea it is.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from detcheck import lookup
from detcheck.adders import MANTISSA, cancelling
from detcheck.bits import content_hash
from detcheck.engines.checkpoint import full_dtype
from detcheck.environment import observe_environment
from detcheck.errors import FailedError, UsageError
from detcheck.kernels._batches import threads
from detcheck.outcomes import digest_outcome
from detcheck.probes import _prove, _user_op
from detcheck.probes._confirm import Confirmation, same
from detcheck.probes._reading import NotASumError, read, through
from detcheck.probes._sums import FORMS, NAMES, WITHOUT_BATCH, OpError, Place, Sums, make, sizes
from detcheck.records import Case, Condition, Kernels, Observation, Outcome, Role, Schedule, Spec, Step, Subject
from detcheck.tree_fold import fold
from detcheck.tree_words import outline, spelled, words
from detcheck.trees import NotATreeError, Tree

COLUMNS = 1024  # of data that the revealed order is re-added on
REPEATS, MORE = 2, 20  # equal calls, and how many where those differed
UNSTEADY = "equal calls gave different bits"
AT_ONCE = 65  # children of a node, at most: no matrix unit adds more
PLACES = 6  # orders within one call that are revealed
SIZES = (1, 2, 3, 4, 7, 8, 16, 33, 64)
LAYOUTS = ("strides", "alignment")
ALL, PLANTED = "all", "control"
BUNDLED = {"matmul": "linear", "mean": "sum", "attention": "attention", PLANTED: "sum"}
# Bundled ops whose order cannot be read, and why.
UNREADABLE = {
    "rmsnorm": "it is a sum of squares behind a square root: no square is negative, so no two summands cancel",
    "softmax": "its denominator is a sum of exponentials: none is negative, so no two summands cancel",
    "log_softmax": "it takes the logarithm of a sum of exponentials: none is negative, so no two summands cancel",
    "silu_mul": "it adds nothing up: each number of its result is made of one number of each argument",
    "gelu_mul": "it adds nothing up: each number of its result is made of one number of each argument",
}


@dataclass(frozen=True)
class Options:
    """The knobs of this probe."""

    op: str = "torch.nn.functional:linear"
    """name of a bundled op, "all", or package.module:function"""
    form: str | None = None
    """how it is called; None: by its name"""
    shape: tuple[int, ...] | None = None
    threads: tuple[int, ...] | None = None
    """None: torch's own number"""
    layout: str | None = None
    """None: tensors as torch makes them; else what is otherwise about them: "strides" or "alignment" """
    prove: bool = False
    """ask about every pair of summands"""

    DEFAULTS: ClassVar[dict[str, object]] = {"trials": 2, "device": "cpu"}


def form_of(op: str, given: str | None) -> str:
    """How the op is called; "" where its order cannot be read."""
    if op in UNREADABLE:
        return ""
    form = given or BUNDLED.get(op) or NAMES.get(op.rpartition(":")[2])
    if form not in FORMS:
        raise UsageError(f"--form {form or ''}: how is {op} called? One of {', '.join(FORMS)}")
    return form


def ops(own: Options) -> tuple[str, ...]:
    """What is asked about. `all` leaves the planted one out."""
    bundled = tuple(name for name in lookup.names("kernels") if name in BUNDLED or name in UNREADABLE)
    return tuple(name for name in bundled if name != PLANTED) if own.op == ALL else (own.op,)


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    if ":" in own.op:
        _user_op.check_path(own.op)
    elif own.op not in (ALL, *BUNDLED, *UNREADABLE):
        known = ", ".join((ALL, *BUNDLED, *UNREADABLE))
        raise UsageError(f"--op {own.op}: name one of {known}, or your own as package.module:function")
    if (own.op == ALL or own.op in UNREADABLE) and (own.shape or own.form):
        raise UsageError(f"--op {own.op}: leave out --shape and --form, which are for one op whose order can be read")
    if spec.kernels not in (Kernels.STOCK, Kernels.BATCH_INVARIANT):
        raise UsageError(f"--kernels {spec.kernels}: order takes stock or batch-invariant")
    if spec.trials < 1:
        raise UsageError(f"--trials must be at least 1; got {spec.trials}")
    if own.layout not in (None, *LAYOUTS):
        raise UsageError(f"--layout {own.layout}: order knows {', '.join(LAYOUTS)}")
    if own.prove and (own.op == ALL or form_of(own.op, own.form) not in _prove.FORMS):
        raise UsageError(
            f"--prove asks about products, of the forms {' and '.join(_prove.FORMS)}. Leave it out with --op {own.op}"
        )
    if own.prove and (full_dtype(spec.dtype) or "float32") not in _prove.DTYPES:
        raise UsageError(f"--prove: {spec.dtype} has no room for the masks; it knows {', '.join(_prove.DTYPES)}")
    if own.threads and min(own.threads) < 1:
        raise UsageError("--threads wants whole numbers from 1 up, like 1,2")
    for op in ops(own):
        if form := form_of(op, own.form):
            sizes(form, own.shape)
    if (full_dtype(spec.dtype) or "float32") not in MANTISSA:
        raise UsageError(f"--dtype {spec.dtype}: order knows {', '.join(MANTISSA)}")


@dataclass(frozen=True)
class Arm:
    """One op in one form."""

    case: Case
    form: str
    """"": its order cannot be read"""
    shape: tuple[int, ...]
    function: Callable[..., object] | None


class Order:
    """The probe, opened. `observe` reveals all orders of one call, once."""

    def __init__(self, spec: Spec, planned: Schedule | None = None) -> None:
        """Raises UsageError where there is no such op, FailedError without torch."""
        check(spec)
        try:
            import torch
        except ImportError as error:
            raise FailedError(f"running an op needs torch ({error}): pip install 'detcheck[transformers]'") from None
        self._spec, self._digests = spec, {}
        self._dtype = full_dtype(spec.dtype) or "float32"
        self._arms = [self._arm(op) for op in ops(spec.options)]
        counts = spec.options.threads or (torch.get_num_threads(),)
        steps = []
        for n, arm in enumerate(self._arms):
            batches = (1,) if arm.form in WITHOUT_BATCH else spec.batch_sizes or SIZES
            names = [f"rows-{m}-threads-{t}" for m in dict.fromkeys(batches) for t in counts]
            asked = [(name, trial) for name in names for trial in range(spec.trials)]
            steps += [
                Step(len(steps) + k, arm.case.input, name, trial, (0,), n) for k, (name, trial) in enumerate(asked)
            ]
        cases = tuple((arm.case, Role.GATES) for arm in self._arms)
        schedule, environment = planned or Schedule(tuple(steps)), observe_environment("cpu")
        self.subject = Subject(spec.options.op, self._dtype, self._digests, (), schedule, environment, cases)
        self._data: dict[int, tuple[np.ndarray, np.ndarray, Confirmation]] = {}
        self._last: dict[int, Tree] = {}
        self._proved: dict[object, dict[str, int]] = {}

    def _arm(self, op: str) -> Arm:
        own, whose = self._spec.options, "user" if ":" in op else str(self._spec.kernels)
        if not (form := form_of(op, own.form)):
            return Arm(Case("order", op, whose, self._dtype, "unread"), "", (), None)
        shape = sizes(form, own.shape)
        case = Case("order", op, whose, self._dtype, "x".join(map(str, shape)))
        return Arm(case, form, shape, self._theirs(op, form) if ":" in op else self._bundled(op))

    def _bundled(self, name: str) -> Callable[..., object]:
        op = lookup.find("kernels", name).OP
        found = op.stock if self._spec.kernels is Kernels.STOCK else op.batch_invariant
        if found is None:
            raise UsageError(f"--kernels batch-invariant: {name} has no batch-invariant implementation")
        return found

    def _theirs(self, path: str, form: str) -> Callable[..., object]:
        """The user's op; its module's source is digested, so that a run that is resumed notices another one."""
        loaded = _user_op.module(path)
        module, _, name = path.partition(":")
        found = getattr(loaded, name, None)
        if not callable(found):
            raise UsageError(f"--op {path}: {module} has no function {name}")
        source = Path(getattr(loaded, "__file__", None) or "")
        if source.is_file():
            self._digests["module"] = content_hash(source.read_bytes())
        over_rows = form == "sum" and module in ("torch", "numpy")
        call = (lambda x: found(x, -1)) if over_rows else found
        return (lambda *given: call(*(t.numpy() for t in given))) if module == "numpy" else call

    def _data_of(self, length: int) -> tuple[np.ndarray, np.ndarray, Confirmation]:
        """Values and factors for sums of that length, and what re-adds them."""
        if length not in self._data:
            values, factors = cancelling(COLUMNS, length, self._dtype, self._spec.seed)
            self._data[length] = values, factors, Confirmation(values, factors, self._dtype)
        return self._data[length]

    def close(self) -> None:
        """Nothing runs beside us."""

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """One observation for each order within the call."""
        arm = self._arms[step.case or 0]
        rows, count = (int(word) for word in step.condition.split("-")[1::2])
        made: list[Outcome] = []
        observations: list[Observation] = []
        started = time.perf_counter()

        def seen(place: Place | None, facts: dict[str, object], calls: int, op_s: float) -> None:
            text = json.dumps(facts, sort_keys=True)
            made.append(replace(digest_outcome(text.encode()), text=text))
            slot, where = (place.rows[0], place.said()) if place else (0, "")
            condition = Condition(step.condition, rows, slot, where, count, fed=self._spec.options.layout or "")
            metrics = ("calls", float(calls)), ("op_s", op_s)
            wall_s = time.perf_counter() - started
            n = len(observations)
            observations.append(
                Observation(
                    arm.case, condition, step.trial, step.index, n, made[-1].id, (rows,), wall_s=wall_s, metrics=metrics
                )
            )

        if not arm.form:
            seen(None, blank(0) | {"why": UNREADABLE[arm.case.subject]}, 0, 0.0)
            return observations, made
        with threads(count):
            try:
                self._reveal(arm, rows, seen)
            except OpError as error:
                condition = Condition(step.condition, rows, 0, "", count)
                n = len(observations)
                observations.append(
                    Observation(
                        arm.case, condition, step.trial, step.index, n, None, (rows,), missing=f"the op {error}"
                    )
                )
        return observations, made

    def _reveal(self, arm: Arm, rows: int, seen: Callable[[Place, dict[str, object], int, float], None]) -> None:
        """Every order within one call. Raises OpError."""
        import torch

        fed = self._spec.options.layout or ""
        sums = make(arm.form, arm.function, arm.shape, rows, getattr(torch, self._dtype), fed)
        values, factors, _ = self._data_of(sums.length)
        sums.multiply_by(factors)
        sums.base(values[0])
        repeats, result = self._repeats(sums)
        if repeats["distinct"] > 1:
            everywhere = Place(tuple(range(sums.rows)), tuple(range(sums.columns)))
            facts = blank(sums.length) | {"repeats": repeats, "why": UNSTEADY}
            seen(everywhere, facts, sums.calls, sums.op_s)
            return
        before = 0
        for place in self._places(sums, result):
            facts = self._facts(sums, place)
            seen(place, facts, sums.calls - before, sums.op_s)
            before = sums.calls

    def _places(self, sums: Sums, first: np.ndarray) -> list[Place]:
        """Outputs that equal data give equal bits: they are taken to be added in one order until re-adding says otherwise.

        `first`: what the first row of the data gave everywhere; the second is asked for here.
        """
        sums.base(self._data_of(sums.length)[0][1])
        keys: np.ndarray | None = None
        for result in (first, sums.result()):
            _, which = np.unique(result.view(np.int64), return_inverse=True)
            which = which.reshape(sums.rows, sums.columns)
            keys = which if keys is None else keys * (1 + which.max()) + which
        places = []
        for key in dict.fromkeys(keys.ravel().tolist()):
            at = keys == key
            row = int(np.flatnonzero(at.any(1))[0])
            columns = np.flatnonzero(at[row])
            alike = [r for r in np.flatnonzero(at.any(1)) if at[r, columns].all()]
            places.append(Place(tuple(map(int, alike)), tuple(map(int, columns))))
        if len(places) > PLACES:
            raise OpError(
                f"adds in more than {PLACES} orders within one call of {sums.rows} rows, or in none that stays"
            )
        return places

    def _facts(self, sums: Sums, place: Place) -> dict[str, object]:
        """What was seen of one order. Equal facts are one order."""
        values, factors, confirmation = self._data_of(sums.length)
        sums.multiply_by(factors)
        came = through(sums, place, values)
        facts = blank(sums.length)
        slots = sums.slots_of(place)[: (len(values) - 1) % len(sums.slots_of(place)) + 1]  # those of the last call
        if not same(sums.of(place, sums.result(), slots), came[:, -len(slots) :]).all():
            repeats, _ = self._repeats(sums)
            seen = {"distinct": max(2, repeats["distinct"]), "left": max(1, repeats["left"])}
            return facts | {"repeats": repeats | seen, "why": UNSTEADY}
        facts["bits"] = content_hash(came[0].tobytes())
        try:
            tree, _ = read(sums, place, self._spec.seed, self._last.get(sums.length))
        except NotASumError as error:
            return facts | {"why": f"it is no plain sum: {error}"}
        except NotATreeError as error:
            return facts | {"why": f"what was read is no order of additions: {error}"}
        if tree.arity > AT_ONCE:
            return facts | {
                "why": f"{tree.arity} summands seem to be added at once, as where an order depends on the data"
            }
        self._last[sums.length] = tree
        facts |= told(tree)
        facts |= confirmation.checked(tree, sums, place, came)
        if self._spec.options.prove and facts["sure"]:
            import torch

            key = tree.hash, place, sums.rows, torch.get_num_threads()
            if key not in self._proved:  # equal conditions were asked already: what is revealed again is the order
                self._proved[key] = _prove.prove(sums, place, tree)
            facts["proved"] = self._proved[key]
            if wrong := facts["proved"]["unlike"]:
                why = f"of {facts['proved']['pairs']} pairs of summands {wrong} do not meet where it says"
                facts |= {"sure": False, "why": why}
        return facts

    def _repeats(self, sums: Sums) -> tuple[dict[str, int], np.ndarray]:
        """Equal calls, on the data that is in place: how many results, how many calls left the commonest; and the last result."""
        for times in (REPEATS, MORE):
            results = [sums.result() for _ in range(times)]
            each = [result.tobytes() for result in results]
            distinct = len(set(each))
            if distinct == 1:
                break
        return {"calls": times, "distinct": distinct, "left": times - max(map(each.count, set(each)))}, results[-1]


@functools.lru_cache(maxsize=64)
def told(tree: Tree) -> dict[str, object]:
    """Facts of a tree: mostly it is that of the condition before."""
    folded = fold(tree)
    said = {"tree": tree.hash, "words": words(folded), "spelled": spelled(folded), "outline": outline(folded)}
    return said | {"children": [list(children) for children in tree.nodes]}


def blank(length: int) -> dict[str, object]:
    """Facts of an order of which nothing is known yet."""
    facts: dict[str, object] = dict.fromkeys(("tree", "words", "spelled", "adds_in", "why", "bits"), "")
    facts |= {"outline": [], "sure": False, "length": length, "children": [], "checked": {"columns": 0, "equal": 0}}
    return facts | {"repeats": {"calls": 0, "distinct": 1, "left": 0}}


PROBE = Order
