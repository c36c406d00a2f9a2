"""Our attention as vLLM's backend on GPUs: its paged cache, our order of additions. Not run on a GPU yet.

Made of vLLM's Triton backend: shape of the cache, metadata and the writing of keys are its own (that moves numbers and adds
none); how they are added up is ours. Loaded by name, by vLLM, in the processes that compute.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend, TritonAttentionImpl, TritonAttentionMetadata

from detcheck.counted import by_ours
from detcheck.kernels.attention import paged_attention
from detcheck.op import NotInvariantError

calls: Counter[str] = Counter()


class GpuBackend(TritonAttentionBackend):
    @staticmethod
    def get_impl_cls() -> type[GpuAttention]:
        return GpuAttention

    @classmethod
    def supports_non_causal(cls) -> bool:
        return False

    @classmethod
    def supports_mm_prefix(cls) -> bool:
        return False

    @classmethod
    def supports_sink(cls) -> bool:
        return False


class GpuAttention(TritonAttentionImpl):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        lacks = {
            "ALiBi": self.alibi_slopes is not None,
            "attention sinks": self.sinks is not None,
            "chunked local attention": self.chunk_lookback != -1,
            f"a KV cache of {self.kv_cache_dtype}": self.kv_cache_dtype not in ("auto", "float16", "bfloat16"),
            f"{self.attn_type} attention": self.attn_type != AttentionType.DECODER,
        }
        if named := [name for name, has in lacks.items() if has]:
            raise NotInvariantError(f"there is no batch-invariant attention kernel for {' and '.join(named)}")
        left, _ = self.sliding_window  # keys before a query's own, or -1
        self._window = None if left < 0 else left + 1

    def forward(
        self,
        layer: Any,
        query: Any,
        key: Any,
        value: Any,
        kv_cache: Any,
        attn_metadata: TritonAttentionMetadata | None,
        output: Any,
        output_scale: Any = None,
        output_block_scale: Any = None,
    ) -> Any:
        """query [T, H, D], kv_cache [blocks, KH, block_size, 2 * D] -> output [T, H, D]; the first num_actual_tokens rows are real."""
        if attn_metadata is None:  # warming up
            return output.fill_(0)
        if output_scale is not None or output_block_scale is not None:
            raise NotInvariantError("attention with a quantized output has no batch-invariant kernel")
        calls[by_ours("vllm::attention")] += 1
        tokens, size = attn_metadata.num_actual_tokens, self.head_size
        paged_attention(
            query[:tokens],
            kv_cache[..., :size],
            kv_cache[..., size:],
            attn_metadata.block_table,
            attn_metadata.query_start_loc,
            attn_metadata.seq_lens,
            self.scale,
            self.logits_soft_cap or 0.0,
            self._window,
            out=output[:tokens],
            longest=(attn_metadata.max_query_len, attn_metadata.max_seq_len),
        )
        return output
