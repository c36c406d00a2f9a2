"""Puts our kernels into vLLM: attention, linear layers, norms, activations, and torch's own leaf ops (log-softmax among them).

A part asks `kernels/` for its op by name and the type of vLLM's device. Tested with vLLM 0.32 on the CPU; what is for GPUs is written
against the same version, and has not run on one. Every name of vLLM's that is not public is looked up here and nowhere else, and
one that has moved is an error in words. What runs is counted, ours and stock alike, so that a run can show which it was.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from detcheck import switch
from detcheck.counted import by_ours, by_stock, of_coverage
from detcheck.coverage import Coverage, uncounted
from detcheck.op import NotInvariantError, find

# vLLM's own ops that multiply or reduce: counted when they run beside ours, and named in the report.
STOCK = (
    "cpu_attention_with_kv_cache", "onednn_mm", "onednn_scaled_mm", "weight_packed_linear_cpu", "cpu_fused_moe", "cpu_gemm_wna16",
    "mla_decode_kvcache_cpu", "rms_norm", "fused_add_rms_norm",
)  # fmt: skip
BACKENDS_GPU = ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "ROCM_ATTN", "ROCM_AITER_FA")
PRODUCTS = (
    "add_lora_linear",
    "add_lora_embedding",
    "add_lora_logits",
    "add_lora_fused_moe",
    "add_lora_w13",
    "add_lora_w2",
)
_for_good = contextlib.ExitStack()  # what is switched on here stays on for the rest of the process
_coverage: Coverage | None = None


class CannotInstallError(Exception):
    """vLLM, or the device, is not one that these kernels can be put into."""


def install(calls: Counter[str]) -> None:
    """Everything that this platform needs. Raises CannotInstallError."""
    global _coverage
    from vllm.platforms import current_platform

    device = current_platform.device_type
    parts = PARTS if device == "cpu" else PARTS_GPU
    try:
        for part in parts:
            part(calls, device)
    except NotInvariantError as error:
        raise CannotInstallError(f"{error}. Use --kernels engine for vLLM's own batch-invariant mode") from error
    except (ImportError, AttributeError) as error:
        raise CannotInstallError(
            f"a name that the plugin needs is not in this vLLM: {error}. It was tested with vLLM 0.32; install that, or a newer detcheck"
        ) from error
    _coverage = _for_good.enter_context(switch.batch_invariant())


def counted() -> dict[str, int]:
    """Calls of torch's leaf ops so far."""
    return of_coverage(_coverage)


def linear_layers(calls: Counter[str], device: str) -> None:
    """Every unquantized linear layer and the logits: vLLM asks this function for the product that a layer will call."""
    import torch
    from vllm.model_executor.layers import utils

    matmul, stock = find("matmul", device), utils.dispatch_cpu_unquantized_gemm

    def dispatch(layer: Any, remove_weight: bool) -> None:
        weight = layer.weight
        if weight.is_meta or weight.ndim != 2:
            stock(layer, remove_weight)
            return

        packed = matmul.Packed(weight.detach())

        def product(x: Any, weight: Any, bias: Any) -> Any:
            calls[by_ours("vllm::linear")] += 1
            with uncounted():
                return matmul.linear(x, packed, bias)

        layer.cpu_linear = product
        if remove_weight:  # as vLLM does with the weights that it packs
            layer.weight = torch.nn.Parameter(weight.new_empty(0), requires_grad=False)

    utils.dispatch_cpu_unquantized_gemm = dispatch


def linear_layers_gpu(calls: Counter[str], device: str) -> None:
    """The same where vLLM asks for one product for all layers."""
    from vllm.model_executor.layers import linear, utils, vocab_parallel_embedding

    matmul = find("matmul", device)

    def product(layer: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        calls[by_ours("vllm::linear")] += 1
        with uncounted():
            return matmul.linear(x, weight, bias)

    for module in (utils, linear, vocab_parallel_embedding):
        _ = module.dispatch_unquantized_gemm  # a name that has moved is an error, not a new one
        module.dispatch_unquantized_gemm = lambda *_, **__: product


def attention(calls: Counter[str], device: str) -> None:
    """The backend that the CPU platform chooses, under its own name."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    from detcheck.engines.vllm.worker import attention_cpu

    find("attention", device)
    attention_cpu.calls = calls
    register_backend(AttentionBackendEnum.CPU_ATTN, f"{attention_cpu.__name__}.{attention_cpu.CpuBackend.__name__}")


def attention_gpu(calls: Counter[str], device: str) -> None:
    """Whichever backend the platform would choose, under that one's name. MLA has others, and is not ours."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    from detcheck.engines.vllm.worker import attention_gpu as ours

    find("attention", device)
    ours.calls = calls
    for name in BACKENDS_GPU:
        register_backend(AttentionBackendEnum[name], f"{ours.__name__}.{ours.GpuBackend.__name__}")


def norms(calls: Counter[str], device: str) -> None:
    from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm

    rmsnorm = find("rmsnorm", device)

    def normed(stock: Callable[..., Any], weight_of: Callable[[Any], Any]) -> Callable[..., Any]:
        def forward(self: Any, x: Any, residual: Any = None) -> Any:
            if getattr(self, "variance_size_override", None) is not None:
                return stock(self, x, residual)  # its mean is one of torch's leaf ops, and ours
            calls[by_ours("vllm::rms_norm")] += 1
            weight, dtype = weight_of(self), x.dtype
            with uncounted():
                total = x if residual is None else x + residual
                same = total if weight.dtype == dtype else total.to(weight.dtype)
                out = rmsnorm.rmsnorm(same, weight, self.variance_epsilon).to(dtype)
            return out if residual is None else (out, total)

        return forward

    ours = normed(RMSNorm.forward_native, lambda n: n.weight.detach())  # ones where it has none
    gemma = normed(GemmaRMSNorm.forward_native, lambda n: n.weight.data.float() + 1.0)
    RMSNorm.forward_native, GemmaRMSNorm.forward_native = ours, gemma
    if device != "cpu":
        RMSNorm.forward_cuda, GemmaRMSNorm.forward_cuda = ours, gemma


def positions(calls: Counter[str], device: str) -> None:
    """Rotary positions, rounded where transformers' models round: each product, then their sum. vLLM's own op on the CPU rounds once.

    The frequencies are torch's own, ours elsewhere in this process or not: transformers' are made when a model is loaded, before anything is ours.
    """
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding, RotaryEmbeddingBase

    def as_loaded(made: Callable[..., Any]) -> Callable[..., Any]:
        def frequencies(*arguments: Any, **options: Any) -> Any:
            with switch.torchs_own():
                return made(*arguments, **options)

        return frequencies

    rotary, kinds = find("rotary", device), [RotaryEmbeddingBase]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if made := vars(kind).get("_compute_inv_freq"):
            kind._compute_inv_freq = as_loaded(made)

    def forward(self: Any, positions: Any, query: Any, key: Any = None) -> tuple[Any, Any]:
        calls[by_ours("vllm::rotary_embedding")] += 1
        table, places = self._match_cos_sin_cache_dtype(query), positions.flatten()
        with uncounted():
            for tensor in (query,) if key is None else (query, key):
                heads = tensor.view(len(places), -1, self.head_size)
                rotary.rotate(heads, places, table, neighbours=not self.is_neox_style)
        return query, key

    RotaryEmbedding.forward_cpu = forward


def activations(calls: Counter[str], device: str) -> None:
    from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul

    silu_mul, gelu_mul = find("silu_mul", device), find("gelu_mul", device)

    def silu_and_mul(self: Any, x: Any) -> Any:
        calls[by_ours("vllm::silu_and_mul")] += 1
        d = x.shape[-1] // 2
        with uncounted():
            return silu_mul.silu_mul(x[..., :d], x[..., d:])

    def gelu_and_mul(self: Any, x: Any) -> Any:
        calls[by_ours("vllm::gelu_and_mul")] += 1
        d = x.shape[-1] // 2
        with uncounted():
            return gelu_mul.gelu_mul(x[..., :d], x[..., d:], self.approximate)

    if device == "cpu":
        SiluAndMul.forward_cpu, GeluAndMul.forward_cpu = silu_and_mul, gelu_and_mul
    else:
        SiluAndMul.forward_cuda, GeluAndMul.forward_cuda = silu_and_mul, gelu_and_mul


def stock_ops(calls: Counter[str], device: str) -> None:
    """Counts those of vLLM's own ops that run all the same. Some do not exist in every build."""
    from vllm import _custom_ops

    def counted_op(name: str, stock: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[by_stock(f"vllm::{name}")] += 1
            return stock(*arguments, **options)

        return call

    for name in STOCK:
        if hasattr(_custom_ops, name):
            setattr(_custom_ops, name, counted_op(name, getattr(_custom_ops, name)))


def stock_layers(calls: Counter[str], device: str) -> None:
    """Counts what is not ours, whichever kernel runs it: attention of another backend, experts of a mixture, sums over several devices."""
    from vllm.distributed.parallel_state import GroupCoordinator
    from vllm.model_executor.layers.attention.attention import Attention
    from vllm.model_executor.layers.attention.mla_attention import MLAAttention
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    experts, all_reduce = MoERunner.forward, GroupCoordinator.all_reduce

    def attending(stock: Callable[..., Any], name: str) -> Callable[..., Any]:
        def forward(self: Any, *arguments: Any, **options: Any) -> Any:
            if not type(self.impl).__module__.startswith("detcheck."):
                calls[by_stock(f"vllm::{name}")] += 1
            return stock(self, *arguments, **options)

        return forward

    def forward(self: Any, *arguments: Any, **options: Any) -> Any:
        calls[by_stock("vllm::fused_moe")] += 1
        return experts(self, *arguments, **options)

    def reduced(self: Any, tensor: Any) -> Any:
        if self.world_size > 1:
            calls[by_stock("vllm::all_reduce")] += 1
        return all_reduce(self, tensor)

    MoERunner.forward, GroupCoordinator.all_reduce = forward, reduced
    Attention.forward = attending(Attention.forward, "other_attention")
    MLAAttention.forward = attending(MLAAttention.forward, "mla_attention")


def stock_adapters(calls: Counter[str], device: str) -> None:
    """Counts the products of LoRA adapters, which kernels of vLLM's own add up on a GPU. On the CPU they are torch's leaf ops, and ours."""
    from vllm.platforms import current_platform
    from vllm.utils.import_utils import resolve_obj_by_qualname

    wrapper = resolve_obj_by_qualname(current_platform.get_punica_wrapper())

    def counted_products(name: str, stock: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            calls[by_stock(f"vllm::{name}")] += 1
            return stock(self, *arguments, **options)

        return call

    for name in PRODUCTS:
        setattr(wrapper, name, counted_products(name, getattr(wrapper, name)))


PARTS = (linear_layers, attention, norms, positions, activations, stock_ops, stock_layers)
PARTS_GPU = (linear_layers_gpu, attention_gpu, norms, activations, stock_ops, stock_layers, stock_adapters)
