"""What a vLLM that has started is set to: what the other process plans by, and the flags that can change bits. Runs in vLLM's process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detcheck.machine import of_gpu


def in_effect(config: Any, threads: int, effect: Mapping[str, str]) -> dict[str, Any]:
    """`effect`: of adapters, as `lora.put_on` found it."""
    import vllm
    from vllm.platforms import current_platform

    cache, scheduler, parallel = config.cache_config, config.scheduler_config, config.parallel_config
    device = current_platform.device_type
    return {
        "version": vllm.__version__,
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "device": device if device == "cpu" else f"{device} ({current_platform.get_device_name()})",
        "threads": threads,
        "context": config.model_config.max_model_len,
        "max_requests": scheduler.max_num_seqs,
        "token_budget": scheduler.max_num_batched_tokens,
        "drafts": config.speculative_config is not None,
        "chunked_prefill": bool(scheduler.enable_chunked_prefill),
        "block_size": cache.block_size,
        "cache_tokens": (cache.num_gpu_blocks or 0) * cache.block_size,
        "prefix_cache": bool(cache.enable_prefix_caching),
        "flags": {
            "vllm.async_scheduling": str(bool(scheduler.async_scheduling)),
            "vllm.chunked_prefill": str(bool(scheduler.enable_chunked_prefill)),
            "vllm.compilation": str(getattr(config.compilation_config.mode, "name", config.compilation_config.mode)),
            "vllm.cudagraph_mode": str(
                getattr(config.compilation_config.cudagraph_mode, "name", config.compilation_config.cudagraph_mode)
            ),
            "vllm.enforce_eager": str(bool(config.model_config.enforce_eager)),
            "vllm.block_size": str(cache.block_size),
            "vllm.max_num_seqs": str(scheduler.max_num_seqs),
            "vllm.max_num_batched_tokens": str(scheduler.max_num_batched_tokens),
            "vllm.tensor_parallel_size": str(parallel.tensor_parallel_size),
            "vllm.pipeline_parallel_size": str(parallel.pipeline_parallel_size),
            "vllm.data_parallel_size": str(parallel.data_parallel_size),
            "vllm.executor": str(parallel.distributed_executor_backend),
            **effect,
            "vllm.quantization": str(config.model_config.quantization),
            # vLLM sets some of these in its own process.
            **{f"vllm.{name}": str(value) for name, value in (of_gpu() if device != "cpu" else {}).items()},
        },
    }
