"""Ops whose bits may follow the batch, by name. Where no kernel of ours takes their place they run as they are, are counted, and are asked.

They are chosen by kind: what adds, and on a CPU what is computed element by element otherwise than by one correctly rounded operation.
There torch has two programs, one for whole vectors and one for what is left of them or lies apart, and which of them an element gets is a
matter of its place. Whether both give the same bits depends on the processor and the build, so it is not written down here.
"""

REDUCTIONS = (
    "convolution", "dot", "vdot", "addbmm", "_addmm_activation", "sum.dim_IntList", "nansum", "mean.dim", "prod", "prod.dim_int", "var.correction",
    "std.correction", "var_mean.correction", "std_mean.correction", "logcumsumexp", "cumsum", "cumprod", "native_layer_norm",
    "native_group_norm", "native_batch_norm", "linalg_vector_norm", "norm.ScalarOpt_dim", "linalg_solve_triangular", "_linalg_solve_ex",
    "linalg_inv_ex", "linalg_cholesky_ex", "linalg_lu_factor_ex", "linalg_eigh", "_linalg_svd", "_embedding_bag", "_fused_rms_norm",
    "_weight_norm_interface", "index_add", "index_reduce", "scatter_add", "scatter_reduce.two", "_cdist_forward", "_scaled_mm", "_fft_r2c",
    "_fft_c2c", "_fft_c2r", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler_2d", "convolution_backward",
    "native_layer_norm_backward", "native_group_norm_backward", "_softmax_backward_data", "_log_softmax_backward_data",
    "embedding_dense_backward",
)  # fmt: skip
ON_A_GPU = ("_grouped_mm",)
"""a kernel of its own there; on a CPU it is made of products"""
ON_A_CPU = (
    "logaddexp", "logaddexp2", "atan2", "hypot", "xlogy.Tensor", "sinc", "logit", "erfinv", "lgamma", "digamma", "polygamma", "i0",
    "special_i0e", "special_i1", "special_i1e", "special_ndtri", "special_log_ndtr", "special_erfcx", "special_entr", "special_xlog1py",
    "addcmul", "addcdiv", "lerp.Scalar", "lerp.Tensor", "sigmoid_backward", "tanh_backward", "silu_backward", "gelu_backward", "elu_backward",
    "mish_backward", "softplus_backward", "log_sigmoid_backward", "glu_backward", "logit_backward",
)  # fmt: skip


def of(device: str) -> tuple[str, ...]:
    """On that type of device."""
    return (*REDUCTIONS, *(ON_A_CPU if device == "cpu" else ON_A_GPU))
