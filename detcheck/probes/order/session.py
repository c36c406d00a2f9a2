"""In which order does an op add, at each batch size, row, column and thread count? The tree itself, revealed and re-added.

A tree is called sure only where adding in software in its order gives the op's own bits on `COLUMNS` columns of data that cancels,
and where the same data would have told a wrong order from it (`confirm.py`). See `reveal.py` for what is done in one call, `counting.py` for how an order is read,
and FPRev (Xie, Gao, Wang, Xue, USENIX ATC 2025), whose idea it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from detcheck import switch
from detcheck.condition_name import ConditionName, named
from detcheck.dtypes import full_dtype
from detcheck.environment import observe_environment
from detcheck.errors import FailedError
from detcheck.harness import device as _device
from detcheck.harness import user_op
from detcheck.harness.arms import kernel_flags
from detcheck.harness.batches import threads
from detcheck.outcomes import digest_outcome
from detcheck.probes.order import unreadable
from detcheck.probes.order.facts import Place, Revealed
from detcheck.probes.order.forms import WITHOUT_BATCH, sizes
from detcheck.probes.order.ops import bundled, form_of, theirs
from detcheck.probes.order.options import SIZES, check, ops
from detcheck.probes.order.reveal import Revealer
from detcheck.probes.order.sums import OpError, Sums, make
from detcheck.records import Case, Condition, Observation, Outcome, Schedule, Step, Subject
from detcheck.spec import Kernels, Spec
from detcheck.verdict import Role

# Stock first, as what ours is compared with.
SIDES = {Kernels.BOTH: ((Kernels.STOCK, Role.CONTROL), (Kernels.BATCH_INVARIANT, Role.GATES))}


@dataclass(frozen=True)
class OpForm:
    """One op in one form."""

    case: Case
    form: str
    """"": its order cannot be read"""
    shape: tuple[int, ...]
    function: Callable[..., object]


class Order:
    """The probe, opened. `observe` reveals all orders of one call, once."""

    def __init__(self, spec: Spec, planned: Schedule | None = None) -> None:
        """Raises UsageError where there is no such op, FailedError without torch."""
        check(spec)
        try:
            import torch
        except ImportError as error:
            raise FailedError(f"running an op needs torch ({error}): pip install 'detcheck[transformers]'") from None
        self._spec, self._digests, self._device = spec, {}, _device.found(spec.device)
        switch.check(spec.kernels, self._device)
        self._dtype = full_dtype(spec.dtype) or "float32"
        arms = [
            (op, *one) for op in ops(spec.options) for one in SIDES.get(spec.kernels, ((spec.kernels, Role.GATES),))
        ]
        self._arms = [self._arm(op, kernels) for op, kernels, _ in arms]
        counts = dict.fromkeys(spec.options.threads or (torch.get_num_threads(),))
        steps = []
        for n, arm in enumerate(self._arms):
            batches = (1,) if arm.form in WITHOUT_BATCH else spec.batch_sizes or SIZES
            names = [named("rows", m, t) for m in dict.fromkeys(batches) for t in counts]
            asked = [(name, trial) for name in names for trial in range(spec.trials)]
            steps += [
                Step(len(steps) + k, arm.case.input, name, trial, (0,), n) for k, (name, trial) in enumerate(asked)
            ]
        cases = tuple((arm.case, role) for arm, (_, _, role) in zip(self._arms, arms, strict=True))
        schedule = planned or Schedule(tuple(steps))
        environment = observe_environment(self._device, kernel_flags(spec.kernels))
        self.subject = Subject(spec.options.op, self._dtype, self._digests, (), schedule, environment, cases)
        self._revealer = Revealer(self._dtype, spec.seed, spec.options.prove)
        self._asked: OpForm | None = None

    def _arm(self, op: str, kernels: Kernels) -> OpForm:
        own, whose = self._spec.options, "user" if ":" in op else str(kernels)
        if not (form := form_of(op, own.form)):
            return OpForm(Case("order", op, whose, self._dtype, "unread"), "", (), bundled(op, kernels))
        shape = sizes(form, own.shape)
        case = Case("order", op, whose, self._dtype, "x".join(map(str, shape)))
        if ":" not in op:
            return OpForm(case, form, shape, bundled(op, kernels))
        function, digest = theirs(op, form)
        self._digests |= {"module": digest} if digest else {}
        return OpForm(case, form, shape, function)

    def _sums(self, arm: OpForm, rows: int) -> Sums:
        import torch

        fed = self._spec.options.layout or ""
        try:
            return make(arm.form, arm.function, arm.shape, rows, getattr(torch, self._dtype), fed, self._device)
        except (RuntimeError, MemoryError) as error:  # torch's own word for no memory is a RuntimeError
            raise OpError(f"cannot be given {rows} rows here: {user_op.words(error)}") from error

    def close(self) -> None:
        """Nothing to close."""

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """One observation for each order within the call."""
        arm = self._arms[step.case or 0]
        if arm is not self._asked:
            self._revealer.forget()
            self._asked = arm
        call = ConditionName.parse(step.condition)
        rows, count = call.size, call.threads
        made: list[Outcome] = []
        observations: list[Observation] = []
        started = time.perf_counter()

        def seen(place: Place | None, order: Revealed, calls: int, op_s: float) -> None:
            text = json.dumps(order.to_json(), sort_keys=True)
            made.append(replace(digest_outcome(text.encode()), text=text))
            slot, where = (place.rows[0], str(place)) if place else (0, "")
            condition = Condition(step.condition, rows, slot, where, count, fed=self._spec.options.layout or "")
            metrics = ("calls", float(calls)), ("op_s", op_s)
            wall_s = time.perf_counter() - started
            n = len(observations)
            observations.append(
                Observation(
                    arm.case, condition, step.trial, step.index, n, made[-1].id, (rows,), wall_s=wall_s, metrics=metrics
                )
            )

        with threads(count):
            try:
                if not arm.form:
                    why = unreadable.why(
                        arm.case.subject, arm.function, rows, self._dtype, self._spec.seed, self._device
                    )
                    seen(None, Revealed(0, why=why), 0, 0.0)
                    return observations, made
                for found in self._revealer.orders(self._sums(arm, rows)):
                    seen(*found)
            except OpError as error:
                condition = Condition(step.condition, rows, 0, "", count)
                n = len(observations)
                observations.append(
                    Observation(
                        arm.case, condition, step.trial, step.index, n, None, (rows,), missing=f"the op {error}"
                    )
                )
        return observations, made


open_session = Order
