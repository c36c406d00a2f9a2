"""New weights in a vLLM that runs, by its own calls. Runs in vLLM's process."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

from detcheck.engines.vllm.messages import WeightsRequest

SLEEP = 2  # vLLM's level: the weights are thrown away, as the next ones come from elsewhere


def act(engine: Any, asked: WeightsRequest, empty: Callable[[], None]) -> Any:
    """What came of it. Whatever vLLM raises is raised."""
    if asked.what == "empty":
        return empty()
    if asked.what == "holds":
        found: dict[str, Any] = {}
        for rank, one in enumerate(engine.collective_rpc("detcheck_holds")):
            held = pickle.loads(one)
            found |= held if not rank else {f"{name} (rank {rank})": tensor for name, tensor in held.items()}
        return found
    if asked.what == "sleep":
        return with_sleep(engine, asked)
    return update(engine, asked)


def update(engine: Any, asked: WeightsRequest) -> tuple[int, float]:
    """(bytes that each worker took, seconds of the slowest)."""
    took = engine.collective_rpc("detcheck_update", args=(asked.update,))
    return max(moved for moved, _ in took), max(seconds for _, seconds in took)


def with_sleep(engine: Any, asked: WeightsRequest) -> tuple[int, float]:
    """As training does it on the same device: the engine sleeps, room for weights is made, they come, and the rest wakes up."""
    started = time.perf_counter()
    engine.sleep(SLEEP)
    engine.wake_up(["weights"])
    try:
        moved, _ = update(engine, asked)
    finally:
        engine.wake_up(["kv_cache", "scheduling"])
    return moved, time.perf_counter() - started
