"""The process that holds vLLM, so that a crash, an out-of-memory kill or a leftover setting of vLLM's is not ours.

`process.py` starts it with one end of a socket, a log for everything vLLM prints, and the environment that an arm needs; what is said
over the socket is in `messages.py`. It ends when the socket closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import fields
from multiprocessing.connection import Connection
from typing import Any

from detcheck.counted import VLLM_NEEDS
from detcheck.engine import Completion, RequestTrace, Row
from detcheck.engines.vllm import lora, weights
from detcheck.engines.vllm.arguments import KEY, BadArgumentError, Settings, engine_arguments
from detcheck.engines.vllm.in_effect import in_effect
from detcheck.engines.vllm.messages import (
    Answer,
    BatchRequest,
    TraceRequest,
    WeightsRequest,
    completion,
    first_line,
    likeliest,
)

SCHEDULERS = {False: "PlannedScheduler", True: "PlannedAsyncScheduler"}
OURS = "detcheck.engines.vllm.worker.scheduler"


class WrongKernelsError(Exception):
    """The kernels that were asked for did not run."""


class CannotLookError(Exception):
    """The modules of this engine's model cannot be looked at."""


class Host:
    def __init__(self, settings: Settings) -> None:
        """Raises BadArgumentError, lora.BadAdapterError, or whatever vLLM dies of."""
        from vllm.v1.engine.llm_engine import LLMEngine

        self._settings = settings
        arguments = engine_arguments(settings)
        config = arguments.create_engine_config()
        config.scheduler_config.scheduler_cls = f"{OURS}.{SCHEDULERS[bool(config.scheduler_config.async_scheduling)]}"
        self._engine = LLMEngine.from_vllm_config(config, disable_log_stats=True)
        self._config = config
        self._names = itertools.count()
        self._calls: dict[int, dict[str, int]] = {}
        self._adapters: Sequence[Any] = [None]
        self._effect: dict[str, str] = {}
        if settings.adapters:
            self._adapters, self._effect = lora.put_on(self._engine, settings.adapters, self._alone)
        self._verify(ran=False)

    def _alone(self, adapter: Any) -> Completion:
        """Of one prompt, computed alone with an adapter or None. Raises RuntimeError where none came."""
        self._adapters = [adapter]
        answer = self._run(BatchRequest((Row(self._settings.prompt),), lora.TOKENS, (), None, cached=False))
        if 0 not in answer.completions:
            raise RuntimeError(f"vLLM did not complete a prompt: {answer.missing.get(0)}")
        return answer.completions[0]

    def facts(self) -> dict[str, Any]:
        return in_effect(self._config, self._reports()[0]["threads"], self._effect)

    def serve(self, request: BatchRequest) -> Answer:
        """All rows, until the last has ended."""
        if not request.goes_on:
            self.empty()
        warming_s = 0.0
        if request.cached and not request.goes_on:
            first = next(row for row in request.rows if row.continuation is None)
            traced = None if request.traced is None else 0  # what it leaves in the cache is part of what is seen
            warming_s = self._run(BatchRequest((first,), 1, (), None, cached=False, traced=traced)).engine_s
        answer = self._run(request)
        answer.engine_s += warming_s
        answer.calls = self._verify(ran=True)
        return answer

    def empty(self) -> None:
        """The prefix cache. Raises RuntimeError."""
        if self._config.cache_config.enable_prefix_caching and not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache between two batches")

    def weights(self, asked: WeightsRequest) -> Any:
        """See `weights.py`."""
        return weights.act(self._engine, asked, self.empty)

    def look(self, asked: TraceRequest) -> Any:
        """What modules did with the traced request's rows: (their calls, logits, a row that was kept).

        Raises CannotLookError.
        """
        if self._config.parallel_config.world_size > 1:
            raise CannotLookError(
                "bisect looks into one process of vLLM's, and this engine has several. Leave out tensor_parallel_size and pipeline_parallel_size"
            )
        if not self._config.model_config.enforce_eager:
            raise CannotLookError("a compiled model calls no modules. Leave out enforce_eager=false")
        how = {f.name: getattr(asked, f.name) for f in fields(asked) if f.name != "request"}
        self._engine.collective_rpc("detcheck_look", args=(how,))
        try:
            answer = self.serve(asked.request)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong is said, not that it went on to
                self._engine.collective_rpc("detcheck_seen")
            raise
        seen = pickle.loads(self._engine.collective_rpc("detcheck_seen")[0])
        if answer.missing:
            raise CannotLookError(next(iter(answer.missing.values())))
        return seen

    def _run(self, request: BatchRequest) -> Answer:
        from vllm import SamplingParams

        answer, slots = Answer(), {}
        for slot, row in enumerate(request.rows):
            filler = row.continuation is not None
            name = str(next(self._names))
            slots[name] = slot
            plan = {
                "row": slot,
                "requests": len(request.rows),
                "arrival": row.arrival,
                "token_budget": request.token_budget,
                "traced": slot == request.traced,
            }
            asked = SamplingParams(
                temperature=row.sampling.temperature if row.sampling else 0.0,
                seed=row.sampling.seed if row.sampling else None,
                **({n: int(v) if n == "top_k" else v for n, v in row.sampling.others} if row.sampling else {}),
                max_tokens=max(1, len(row.continuation)) if filler else request.max_tokens,
                ignore_eos=True,  # vLLM knows no end token of its own here: what ends a sample is said in stop_token_ids
                stop_token_ids=[] if filler else list(request.ends),
                detokenize=False,
                logprobs=None if filler or request.given else 2,
                prompt_logprobs=2 if request.given and not filler else None,
                skip_reading_prefix_cache=not (request.cached or request.goes_on),
                extra_args={KEY: plan},
            )
            self._engine.add_request(
                name, {"prompt_token_ids": list(row.prompt)}, asked, lora_request=self._adapters[row.adapter]
            )
        seen: dict[int, tuple[int, int]] = {}
        while self._engine.has_unfinished_requests():
            started = time.perf_counter()
            outputs = self._engine.step()
            answer.engine_s += time.perf_counter() - started
            for output in outputs:
                if output.finished:
                    self._finish(answer, request, slots[output.request_id], output, seen)
        answer.steps = tuple(seen[step] for step in sorted(seen))
        return answer

    def _finish(
        self, answer: Answer, request: BatchRequest, slot: int, output: Any, seen: dict[int, tuple[int, int]]
    ) -> None:
        of_request = (output.kv_transfer_params or {}).get(KEY)
        if of_request:
            seen.update(
                zip(of_request["steps"], zip(of_request["requests"], of_request["tokens"], strict=True), strict=True)
            )
            sizes = tuple(sorted(set(of_request["requests"])))
            answer.traces[slot] = RequestTrace(
                sizes,
                of_request.get("trace", ""),
                of_request["chunks"],
                of_request["cached"],
                of_request["preemptions"],
                of_request["adapters"],
                of_request["drafted"],
                of_request["accepted"],
            )
        if request.rows[slot].continuation is not None:
            return
        result = output.outputs[0]
        if result.finish_reason not in ("stop", "length"):
            answer.missing[slot] = f"vLLM ended it with finish reason {result.finish_reason!r}"
            return
        tokens, entries, reason = tuple(result.token_ids), result.logprobs or (), result.finish_reason
        if given := request.given:
            tokens, entries, reason = request.rows[slot].prompt[-given:], (output.prompt_logprobs or ())[-given:], ""
            if request.likeliest and len(entries) == len(tokens) and all(entries):
                tokens = likeliest(tokens, entries)
        if len(entries) != len(tokens) or not all(entries):
            answer.missing[slot] = "vLLM returned no log-probability for some of its tokens"
        else:
            answer.completions[slot] = completion(tokens, entries, reason)

    def _reports(self) -> list[dict[str, Any]]:
        try:
            return self._engine.collective_rpc("detcheck_report")
        except (AttributeError, NotImplementedError) as error:
            raise WrongKernelsError(f"a worker of vLLM's could not be asked which kernels it ran: {error}") from error

    def _verify(self, ran: bool) -> dict[str, int]:
        """Calls of every process since the last time. Raises WrongKernelsError where they are not those of the arm."""
        ours = self._settings.kernels == "batch-invariant"
        made: dict[str, int] = {}
        for rank, report in enumerate(self._reports()):
            process = report["process"]
            if report["kernels"] != ("batch-invariant" if ours else "stock"):
                raise WrongKernelsError(
                    f"process {process} of vLLM's has {report['kernels']} kernels, not {self._settings.kernels} ones: the plugin "
                    "detcheck did not load there. Is detcheck installed beside vLLM, and does VLLM_PLUGINS (if set) name it?"
                )
            before = self._calls.get(rank, {})
            new = {name: n - before.get(name, 0) for name, n in report["calls"].items() if n > before.get(name, 0)}
            self._calls[rank] = report["calls"]
            if ours and ran and (lacking := [name.rpartition("::")[2] for name in VLLM_NEEDS if not new.get(name)]):
                raise WrongKernelsError(
                    f"no call of our {' and '.join(lacking)} was counted in process {process} of vLLM's, so the model did not run on "
                    "batch-invariant kernels. Its layers may be of a kind that the plugin does not know (quantized, MLA, Mamba)"
                )
            for name, n in new.items():
                made[name] = made.get(name, 0) + n
        return made

    def close(self) -> None:
        """Gives devices and other nodes back; on the CPU the end of the processes does that."""
        from vllm.platforms import current_platform

        if not current_platform.is_cpu():
            self._engine.engine_core.shutdown()


def die_with_parent() -> None:
    """On Linux the system ends this process when the one that started it is gone, however that one ended."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == 1:
            sys.exit(1)


def main(descriptor: int) -> None:
    die_with_parent()
    channel = Connection(descriptor)
    host: Host | None = None
    try:
        import vllm  # noqa: F401  takes seconds: begun before anything is asked
    except Exception as error:  # noqa: BLE001  an installation can be broken in any way
        traceback.print_exc()
        channel.send(("failed", f"vLLM cannot be imported: {type(error).__name__}: {first_line(error)}"))
        return
    while True:
        try:
            kind, message = channel.recv()
        except EOFError:
            break
        try:
            if kind == "open":
                host = Host(message)
                channel.send(("ready", host.facts()))
            elif kind == "look":
                channel.send(("seen", host.look(message)))
            elif kind == "weights":
                channel.send(("weights", host.weights(message)))
            else:
                channel.send(("served", host.serve(message)))
        except BadArgumentError as error:
            channel.send(("usage", f"--engine-arg: {error}"))
        except lora.BadAdapterError as error:
            channel.send(("usage", f"{error}. {lora.INSTEAD}"))
        except (WrongKernelsError, CannotLookError) as error:
            channel.send(("failed", str(error)))
        except Exception as error:  # noqa: BLE001  whatever vLLM dies of is said to the other side, which goes on without it
            traceback.print_exc()
            channel.send(("failed", f"{type(error).__name__}: {first_line(error)}"))
    if host:
        host.close()
    os._exit(0)  # nothing is left to save, and taking the interpreter down takes seconds
