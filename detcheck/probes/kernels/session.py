"""One op, with the same row in batches of every kind: are its bits always the same, is it right, and how fast is it?

The row under test is computed alone, among copies of itself, among other rows, among NaN and infinity, at other thread counts, and
laid out otherwise in memory. Where every row of a batch is a copy every row is observed, so that one wrong row of 257 is seen.
One row is a weak test where it holds few sums: another order often gives the same bits. So several rows take the place of the
row under test in turn, and an outcome is what came of all of them at one slot.
The planted op `control` is always run too: where it shows no difference, the detector is blind here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from detcheck import lookup
from detcheck.condition_name import ConditionName
from detcheck.environment import observe_environment
from detcheck.errors import FailedError, UsageError
from detcheck.harness import device as _device
from detcheck.harness import user_op
from detcheck.harness.arms import kernel_flags
from detcheck.harness.batches import ContractError, alike, form, row_bits, threads
from detcheck.hashes import content_hash, json_hash
from detcheck.outcomes import row_outcome
from detcheck.probes.kernels import options
from detcheck.probes.kernels.arm import TESTED, TESTED_ELEMENTS, Arm, Pool
from detcheck.probes.kernels.measure import errors, exact_of, times
from detcheck.probes.kernels.options import ALL, PLANTED, Options, check, dtypes
from detcheck.probes.kernels.schedule import FED, OTHERS, conditions
from detcheck.records import Case, Condition, NotTried, Observation, Outcome, Schedule, SourceLine, Step, Subject
from detcheck.schedules.batches import THRESHOLDS
from detcheck.spec import Kernels, Spec
from detcheck.verdict import Role

if TYPE_CHECKING:
    import torch

    from detcheck.op import Op

PLANTED_SIZES = (1, 2, 4, 8)  # enough for the control, whatever sizes the question is about
MEMORY_SHARE = 0.5  # of what is free
MEMORY_FACTOR = 8  # estimated bytes that an op needs, per byte of its arguments


class KernelsProbe:
    """The probe, opened: arms and a schedule. `observe` runs one step of it."""

    def __init__(self, spec: Spec, planned: Schedule | None = None) -> None:
        """Raises UsageError where the user's op breaks its contract, FailedError where torch is missing or inputs cannot be made."""
        check(spec)
        try:
            import torch
        except ImportError as error:
            raise FailedError(f"running an op needs torch ({error}): pip install 'detcheck[transformers]'") from None
        self._spec, self._user, self._digests = spec, ":" in spec.options.op, {}
        self._sources: dict[str, SourceLine] = {}
        self._first_calls: dict[Case, tuple[np.ndarray, str]] = {}
        self._device = _device.found(spec.device)
        self._arms = [*self._planted(), *(self._users() if self._user else self._bundled())]
        self._pool: Pool | None = None
        cases = tuple((arm.case, arm.role) for arm in self._arms)
        ours = any(case.kernels == Kernels.BATCH_INVARIANT for case, _ in cases)
        environment = observe_environment(
            self._device, kernel_flags(Kernels.BATCH_INVARIANT if ours else Kernels.STOCK)
        )
        self.subject = Subject(
            spec.options.op, ",".join(dtypes(spec)), self._digests, (), planned or self._schedule(), environment, cases,
            self._sources,
        )  # fmt: skip
        self._threads = torch.get_num_threads()

    def _planted(self) -> list[Arm]:
        if self._spec.options.op == PLANTED:
            return []
        op, dtype = lookup.find("kernels", PLANTED).OP, "float32"
        return [self._arm(op, op.shapes[0], dtype, "stock", Role.PLANTED)]

    def _bundled(self) -> list[Arm]:
        own: Options = self._spec.options
        arms = []
        for op in options.bundled(own.op):
            shapes = own.shapes or (op.shapes[:1] if own.op == ALL else op.shapes)
            both = self._spec.kernels is Kernels.BOTH and op.batch_invariant is not None
            for dtype in dtypes(self._spec):
                for shape in shapes:
                    if both or self._spec.kernels is not Kernels.BATCH_INVARIANT or op.batch_invariant is None:
                        arms.append(self._arm(op, shape, dtype, "stock", Role.CONTROL if both else Role.GATES))
                    if self._spec.kernels is not Kernels.STOCK and op.batch_invariant is not None:
                        arms.append(self._arm(op, shape, dtype, "batch-invariant", Role.GATES))
        return arms

    def _arm(self, op: Op, shape: str, dtype: str, kernels: str, role: Role) -> Arm:
        import torch

        ours = kernels == "batch-invariant"
        # The planted one is about the detector, not the device.
        device = "cpu" if role is Role.PLANTED else self._device
        seed = 0 if role is Role.PLANTED else self._spec.seed
        return Arm(
            Case("kernels", op.name, kernels, dtype, shape),
            role,
            op.batch_invariant if ours else op.stock,
            lambda rows: _device.moved(op.make(shape, rows, getattr(torch, dtype), seed), device),
            op.batched,
            op.stock if ours else None,
            op.reference,
            op.roundings,
        )

    def _users(self) -> list[Arm]:
        import torch

        op = user_op.load(self._spec.options.op)
        if op.digest:
            self._digests["module"] = op.digest
        if place := user_op.begins(op.run):
            self._sources[op.path] = place
        arms, made_of = [], []
        for dtype in dtypes(self._spec):
            made = self._given(op.make(TESTED + OTHERS, getattr(torch, dtype), self._spec.seed))
            made_of += [fingerprint(argument) for argument in made]
            shape = "x".join(map(str, made[op.batched[0]].shape[1:])) or "scalar"
            arms.append(
                Arm(
                    Case("kernels", op.path, "user", dtype, shape),
                    Role.GATES,
                    op.run,
                    self._maker(op, getattr(torch, dtype), made),
                    op.batched,
                    None,
                    op.reference,
                )
            )
            self._try(arms[-1], made)
        self._digests["inputs"] = content_hash(*made_of)
        return arms

    def _maker(
        self, op: user_op.UserOp, dtype: torch.dtype, made: tuple[object, ...]
    ) -> Callable[[int], tuple[object, ...]]:
        """What is there is not made again: a maker that does not read its seed would give other rows, and their bits would be laid to the op."""
        count = len(made[op.batched[0]])
        return lambda rows: made if rows == count else self._given(op.make(rows, dtype, self._spec.seed))

    def _given(self, made: tuple[object, ...]) -> tuple[object, ...]:
        """A user's arguments: where make_inputs made them, unless a device was asked for."""
        return made if self._spec.device == "auto" else _device.moved(made, self._device)

    def _try(self, arm: Arm, made: tuple[object, ...]) -> None:
        """Whether it runs at all, on one row and on three, and its reference too. Raises FailedError in words.

        The first call that is ever made of it is a sample: it may be the one that differs.
        """
        import torch

        try:
            with torch.no_grad():
                lone, batch = (
                    row_bits(self._call(arm.run, form(made, arm.batched, range(rows))), rows) for rows in (1, 3)
                )
                alike(*batch, lone[0][0], lone[1])
                self._first_calls[arm.case] = lone
        except (Exception, SystemExit) as error:  # it is foreign and may raise anything
            raise FailedError(f"--op {arm.case.subject} {trouble(error)}") from error
        exact_of(arm, made, self._call, self._user)

    def _schedule(self) -> Schedule:
        steps: list[Step] = []
        not_tried: dict[NotTried, None] = {}
        for n, arm in enumerate(self._arms):
            asked = PLANTED_SIZES if arm.role is Role.PLANTED else self._spec.batch_sizes or THRESHOLDS
            most = self._max_rows(arm)
            fitting = [size for size in sorted({1, *asked}) if size <= most]
            left_out = [size for size in sorted(set(asked)) if size > most]
            if left_out and self._spec.batch_sizes:
                raise UsageError(
                    f"--batch-sizes: memory is estimated to hold {most} rows of {arm.case.subject} {arm.case.input}; got {left_out[-1]}"
                )
            not_tried |= dict.fromkeys(
                NotTried(f"{named(arm.case)} rows-{s}", f"memory is estimated to hold {most}") for s in left_out
            )
            on_cpu = self._device == "cpu"
            for condition, rows in conditions(fitting, self._spec.seed, arm.role is Role.PLANTED, on_cpu):
                for trial in range(max(self._spec.trials, 2) if arm.role is Role.PLANTED else self._spec.trials):
                    steps.append(Step(len(steps), arm.case.input, condition, trial, rows, n))
            if arm.role is not Role.PLANTED:  # what a large batch, or many calls, left behind in the op shows here
                steps.append(Step(len(steps), arm.case.input, "alone", self._spec.trials, (0,), n))
        if self._spec.options.op == ALL and self._spec.options.shapes is None:
            for op in options.bundled(ALL):
                not_tried |= dict.fromkeys(
                    NotTried(f"{op.name} {shape}", "--op all takes the smallest") for shape in op.shapes[1:]
                )
        return Schedule(tuple(steps), tuple(not_tried))

    def _max_rows(self, arm: Arm) -> int:
        import torch

        made = arm.make(1)
        row_bytes = sum(a.nbytes for n, a in enumerate(made) if n in arm.batched and isinstance(a, torch.Tensor))
        return max(1, int(MEMORY_SHARE * _device.free_bytes(self._device) / (MEMORY_FACTOR * max(row_bytes, 1))))

    def close(self) -> None:
        """Nothing to close."""

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Form the step's batch, run the op on it, and record every copy of the row under test."""
        import torch

        arm = self._arms[step.case]
        pool = self._pool_of(arm)
        asked = ConditionName.parse(step.condition)
        kind, count = asked.kind, asked.threads
        parts, dtype, why, metrics = {}, "", "", ()
        # Each trial begins with another row: an op that differs in every second call would else treat each row alike in all trials.
        turns = [(n + step.trial) % pool.tested for n in range(pool.tested)]
        first = self._first_calls.pop(arm.case, None) if step.condition == "alone" and step.trial == 0 else None
        started = time.perf_counter()
        with torch.no_grad(), threads(count):
            try:
                for tested in turns:
                    kinds = pool.kinds(step.rows, tested)
                    part, dtype = first or row_bits(
                        self._call(arm.run, form(pool.arguments, arm.batched, kinds, FED.get(kind, ""))), len(kinds)
                    )
                    parts[tested], first = part, None
            except (Exception, SystemExit) as error:  # noqa: BLE001  whatever an op dies of, its rows are missing
                why = f"the op {trouble(error)}"
            wall_s = time.perf_counter() - started
            if not why and step.trial == 0 and kind == "mixed" and pool.exact:
                metrics = errors(arm, pool, step.rows, self._call, self._user)
            if not why and step.trial == 0 and kind in ("alone", "rows") and arm.role is Role.GATES:
                metrics = times(arm, form(pool.arguments, arm.batched, step.rows), self._call, self._user, self._device)
        bits = None if why else np.concatenate([parts[tested] for tested in sorted(parts)], axis=1)
        made: dict[bytes, Outcome] = {}
        composition = json_hash(step.rows)[:12]
        observations = []
        for sample, slot in enumerate(slot for slot, k in enumerate(step.rows) if k == 0):
            condition = Condition(
                step.condition, len(step.rows), slot, composition, count or self._threads, FED.get(kind, "")
            )
            found = self._outcome(bits[slot], dtype, made) if bits is not None else None
            place = arm.case, condition, step.trial, step.index, sample
            observations.append(
                Observation(
                    *place,
                    found.id if found else None,
                    (len(step.rows),),
                    wall_s=wall_s,
                    missing=why,
                    metrics=metrics if sample == 0 else (),
                )
            )
        return observations, list(made.values())

    def _call(self, function: Callable[..., torch.Tensor], arguments: Sequence[object]) -> torch.Tensor:
        if not self._user:
            return function(*arguments)
        with user_op.importable():  # it may import when it is called
            return function(*arguments)

    def _outcome(self, row: np.ndarray, dtype: str, made: dict[bytes, Outcome]) -> Outcome:
        key = row.tobytes()
        if key not in made:
            made[key] = row_outcome(row, dtype)
        return made[key]

    def _pool_of(self, arm: Arm) -> Pool:
        """The last is kept, since a case's steps follow each other."""
        key = (arm.case.subject, arm.case.dtype, arm.case.input)
        if self._pool is None or self._pool.key != key:
            self._pool = None
            arguments = arm.make(TESTED + OTHERS)
            elements = sum(size(a) // (len(a) if n in arm.batched else 1) for n, a in enumerate(arguments) if size(a))
            tested = max(1, min(TESTED, TESTED_ELEMENTS // max(elements, 1)))
            self._pool = Pool(key, arguments, tested, exact_of(arm, arguments, self._call, self._user))
        return self._pool


def trouble(error: BaseException) -> str:
    """What an op did wrong, in words that follow its name."""
    return str(error) if isinstance(error, ContractError) else f"raised {user_op.words(error)}"


def size(argument: object) -> int:
    import torch

    return argument.numel() if isinstance(argument, torch.Tensor) else 0


def named(case: Case) -> str:
    return " ".join((case.subject, case.kernels, case.dtype, case.input))


def fingerprint(argument: object) -> bytes:
    import torch

    if not isinstance(argument, torch.Tensor):
        return repr(argument).encode()
    flat = argument.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.dtype != torch.bool else flat.numpy().tobytes()


open_session = KernelsProbe
