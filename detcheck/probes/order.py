"""In which order does an op add, at each batch size, row, column and thread count? The tree itself, revealed and re-added.

A tree is called sure only where adding in software in its order gives the op's own bits on `COLUMNS` columns of data that cancels,
and where the same data would have told a wrong order from it. See `_reading.py` for how it is read, and FPRev (Xie, Gao, Wang,
Xue, USENIX ATC 2025), whose idea it is.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from detcheck.adders import MANTISSA, Adds, cancelling, readd, rounded, ways
from detcheck.bits import content_hash
from detcheck.engines.checkpoint import full_dtype
from detcheck.environment import observe_environment
from detcheck.errors import FailedError, UsageError
from detcheck.kernels._batches import threads
from detcheck.outcomes import digest_outcome
from detcheck.probes import _user_op
from detcheck.probes._reading import NotASumError, read, through
from detcheck.probes._sums import FORMS, NAMES, WITHOUT_BATCH, OpError, Place, Sums, make, sizes
from detcheck.records import Case, Condition, Kernels, Observation, Outcome, Role, Schedule, Spec, Step, Subject
from detcheck.tree_fold import fold
from detcheck.tree_words import outline, spelled, words
from detcheck.trees import NotATreeError, Tree

COLUMNS = 1024  # of data that the revealed order is re-added on
SCREEN = 64  # of them tell which way of adding is worth trying on all
TOLD = 0.05  # of them, at least, on which a wrong order must show
REPEATS, MORE = 3, 20  # equal calls, and how many where those differed
AT_ONCE = 65  # children of a node, at most: no matrix unit adds more
PLACES = 6  # orders within one call that are revealed
SIZES = (1, 2, 3, 4, 7, 8, 16, 33, 64)
BUNDLED = {"matmul": "linear", "mean": "sum", "attention": "attention", "control": "sum"}


@dataclass(frozen=True)
class Options:
    """The knobs of this probe."""

    op: str = "torch.nn.functional:linear"
    """package.module:function, or a bundled op that adds"""
    form: str | None = None
    """how it is called; None: by its name"""
    shape: tuple[int, ...] | None = None
    threads: tuple[int, ...] | None = None
    """None: torch's own number"""

    DEFAULTS: ClassVar[dict[str, object]] = {"trials": 2, "device": "cpu"}


def form_of(spec: Spec) -> str:
    own: Options = spec.options
    form = own.form or BUNDLED.get(own.op) or NAMES.get(own.op.rpartition(":")[2])
    if form not in FORMS:
        raise UsageError(f"--form {form or ''}: how is {own.op} called? One of {', '.join(FORMS)}")
    return form


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError."""
    own: Options = spec.options
    if ":" in own.op:
        _user_op.check_path(own.op)
    elif own.op not in BUNDLED:
        raise UsageError(f"--op {own.op}: name one of {', '.join(BUNDLED)}, or your own as package.module:function")
    if spec.kernels not in (Kernels.STOCK, Kernels.BATCH_INVARIANT):
        raise UsageError(f"--kernels {spec.kernels}: order takes stock or batch-invariant")
    if spec.trials < 1:
        raise UsageError(f"--trials must be at least 1; got {spec.trials}")
    if own.threads and min(own.threads) < 1:
        raise UsageError("--threads wants whole numbers from 1 up, like 1,2")
    sizes(form_of(spec), own.shape)
    if (full_dtype(spec.dtype) or "float32") not in MANTISSA:
        raise UsageError(f"--dtype {spec.dtype}: order knows {', '.join(MANTISSA)}")


class Order:
    """The probe, opened. `observe` reveals all orders of one call, once."""

    def __init__(self, spec: Spec, planned: Schedule | None = None) -> None:
        """Raises UsageError where there is no such op, FailedError without torch."""
        check(spec)
        try:
            import torch
        except ImportError as error:
            raise FailedError(f"running an op needs torch ({error}): pip install 'detcheck[transformers]'") from None
        own: Options = spec.options
        self._spec, self._form = spec, form_of(spec)
        self._shape = sizes(self._form, own.shape)
        self._dtype = full_dtype(spec.dtype) or "float32"
        self._function = self._found()
        whose = "user" if ":" in own.op else str(spec.kernels)
        case = Case("order", own.op, whose, self._dtype, "x".join(map(str, self._shape)))
        batches = (1,) if self._form in WITHOUT_BATCH else spec.batch_sizes or SIZES
        counts = own.threads or (torch.get_num_threads(),)
        names = [(f"rows-{m}-threads-{t}", m) for m in dict.fromkeys(batches) for t in counts]
        asked = [(name, m, trial) for name, m in names for trial in range(spec.trials)]
        steps = tuple(Step(n, case.input, name, trial, (0,), 0) for n, (name, m, trial) in enumerate(asked))
        environment = observe_environment("cpu")
        self.subject = Subject(
            own.op, self._dtype, {}, (), planned or Schedule(steps), environment, ((case, Role.GATES),)
        )
        self._data: tuple[np.ndarray, np.ndarray] | None = None
        self._expected: dict[tuple[str, object], np.ndarray] = {}

    def _found(self) -> Callable[..., object]:
        path = self._spec.options.op
        if ":" not in path:
            op = importlib.import_module(f"detcheck.kernels.{path}").OP
            found = op.stock if self._spec.kernels is Kernels.STOCK else op.batch_invariant
            if found is None:
                raise UsageError(f"--kernels batch-invariant: {path} has no batch-invariant implementation")
            return found
        module, _, name = path.partition(":")
        found = getattr(_user_op.module(path), name, None)
        if not callable(found):
            raise UsageError(f"--op {path}: {module} has no function {name}")
        over_rows = self._form == "sum" and module in ("torch", "numpy")
        call = (lambda x: found(x, -1)) if over_rows else found
        return (lambda *given: call(*(t.numpy() for t in given))) if module == "numpy" else call

    def close(self) -> None:
        """Nothing runs beside us."""

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """One observation for each order within the call."""
        import torch

        rows, count = (int(word) for word in step.condition.split("-")[1::2])
        case = self.subject.cases[0][0]
        made, observations = [], []
        started = time.perf_counter()
        with threads(count):
            try:
                sums = make(self._form, self._function, self._shape, rows, getattr(torch, self._dtype))
                if self._data is None:
                    self._data = cancelling(COLUMNS, sums.length, self._dtype, self._spec.seed)
                sums.multiply_by(self._data[1])
                sums.base(self._data[0][0])
                repeats = self._repeats(sums)
                everywhere = [Place(tuple(range(sums.rows)), tuple(range(sums.columns)))]
                for n, place in enumerate(self._places(sums) if repeats["distinct"] == 1 else everywhere):
                    before = sums.calls
                    text = json.dumps(self._facts(sums, place, repeats), sort_keys=True)
                    made.append(replace(digest_outcome(text.encode()), text=text))
                    condition = Condition(step.condition, rows, place.rows[0], place.said(), count)
                    measured = ("calls", float(sums.calls - (before if n else 0))), ("op_s", sums.op_s)
                    wall_s = time.perf_counter() - started
                    observations.append(
                        Observation(
                            case,
                            condition,
                            step.trial,
                            step.index,
                            n,
                            made[-1].id,
                            (rows,),
                            wall_s=wall_s,
                            metrics=measured,
                        )
                    )
            except OpError as error:
                condition = Condition(step.condition, rows, 0, "", count)
                missing = f"the op {error}"
                observations.append(
                    Observation(case, condition, step.trial, step.index, len(made), None, (rows,), missing=missing)
                )
        return observations, made

    def _places(self, sums: Sums) -> list[Place]:
        """Outputs that equal data give equal bits: they are taken to be added in one order until re-adding says otherwise."""
        values, factors = self._data
        sums.multiply_by(factors)
        keys: np.ndarray | None = None
        for n in (0, 1):
            sums.base(values[n])
            _, which = np.unique(sums.result().view(np.int64), return_inverse=True)
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

    def _facts(self, sums: Sums, place: Place, repeats: dict[str, int]) -> dict[str, object]:
        """What was seen of one order. Equal facts are one order."""
        values, factors = self._data
        sums.multiply_by(factors)
        came = through(sums, place, values)
        facts: dict[str, object] = dict.fromkeys(("tree", "words", "spelled", "adds_in", "why"), "")
        facts |= {
            "outline": [],
            "sure": False,
            "length": sums.length,
            "children": [],
            "checked": {"columns": 0, "equal": 0},
        }
        facts["bits"] = content_hash(came[0].tobytes())
        facts["repeats"] = repeats if repeats["distinct"] > 1 else self._repeats(sums)
        if facts["repeats"]["distinct"] > 1:
            return facts | {"bits": "", "why": "equal calls gave different bits"}
        try:
            tree, _ = read(sums, place, self._spec.seed)
        except NotASumError as error:
            return facts | {"why": f"it is no plain sum: {error}"}
        except NotATreeError as error:
            return facts | {"why": f"what was read is no order of additions: {error}"}
        if tree.arity > AT_ONCE:
            return facts | {
                "why": f"{tree.arity} summands seem to be added at once, as where an order depends on the data"
            }
        folded = fold(tree)
        facts |= {"tree": tree.hash, "words": words(folded), "spelled": spelled(folded), "outline": outline(folded)}
        facts["children"] = [list(children) for children in tree.nodes]
        return facts | self._checked(tree, sums, place, came, factors if sums.factors is not None else None)

    def _repeats(self, sums: Sums) -> dict[str, int]:
        """Equal calls, on the data that is in place: how many results, and how many calls left the commonest."""
        for times in (REPEATS, MORE):
            results = [sums.result().tobytes() for _ in range(times)]
            distinct = len(set(results))
            if distinct == 1:
                break
        return {"calls": times, "distinct": distinct, "left": times - max(results.count(r) for r in set(results))}

    def _ways(self, tree: Tree, sums: Sums, place: Place, factors: np.ndarray | None) -> Iterator[Adds]:
        """Ways of adding, the plain ones first; then with what is fused looked at summand by summand."""
        found = ways(self._dtype, factors is not None, sums.scale, tree)
        yield from found
        if not any(way.fused for way in found) or tree.length < 2:
            return
        # a * a is inexact. Beside it only its neighbour in the tree is not zero, and takes a off: what is left shows a rounding.
        a = 1 + 2.0 ** -(MANTISSA[self._dtype] // 2)
        values = np.zeros((tree.length, tree.length))
        for leaf in range(tree.length):
            siblings = tree.nodes[tree.parents[leaf] - tree.length]
            values[leaf, leaf] = a
            values[leaf, tree.lows[next(c for c in siblings if c != leaf)]] = -1.0
        sums.multiply_by(a)
        left = through(sums, place, values)[0]
        product = float(rounded(np.array([a * a]), self._dtype)[0])
        unfused = tuple(np.flatnonzero(left == product - a).tolist())
        yield from (replace(way, unfused=unfused) for way in found if way.fused)

    def _checked(
        self, tree: Tree, sums: Sums, place: Place, came: np.ndarray, factors: np.ndarray | None
    ) -> dict[str, object]:
        """The order re-added in software, in every way in which such an op may add, against the op's own bits."""
        values, best = self._data[0], 0
        for way in self._ways(tree, sums, place, factors):
            few = readd(tree, values[:SCREEN], factors, way, self._dtype)
            if not same(few, came[:, :SCREEN]).all():
                continue
            key = tree.hash, way
            if key not in self._expected:
                self._expected[key] = readd(tree, values, factors, way, self._dtype)
            equal = int(same(self._expected[key], came).all(0).sum())
            best = max(best, equal)
            if equal < len(values):
                continue
            adds_in = way.said(tree.arity)
            wrong = [readd(t, values[:SCREEN], factors, way, self._dtype) for t in wrong_orders(tree)]
            told = max((1 - same(w, came[:1, :SCREEN]).mean() for w in wrong), default=0.0)
            if tree.length > 2 and told < TOLD:
                return {
                    "adds_in": adds_in,
                    "why": f"sums in {way.accumulator} are exact on all data that {self._dtype} can hold here: another order would give the same bits",
                }
            return {"adds_in": adds_in, "sure": True, "checked": {"columns": len(values), "equal": equal}}
        return {
            "checked": {"columns": len(values), "equal": best},
            "why": f"the order that masks show ({tree.hash}) is not how it adds: re-adding does not give its bits (a compensated sum, "
            "a wider accumulator, or an order that depends on the data)",
        }


def same(expected: np.ndarray, came: np.ndarray) -> np.ndarray:
    """Whether numbers have equal bits; both are exact in float64."""
    return expected.astype(np.float64).view(np.int64) == came.astype(np.float64).view(np.int64)


def wrong_orders(tree: Tree) -> list[Tree]:
    """Others: from the last summand to the first, and a sequential sum."""
    n = tree.length
    if n < 3:
        return []
    children = {n + k: [c if c >= n else n - 1 - c for c in node] for k, node in enumerate(tree.nodes)}
    sequential = {n + k: [n + k - 1 if k else 0, k + 1] for k in range(n - 1)}
    found = Tree.of(n, children, tree.root), Tree.of(n, sequential, 2 * n - 2)
    return [other for other in found if other != tree]


PROBE = Order
