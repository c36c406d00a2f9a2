"""vLLM's scheduler, with arrivals counted in engine steps and a trace of what every step computed.

A probe that hands over N requests and waits cannot say which requests were computed together. This scheduler holds the requests of a batch
until all of them are there, lets each in at its own engine step, and writes down every step. It decides nothing else: which
requests a step computes, and how many of their tokens, is vLLM's own choice.

What is asked for travels on the requests (`SamplingParams.extra_args`), and what was seen travels back on their outputs
(`kv_transfer_params`), so it works in every layout of processes. Loaded by name, by vLLM (`scheduler_cls`).
"""

from __future__ import annotations

import hashlib
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

KEY = "detcheck"  # in extra_args and kv_transfer_params


class Planned:
    """Mixed into a scheduler of vLLM's. Requests without a plan pass through as they do there."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._own_budget: int = self.max_num_scheduled_tokens
        self._held: list[tuple[int, int, Any]] = []  # (arrival, row, request) that are not let in yet, in that order
        self._expected = 0  # requests of the batch that have not been handed over yet
        self._forget()

    def _forget(self) -> None:
        self._step = 0
        self._hash = hashlib.sha256()
        self._seen_of: dict[str, dict[str, Any]] = {}  # request id -> what is known of it

    def add_request(self, request: Any) -> None:
        asked = (request.sampling_params.extra_args or {}).get(KEY) if request.sampling_params else None
        if asked is None or request.request_id in self.requests:
            super().add_request(request)
            return
        if not self._expected and not self._held:
            self._forget()
            self._expected = asked["requests"]
            self.max_num_scheduled_tokens = min(asked["token_budget"] or self._own_budget, self._own_budget)
        self._expected -= 1
        self._held.append((asked["arrival"], asked["row"], request))
        if self._expected == 0:
            self._held.sort(key=lambda held: held[:2])
            self._let_in()

    def _let_in(self) -> None:
        """Those whose step has come. Where nothing is left to compute, the next arrivals need not be waited for."""
        if self._expected or not self._held:
            return
        if super().get_num_unfinished_requests() == 0:
            self._step = max(self._step, self._held[0][0])
        while self._held and self._held[0][0] <= self._step:
            _, row, request = self._held.pop(0)
            self._seen_of[request.request_id] = {
                "row": row, "steps": [], "requests": [], "tokens": [], "chunks": 0, "cached": 0, "preemptions": 0, "adapters": 1,
                "drafted": 0, "accepted": 0,
            }  # fmt: skip
            super().add_request(request)

    def schedule(self, *arguments: Any, **options: Any) -> Any:
        self._let_in()
        output = super().schedule(*arguments, **options)
        self._write_down(output)
        return output

    def _write_down(self, output: Any) -> None:
        tokens, total = output.num_scheduled_tokens, output.total_num_scheduled_tokens
        if not total or not self._seen_of:
            return
        size, parts = len(tokens), []
        adapters = {
            getattr(self.requests[name].lora_request, "lora_int_id", 0) for name in tokens if name in self.requests
        }
        for name, count in tokens.items():  # in vLLM's order
            seen = self._seen_of.get(name)
            request = self.requests.get(name)
            if seen is None or request is None:
                continue
            before = request.num_computed_tokens - count  # the scheduler has counted this step already
            if not seen["steps"]:
                seen["cached"] = max(before, 0)
            seen["steps"].append(self._step)  # not every one: a request that was put aside misses some
            seen["requests"].append(size)
            seen["tokens"].append(total)
            seen["chunks"] += before < request.num_prompt_tokens
            seen["adapters"] = max(seen["adapters"], len(adapters))
            seen["preemptions"] = request.num_preemptions
            parts.append((seen["row"], count, before))
        self._hash.update(repr((total, parts)).encode())
        trace = self._hash.hexdigest()[:16]
        for name in tokens:
            if name in self._seen_of:
                self._seen_of[name]["trace"] = trace
        self._step += 1

    def make_spec_decoding_stats(self, *arguments: Any, **options: Any) -> Any:
        """vLLM calls this for each request of a step in which drafted tokens were computed."""
        if seen := self._seen_of.get(options["request_id"]):
            seen["drafted"] += options["num_draft_tokens"]
            seen["accepted"] += options["num_accepted_tokens"]
        return super().make_spec_decoding_stats(*arguments, **options)

    def _free_request(self, request: Any, *arguments: Any, **options: Any) -> Any:
        params, *rest = super()._free_request(request, *arguments, **options)
        seen = self._seen_of.pop(request.request_id, None)
        return ((params or {}) | {KEY: seen} if seen else params, *rest)

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        names = {request_ids} if isinstance(request_ids, str) else None if request_ids is None else set(request_ids)
        self._held = [held for held in self._held if names is not None and held[2].request_id not in names]
        if names is None:
            self._expected = 0
        return super().finish_requests(request_ids, finished_status)

    def get_num_unfinished_requests(self) -> int:
        waiting = 0 if self._expected else len(self._held)
        return super().get_num_unfinished_requests() + waiting


class PlannedScheduler(Planned, Scheduler):
    """For engines that schedule a step when the one before it is done."""


class PlannedAsyncScheduler(Planned, AsyncScheduler):
    """For engines that schedule a step while the one before it still runs."""
