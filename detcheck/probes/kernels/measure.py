"""How wrong an op is, and how long it takes, beside stock. `call` runs a function on arguments; `foreign`: the op is the user's own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from detcheck.errors import FailedError
from detcheck.harness import accuracy, user_op
from detcheck.harness import device as _device
from detcheck.harness.batches import form
from detcheck.probes.kernels.arm import TESTED, Arm, Pool
from detcheck.probes.kernels.schedule import OTHERS

if TYPE_CHECKING:
    import torch

    Call = Callable[[Callable[..., torch.Tensor], Sequence[object]], torch.Tensor]

TIMED_S, TIMED_LEAST, TIMED_MOST = 0.02, 3, 50  # per size: how long and how often stock and ours take turns


def exact_of(arm: Arm, made: tuple[object, ...], call: Call, foreign: bool) -> tuple[accuracy.Exact, ...]:
    import torch

    def reference(*arguments: object) -> torch.Tensor:
        found = call(arm.reference, arguments)
        if not isinstance(found, torch.Tensor) or not found.ndim or len(found) != TESTED + OTHERS:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise FailedError(
                f"the reference of {arm.case.subject} must return a row for each of {TESTED + OTHERS}; it returned {shape}"
            )
        return found

    if arm.reference is None:
        return ()
    try:
        with torch.no_grad():
            found = [accuracy.Exact.of(reference, made, arm.batched)]
            with contextlib.suppress(*([Exception] if foreign else [])):  # inputs that it was not made for
                found.append(accuracy.Exact.of(reference, accuracy.tail_heavy(made, arm.batched), arm.batched))
            return tuple(found)
    except FailedError:
        raise
    except (Exception, SystemExit) as error:  # it is foreign and may raise anything
        raise FailedError(f"the reference of {arm.case.subject} raised {user_op.words(error)}") from error


def errors(arm: Arm, pool: Pool, rows: tuple[int, ...], call: Call, foreign: bool) -> tuple[tuple[str, float], ...]:
    """A batch of independent rows against float64: also at the slots of the row under test there is another one each."""
    kinds = [slot % TESTED if kind == 0 else TESTED - 1 + kind for slot, kind in enumerate(rows)]
    found, stock = [], []
    for n, exact in enumerate(pool.exact):
        arguments = form(exact.arguments, arm.batched, kinds)
        try:
            output = call(arm.run, arguments)
        except (Exception, SystemExit):
            if n == 0 or not foreign:
                raise
            continue  # a heavy tail is not what it was made for
        if arm.case.kernels == "stock":
            limit = accuracy.PLAINLY_WRONG * exact.scale.expand_as(exact.result)
        else:
            if (n, output.dtype) not in pool.limits:
                pool.limits[n, output.dtype] = limit_of(arm, exact, output.dtype, call, foreign)
            limit, fits = pool.limits[n, output.dtype]
            if n and not fits:
                continue
        found.append(exact.error(output, limit, kinds))
        if arm.stock is not None:
            stock.append(exact.error(arm.stock(*arguments), limit, kinds))
    error, share = map(max, zip(*found, strict=True))
    beside = (("error_stock", max(error for error, _ in stock)),) if stock else ()
    return ("error", error), ("error_share", share), *beside


def limit_of(
    arm: Arm, exact: accuracy.Exact, dtype: torch.dtype, call: Call, foreign: bool
) -> tuple[torch.Tensor, bool]:
    """What is allowed in an output of that dtype, and whether a user's own reference keeps to it in its own dtype."""
    import torch

    if not foreign:
        return exact.allowed(dtype, arm.roundings), True
    try:
        own = call(arm.reference, tuple(map(accuracy.copied, exact.arguments)))
        # What is computed in a half and handed on as float32 has the half's roundings.
        coarser = max(dtype, own.dtype, key=lambda each: torch.finfo(each).eps)
        own = own.to(coarser)
        limit = exact.allowed(coarser, accuracy.roundings(own, exact))
        return limit, exact.error(own, limit, range(len(exact.result)))[1] <= 1
    except Exception:  # noqa: BLE001  a reference need not run in other dtypes than float64
        return exact.allowed(dtype), True


def times(
    arm: Arm, arguments: tuple[object, ...], call: Call, foreign: bool, device: str
) -> tuple[tuple[str, float], ...]:
    """Stock and the op in turns, so that a busy machine slows both.

    On a GPU it is the device that is timed for a bundled op: calls are captured into a graph and replayed, so that launching them is
    not in the figure. An op of a user's may do what cannot be captured, and is called.
    """
    taken: list[list[float]] = [[], []]
    on_gpu = not foreign and any(getattr(each, "is_cuda", False) for each in arguments)  # the planted one is not
    timer = _device.replayed if on_gpu else _device.called
    timers = [
        timer(lambda function=function: call(function, arguments), device) if function else None
        for function in (arm.stock, arm.run)
    ]
    until = time.perf_counter() + TIMED_S
    while len(taken[1]) < TIMED_LEAST or (time.perf_counter() < until and len(taken[1]) < TIMED_MOST):
        for one, found in zip(timers, taken, strict=True):
            if one is not None:
                found.append(one())
    own = ("stock_ms" if arm.case.kernels == "stock" else "ours_ms", median(taken[1]))
    if not taken[0]:
        return (own,)
    return ("stock_ms", median(taken[0])), own, ("ratio", median(taken[1]) / max(median(taken[0]), 1e-9))
