"""One matrix product of the same inputs, many times: are its bits always equal?

It asks about the run alone, as the question was put: nothing is computed beside it and nothing is varied, so `identical` says nothing
about other batches. `detcheck kernels --op matmul` asks about those.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from detcheck.dtypes import full_dtype
from detcheck.environment import observe_environment
from detcheck.errors import FailedError
from detcheck.harness import device as _device
from detcheck.harness.batches import row_bits
from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.models.checkpoint import first_line
from detcheck.outcomes import digest_outcome, row_outcome
from detcheck.probes.matmul.options import check
from detcheck.records import Case, Condition, Observation, Outcome, Schedule, Step, Subject
from detcheck.spec import Kernels, Spec
from detcheck.tensors import out_of_memory
from detcheck.verdict import Role

if TYPE_CHECKING:
    import torch

CONDITION = "repeat"
STORED = 1 << 16  # elements of a product whose bits are stored; of a larger one the digest is


class Matmul:
    """The probe, opened: two matrices. `observe` multiplies them once more."""

    def __init__(self, spec: Spec, planned: Schedule | None = None) -> None:
        """Raises UsageError where there is no such device, FailedError without torch or memory."""
        check(spec)
        try:
            import torch
        except ImportError as error:
            raise FailedError(f"a product needs torch ({error}): pip install 'detcheck[transformers]'") from None
        device = _device.found(spec.device)
        m, n, k = spec.options.shape
        dtype = full_dtype(spec.dtype) or "float32"
        case = Case("matmul", "matmul", Kernels.STOCK, dtype, f"{m}x{n}x{k}")
        generator = torch.Generator().manual_seed(spec.seed)
        try:
            made = [torch.randn(rows, columns, generator=generator) for rows, columns in ((m, k), (k, n))]
            self._a, self._b = (matrix.to(device, getattr(torch, dtype)) for matrix in made)
        except (RuntimeError, MemoryError) as error:
            raise FailedError(f"cannot make matrices of {m},{n},{k} on {device}: {first_line(error)}") from None
        steps = tuple(Step(trial, case.input, CONDITION, trial, (0,), 0) for trial in range(spec.trials))
        environment = observe_environment(device)
        cases = ((case, Role.GATES),)
        self.subject = Subject("matmul", dtype, {}, (), planned or Schedule(steps), environment, cases)
        # Compared where it is: one that is equal to the first is neither copied to the host nor hashed.
        self._first: tuple[torch.Tensor, Outcome] | None = None
        self._condition = Condition(CONDITION, 1, 0, f"seed {spec.seed}", environment.threads)

    def close(self) -> None:
        """Nothing to close."""

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Multiply once. Raises FailedError where it cannot be done: it could not be done the next time either."""
        case = self.subject.cases[0][0]
        started = time.perf_counter()
        try:
            product = self._a @ self._b
            again = self._first is not None and bits_equal(product, self._first[0])
            found = self._first[1] if again else self._outcome(product)
        except (RuntimeError, MemoryError) as error:
            what = "out of memory" if out_of_memory(error) else first_line(error)
            raise FailedError(f"the product of {case.input} in {case.dtype} cannot be made: {what}") from None
        self._first = self._first or (product.clone(), found)  # the next product may be written into its memory
        wall_s = time.perf_counter() - started
        return [Observation(case, self._condition, step.trial, step.index, 0, found.id, (1,), wall_s=wall_s)], [found]

    def _outcome(self, product: torch.Tensor) -> Outcome:
        (row,), dtype = row_bits(product.reshape(1, -1), 1)
        return row_outcome(row, dtype) if len(row) <= STORED else digest_outcome(dtype.encode(), row.tobytes())


open_session = Matmul
