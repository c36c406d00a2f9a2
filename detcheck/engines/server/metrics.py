"""What a server tells of its batches in /metrics: requests that run together, tokens of its steps, kernels of ours. Pure.

vLLM and SGLang export Prometheus text. A counter that is summed over engines tells what was done between two readings, a gauge what
was going on at one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

# Our own names -> those of servers. Counters are summed over engines, gauges are of one engine's batch: the largest counts.
GAUGES = {
    "running": ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing"),
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"),
}
COUNTERS = {
    "finished": ("vllm:request_success_total", "sglang:num_requests_total"),
    "steps": ("vllm:iteration_tokens_total_count",),
    "made": ("vllm:generation_tokens_total", "sglang:generation_tokens_total", "llamacpp:tokens_predicted_total"),
    "cache_hits": ("vllm:prefix_cache_hits_total", "sglang:cached_tokens_total"),
    "preemptions": ("vllm:num_preemptions_total",),
}
CALLS = "detcheck_kernel_calls_total"  # of detcheck's plugin in vLLM, a line an op
KINDS = {"vllm:": "vLLM", "sglang:": "SGLang", "llamacpp:": "llama.cpp"}
MOST_AT_ONCE, MOST = 2**31, 2**53  # larger numbers are no counts
ALL_GAUGES = tuple(name for names in GAUGES.values() for name in names)
NAMES = tuple(name for names in (*GAUGES.values(), *COUNTERS.values()) for name in names)


@dataclass(frozen=True)
class Reading:
    """One look at /metrics. What a server does not export is not in it."""

    kind: str = ""
    """which server it is; "" where that is not known"""
    numbers: Mapping[str, float] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    """ "ours OP" and "stock OP" -> calls, where detcheck's plugin is in it"""

    @property
    def sees_batches(self) -> bool:
        return "running" in self.numbers

    def since(self, before: Reading, name: str) -> float | None:
        """How much a counter grew; None where it is not exported, or was set back since."""
        if name not in self.numbers or name not in before.numbers or self.numbers[name] < before.numbers[name]:
            return None
        return self.numbers[name] - before.numbers[name]

    def calls_since(self, before: Reading) -> tuple[tuple[str, int], ...]:
        grown = {name: n - before.calls.get(name, 0) for name, n in self.calls.items()}
        return tuple((name, n) for name, n in sorted(grown.items()) if n > 0)


def read(text: str, models: Collection[str] = ()) -> Reading:
    """Only lines that are wanted are parsed, since a page has hundreds and is read many times a second.

    `models`: names of the one that is asked. Where the page tells models apart and has it, the others' numbers are left out.
    """
    from prometheus_client.parser import text_string_to_metric_families

    wanted = [line for line in text.splitlines() if line.startswith((*NAMES, CALLS))]
    kind = next((name for prefix, name in KINDS.items() if f"\n{prefix}" in f"\n{text}"), "")
    samples = []
    for line in wanted:
        try:
            samples += [s for family in text_string_to_metric_families(line + "\n") for s in family.samples]
        except ValueError:
            continue  # a line that is none: what it would have told is not seen
    samples = [s for s in samples if 0 <= s.value < (MOST_AT_ONCE if s.name in ALL_GAUGES else MOST)]  # and NaN is none
    if any(s.labels.get("model_name") in models for s in samples):
        samples = [s for s in samples if s.labels.get("model_name") in (None, *models)]
    numbers: dict[str, float] = {}
    for name, theirs in GAUGES.items():
        if found := [s.value for s in samples if s.name in theirs]:
            numbers[name] = max(found)
    for name, theirs in COUNTERS.items():
        if found := [s.value for s in samples if s.name in theirs]:
            numbers[name] = sum(found)
    calls = {s.labels.get("op", ""): int(s.value) for s in samples if s.name == CALLS}
    return Reading(kind, numbers, calls)
