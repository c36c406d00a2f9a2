"""Ops whose bits may follow the batch, by name. Where no kernel of ours takes their place they run as they are, are counted, and are asked.

They are chosen by kind: what adds, and on a CPU what is computed element by element otherwise than by one correctly rounded operation.
There torch has two programs, one for whole vectors and one for what is left of them or lies apart, and which of them an element gets is a
matter of its place. Whether both give the same bits depends on the processor and the build, so it is not written down here.
"""

from __future__ import annotations

import functools
import re
import sys

REDUCTIONS = (
    "convolution", "dot", "vdot", "addbmm", "_addmm_activation", "sum.dim_IntList", "nansum", "mean.dim", "prod", "prod.dim_int", "var.correction",
    "std.correction", "var_mean.correction", "std_mean.correction", "logcumsumexp", "cumsum", "cumprod", "native_layer_norm",
    "native_group_norm", "native_batch_norm", "linalg_vector_norm", "norm.ScalarOpt_dim", "linalg_solve_triangular", "_linalg_solve_ex",
    "linalg_inv_ex", "linalg_cholesky_ex", "linalg_lu_factor_ex", "linalg_eigh", "_linalg_svd", "_embedding_bag", "_fused_rms_norm",
    "_weight_norm_interface", "index_add", "index_reduce", "scatter_add", "scatter_reduce.two", "_cdist_forward", "_fft_r2c",
    "_fft_c2c", "_fft_c2r", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler_2d", "convolution_backward",
    "native_layer_norm_backward", "native_group_norm_backward", "_softmax_backward_data", "_log_softmax_backward_data",
    "embedding_dense_backward",
)  # fmt: skip
QUANTISED = (
    "_int_mm", "_scaled_mm", "_scaled_mm_v2", "_scaled_grouped_mm", "_scaled_grouped_mm_v2", "_weight_int8pack_mm", "_weight_int4pack_mm",
    "_weight_int4pack_mm_for_cpu", "_weight_int4pack_mm_with_scales_and_zeros", "_dyn_quant_matmul_4bit",
)  # fmt: skip
"""Products of quantised numbers. Of integers too: a processor without instructions for them may add in 16 bits, and what does not fit is cut off."""
ON_A_GPU = ("_grouped_mm",)
"""a kernel of its own there; on a CPU it is made of products"""
ON_A_CPU = (
    "logaddexp", "logaddexp2", "atan2", "hypot", "xlogy.Tensor", "sinc", "logit", "erfinv", "lgamma", "digamma", "polygamma", "i0",
    "special_i0e", "special_i1", "special_i1e", "special_ndtri", "special_log_ndtr", "special_erfcx", "special_entr", "special_xlog1py",
    "addcmul", "addcdiv", "lerp.Scalar", "lerp.Tensor", "sigmoid_backward", "tanh_backward", "silu_backward", "gelu_backward", "elu_backward",
    "mish_backward", "softplus_backward", "log_sigmoid_backward", "glu_backward", "logit_backward",
)  # fmt: skip

PRODUCT, PREPARES = re.compile("mm|matmul|linear|gemm|gemv"), re.compile("pack|reorder|weight$")
COMPOSED = ("aten", "prims", "transformers")  # seen as what they are, or by their parts


def of(device: str) -> tuple[str, ...]:
    """On that type of device."""
    return (*REDUCTIONS, *QUANTISED, *(ON_A_CPU if device == "cpu" else ON_A_GPU))


def foreign(key: str) -> list[tuple[str, str]]:
    """(namespace, op) of the products outside of torch's own ops that have a kernel of their own at that dispatch key."""
    return _foreign(key, len(sys.modules))  # who brings ops is imported


@functools.lru_cache(maxsize=2)
def _foreign(key: str, modules: int) -> list[tuple[str, str]]:
    import torch

    found = []
    for full in torch._C._dispatch_get_all_op_names():
        space, _, name = full.partition("::")
        if space in COMPOSED or not PRODUCT.search(name) or PREPARES.search(name):
            continue
        if torch._C._dispatch_has_kernel_for_dispatch_key(full, key):
            found.append((space, name))
    return found
