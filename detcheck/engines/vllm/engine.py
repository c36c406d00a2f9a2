"""vLLM, in a process of its own for each arm: requests by token ids, arrivals counted in engine steps, evidence of every step.

An arm's process starts with the environment that its kernels need and nothing left over from another; what it prints goes to
a log. Where it dies, by a signal or when memory runs out, this process goes on and judges what was observed. On the CPU vLLM
runs inside that one process (its own multiprocessing takes longer to start); VLLM_ENABLE_V1_MULTIPROCESSING=1, or engine
arguments for several devices, give it more of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from detcheck.engine import Completion, Decoded, Row
from detcheck.engines.transformers.adapter import TOKENS
from detcheck.engines.vllm import adapter, install
from detcheck.engines.vllm.arguments import Settings
from detcheck.engines.vllm.calls import ModuleTrace
from detcheck.engines.vllm.messages import Answer, BatchRequest, TraceRequest, WeightsRequest
from detcheck.engines.vllm.process import Process
from detcheck.errors import FailedError, UsageError
from detcheck.machine import free_memory
from detcheck.models.adapter import Adapter, digests_of
from detcheck.models.checkpoint import Checkpoint
from detcheck.spec import Kernels

COMPILING = {"compilation_config", "optimization_level"}
CPU_DEFAULTS = {
    "enforce_eager": True,  # compiling takes half a minute and more
    "max_num_batched_tokens": 8192,  # so that waves of prompts are together in the engine after a few steps
    "max_num_seqs": 256,
}
WHOLE = {
    "enable_chunked_prefill": False
}  # vLLM 0.32 on the CPU dies of a seeded prompt that it cuts ("CPU Generator does not use offset")
CACHE_SHARE, CACHE_GIB = 0.25, (1, 16)  # of the free memory that the KV cache takes on a CPU, and between which bounds


class VllmEngine(Checkpoint):
    """See `engine.Engine`."""

    schedules_itself = True

    def __init__(
        self,
        model: str | None,
        dtype: str | None = None,
        device: str = "auto",
        trust_remote_code: bool = False,
        arguments: Sequence[str] = (),
        kernels: Kernels = Kernels.STOCK,
        looked_into: bool = False,
        adapted: Adapter | None = None,
        others: Sequence[Adapter | None] = (),
        seeded: bool = False,
    ) -> None:
        """`arguments`: "key=value" each, for vLLM. `kernels`: the arm that will run first. `looked_into`: modules will be traced, as bisect does.
        `adapted`: what samples are computed with; `others`: what requests beside them may have instead. `seeded`: tokens are drawn.

        Raises UsageError for what can be seen without the weights, FailedError where vLLM is missing, too old or not for here.
        """
        install.check()
        self._arguments = tuple(split(argument) for argument in arguments)
        self._on_cpu = on_cpu(device)
        if kernels is Kernels.ENGINE and self._on_cpu:
            raise UsageError(
                "--kernels engine: vLLM's own batch-invariant mode (VLLM_BATCH_INVARIANT=1) needs a GPU; on the CPU it fails while it "
                "registers Triton kernels. Use --kernels batch-invariant for detcheck's kernels, or both"
            )
        self._host: Process | None = None
        self._facts: dict[str, Any] = {}
        self._longest = 0
        self._calls: list[tuple[str, int]] = []
        self.engine_s = 0.0
        """seconds that the last batch spent in vLLM's own steps"""
        # Begun now, since importing vLLM takes seconds: meanwhile config and tokenizer are read here.
        self._looked_into, self._seeded = looked_into, seeded
        self._host = self._process("stock" if kernels is Kernels.BOTH else str(kernels))
        try:
            super().__init__(model, dtype, trust_remote_code)
            self._adapters = (adapted, *others) if adapted or others else ()
            self._adapted = adapter.check(self, self._adapters)
            self.digests = {**self.digests, **digests_of(adapted, others)}
        except BaseException:
            self.close()
            raise

    def _process(self, kernels: str) -> Process:
        return Process(kernels, self._on_cpu, self._looked_into, eager(self._arguments))

    def load(self, longest: int = 0) -> None:
        self._longest = longest
        if not self._facts:
            self._facts = self._open()
            if any(name.replace("-", "_") == "max_model_len" for name, _ in self._arguments):
                self.context = min(self.context, self._facts["context"])

    def _open(self) -> dict[str, Any]:
        own = str(self._config.get_text_config().dtype or "auto").removeprefix("torch.")
        # vLLM's "auto" would take half precision for a model in float32.
        defaults: dict[str, Any] = {"dtype": self._dtype or own, "seed": 0, "enable_prefix_caching": True}
        if self._trust:
            defaults["trust_remote_code"] = True
        if self._longest:
            defaults["max_model_len"] = min(self.context, self._longest)
        if self._on_cpu:
            defaults |= CPU_DEFAULTS | (WHOLE if self._seeded else {})
            if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
                defaults["kv_cache_memory_bytes"] = cache_bytes()
        kernels = self._host.kernels
        if kernels == "batch-invariant":
            defaults["enforce_eager"] = True  # a compiled graph would fuse around our kernels
        ordinary = tuple(self.ordinary_tokens()[-TOKENS:].tolist())
        defaults |= adapter.room(self._adapters)
        named = tuple(one and (one.named, str(one.folder)) for one in self._adapters)
        settings = Settings(str(self.folder), kernels, defaults, self._arguments, named, ordinary)
        try:
            return self._host.ask("open", settings)
        except FailedError as error:
            self.close()
            raise FailedError(f"vLLM does not start with {self.name}: {error}") from None
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def running(self, kernels: str) -> Iterator[list[tuple[str, int]]]:
        if self._host is None or self._host.kernels != kernels:
            self.close()
            self._host = self._process(kernels)
            self._facts = self._open()
        self._calls = []
        yield self._calls

    def complete(
        self,
        rows: Sequence[Row],
        max_tokens: int,
        ignore_eos: bool,
        token_budget: int | None = None,
        cached: bool = False,
        goes_on: bool = False,
    ) -> Decoded:
        """See `engine.Engine`. `goes_on`: the prefix cache is left as it is, and read."""
        ends = () if ignore_eos else tuple(sorted(self.ends))
        return self._serve(BatchRequest(tuple(rows), max_tokens, ends, token_budget, cached, goes_on=goes_on))

    def score(self, rows: Sequence[Row], given: int, token_budget: int | None = None) -> Decoded:
        """As `complete`, for the last `given` tokens of each sample's prompt: vLLM never takes their log-probabilities from the prefix cache."""
        return self._serve(BatchRequest(tuple(rows), 1, (), token_budget, cached=False, given=given))

    def prefill(self, row: Row, made: Completion) -> Decoded:
        whole, count = replace(row, prompt=row.prompt + made.tokens, sampling=None), len(made.tokens)
        asked = BatchRequest((whole,), 1, (), None, cached=False, given=count, likeliest=row.sampling is None)
        again = self._serve(asked)
        found = {slot: replace(one, finish_reason=made.finish_reason) for slot, one in again.completions.items()}
        return replace(again, completions=found)

    def _serve(self, request: BatchRequest) -> Decoded:
        try:
            answer: Answer = self._host.ask("serve", request)
        except FailedError:
            self.close()
            raise
        self._calls += sorted(answer.calls.items())
        self.engine_s = answer.engine_s
        sizes = tuple(sorted({size for trace in answer.traces.values() for size in trace.batch_sizes}))
        samples = [trace for slot, trace in answer.traces.items() if request.rows[slot].continuation is None]
        drafted = (sum(t.drafted for t in samples), sum(t.accepted for t in samples)) if self._facts["drafts"] else None
        return Decoded(answer.completions, sizes, answer.traces, answer.steps, answer.missing, drafted)

    def look(self, asked: TraceRequest) -> tuple[list[ModuleTrace], dict[int, Any], Any]:
        """What every module did with the rows of one request (see `worker/trace.py`), its logits by position, and a row.

        Raises FailedError.
        """
        try:
            return self._host.ask("look", asked)
        except FailedError:
            self.close()
            raise

    def weights(self, asked: WeightsRequest) -> Any:
        """Something about the weights of the engine that runs. Raises FailedError; it runs on, unless its process has ended."""
        return self._host.ask("weights", asked)

    def close(self) -> None:
        if self._host is not None:
            self._host.close()
            self._host = None

    @property
    def flags(self) -> Mapping[str, str]:
        asked = {f"vllm.{name.replace('-', '_')}": value for name, value in self._arguments}
        return {"engine": f"vllm {self._facts['version']}"} | asked | self._facts["flags"] | self._adapted

    @property
    def dtype(self) -> str:
        return self._facts["dtype"]

    @property
    def device(self) -> str:
        return self._facts["device"]

    @property
    def threads(self) -> int:
        return self._facts["threads"]

    @property
    def token_budget(self) -> int:
        """Tokens that one engine step may compute."""
        return self._facts["token_budget"]

    @property
    def cache_block(self) -> int:
        """Tokens in a block of the KV cache; 0: it keeps no prefixes."""
        return self._facts["block_size"] if self._facts["prefix_cache"] else 0

    @property
    def uncut(self) -> str:
        """Why prompts are not cut in chunks; "" where they are."""
        if self._facts["chunked_prefill"]:
            return ""
        why = (
            ", since vLLM on the CPU fails where it cuts a prompt that has a seed"
            if self._seeded and self._on_cpu
            else ""
        )
        return f"the engine cuts no prompt (enable_chunked_prefill=False{why})"

    def max_rows(self, tokens: int) -> int:
        return max(1, min(self._facts["max_requests"], self._facts["cache_tokens"] // max(tokens, 1)))


def split(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--engine-arg {argument}: wants key=value, like max_num_seqs=64")
    return name.strip(), value.strip()


def on_cpu(device: str) -> bool:
    """Where vLLM will run. A vLLM is built for one kind of device."""
    import torch

    cpu = install.version("vllm-cpu") is not None or not torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {device}: with --engine vllm use auto, cpu or cuda; CUDA_VISIBLE_DEVICES names one of several"
        )
    if device != "auto" and (device == "cpu") != cpu:
        raise UsageError(f"--device {device}: the vLLM that is installed here runs on {'the CPU' if cpu else 'GPUs'}")
    return cpu


def cache_bytes() -> int:
    """For the KV cache on a CPU: a share of what is free."""
    low, high = (gib << 30 for gib in CACHE_GIB)
    return max(low, min(high, int(CACHE_SHARE * free_memory())))


def eager(arguments: Sequence[tuple[str, str]]) -> bool:
    """Whether none of vLLM's arguments asks for compiled graphs."""
    asked = {name.replace("-", "_"): value.lower() for name, value in arguments}
    return asked.get("enforce_eager", "true") in ("true", "1") and not asked.keys() & COMPILING
