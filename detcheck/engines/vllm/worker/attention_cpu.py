"""Our attention as vLLM's CPU backend: its paged cache, our order of additions.

The cache keeps vLLM's shape; keys and values lie in it row by row, written and read by our kernels alone. The keys of a step
are written before any of its queries runs, so prefill, chunked prefill and decode see the same cache and add in the same
order. Loaded by name, by vLLM, in the processes that compute.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)

from detcheck.counted import by_ours
from detcheck.kernels.attention import paged_attention, write_cache
from detcheck.op import NotInvariantError

calls: Counter[str] = Counter()


class CpuBackend(CPUAttentionBackend):
    @staticmethod
    def get_impl_cls() -> type[CpuAttention]:
        return CpuAttention

    @staticmethod
    def get_builder_cls() -> type[Builder]:
        return Builder


class Builder(CPUAttentionMetadataBuilder):
    """Without the plan that vLLM's own kernel makes of a batch: ours needs none."""

    def build(
        self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False
    ) -> CPUAttentionMetadata:
        batch = common_attn_metadata
        if self.is_cross_attention or self.is_encoder_only_attention or batch.causal is not True:
            raise NotInvariantError("attention that is not causal has no batch-invariant kernel in vLLM")
        return CPUAttentionMetadata(
            num_actual_tokens=batch.num_actual_tokens,
            max_query_len=batch.max_query_len,
            query_start_loc=batch.query_start_loc,
            max_seq_len=batch.max_seq_len,
            seq_lens=batch.seq_lens,
            block_table=batch.block_table_tensor,
            slot_mapping=batch.slot_mapping,
            scheduler_metadata=None,
        )


class CpuAttention(CPUAttentionBackendImpl):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        lacks = {
            "ALiBi": self.alibi_slopes is not None,
            "attention sinks": self.sinks is not None,
            f"a KV cache of {self.kv_cache_dtype}": self.is_fp8_kv_cache,
            f"{self.attn_type} attention": self.attn_type != AttentionType.DECODER,
        }
        if named := [name for name, has in lacks.items() if has]:
            raise NotInvariantError(f"there is no batch-invariant attention kernel for {' and '.join(named)}")
        self._window = None if self.sliding_window < 0 else self.sliding_window

    def forward(
        self,
        layer: Any,
        query: Any,
        key: Any,
        value: Any,
        kv_cache: Any,
        attn_metadata: CPUAttentionMetadata | None,
        output: Any,
        output_scale: Any = None,
        output_block_scale: Any = None,
    ) -> Any:
        """query [T, H, D] -> output [T, H, D]; the first num_actual_tokens rows are real."""
        if attn_metadata is None:  # warming up
            return output
        calls[by_ours("vllm::attention")] += 1
        keys, values = halves(kv_cache)
        paged_attention(
            query,
            keys,
            values,
            attn_metadata.block_table,
            attn_metadata.query_start_loc,
            attn_metadata.seq_lens,
            self.scale,
            self.logits_soft_cap,
            self._window,
            out=output,
        )
        return output

    def do_kv_cache_update(self, layer: Any, key: Any, value: Any, kv_cache: Any, slot_mapping: Any) -> None:
        """key, value [T, KH, D] -> the cache."""
        tokens = len(slot_mapping)  # rows behind them fill a batch up
        write_cache(key[:tokens], value[:tokens], *halves(kv_cache), slot_mapping)


def halves(kv_cache: Any) -> tuple[Any, Any]:
    """[blocks, KH, block_size, 2 * D] -> keys and values, each [blocks, KH, block_size, D], one behind the other in every block."""
    blocks, heads, size, twice = kv_cache.shape
    halved = kv_cache.view(blocks, heads, 2, size, twice // 2)
    return halved[:, :, 0], halved[:, :, 1]
