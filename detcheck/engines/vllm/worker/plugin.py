"""vLLM loads this in every process it starts (entry point group `vllm.general_plugins`).

Silent unless DETCHECK_KERNELS asks for batch-invariant kernels; then they are put in before any layer is made. What cannot be
put in ends the process: vLLM only logs a plugin that raises, and would then serve stock kernels under another name.

The same variable serves a server: `DETCHECK_KERNELS=batch-invariant python -m vllm.entrypoints.openai.api_server ...`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections import Counter
from typing import Any

from detcheck.engines.vllm.worker import counters

VARIABLE = "DETCHECK_KERNELS"
calls: Counter[str] = Counter()  # of this process: "ours OP" and "stock OP"
installed = False


def register() -> None:
    """vLLM calls this at least once in each process."""
    global installed
    asked = os.environ.get(VARIABLE, "stock")
    if asked == "stock" or installed:
        return
    if asked != "batch-invariant":
        raise SystemExit(f"detcheck: {VARIABLE}={asked}: use stock or batch-invariant")
    from detcheck.engines.vllm.worker.layers import CannotInstallError, install

    try:
        install(calls)
    except CannotInstallError as error:
        raise SystemExit(f"detcheck: {VARIABLE}={asked}: {error}") from error
    installed = True
    counters.share(counted)


def counted() -> dict[str, int]:
    """Calls in this process so far, ours and stock."""
    from detcheck.engines.vllm.worker.layers import counted as leaf_ops

    return dict(calls) | leaf_ops()


class WorkerExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`), so that each can be asked what ran in it."""

    def detcheck_report(self) -> dict[str, object]:
        import torch

        return {
            "process": os.getpid(),
            "kernels": "batch-invariant" if installed else "stock",
            "calls": counted() if installed else {},
            "threads": torch.get_num_threads(),
        }

    def detcheck_unused_adapters(self) -> list[str]:
        """Modules that an adapter which was loaded has, and this model has no place for."""
        manager = self.model_runner.lora_manager._adapter_manager
        return [name for one in manager.list_adapters().values() for name in one.loras if name not in manager.modules]

    def detcheck_look(self, asked: dict[str, Any]) -> None:
        """From here on the traced request's rows are looked at, module by module; see `trace.Trace.running`."""
        from detcheck.engines.vllm.worker.trace import Trace

        if not hasattr(self, "_detcheck_trace"):
            self._detcheck_trace = Trace(self.model_runner, asked.pop("repeats"))
        asked.pop("repeats", None)
        self._detcheck_looking = contextlib.ExitStack()
        self._detcheck_looking.enter_context(self._detcheck_trace.running(**asked))

    def detcheck_seen(self) -> bytes:
        """What was seen since, pickled: (calls, logits, the row that was kept). Nothing is looked at any more."""
        self._detcheck_looking.close()
        trace = self._detcheck_trace
        return pickle.dumps((trace.calls, trace.logits, trace.kept))

    def detcheck_update(self, asked: dict[str, Any]) -> tuple[int, float]:
        """New weights; see `update.update`."""
        from detcheck.engines.vllm.worker.update import update

        return update(self, **asked)

    def detcheck_holds(self) -> bytes:
        """What the model holds, pickled; see `update.holds`."""
        from detcheck.engines.vllm.worker.update import holds

        return pickle.dumps(holds(self))
