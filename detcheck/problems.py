"""Which settings are not in effect as they were requested, or are known to do harm here: pure functions of what was seen, each with its remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from detcheck.records import Problem, Setting

# https://docs.nvidia.com/cuda/cublas: the two with which torch's deterministic algorithms are content.
WORKSPACES = (":4096:8", ":16:8")
# oneDNN's documentation, "CPU Dispatcher Control".
ISAS = re.compile(
    r"(ALL|DEFAULT|SSE41|AVX|AVX2|AVX2_VNNI|AVX2_VNNI_2|AVX512_CORE(_VNNI|_BF16|_FP16|_AMX|_AMX_FP16)?|AVX10_\w+)", re.I
)


@dataclass(frozen=True)
class Surroundings:
    """What the checks look at."""

    settings: Mapping[str, Setting]
    openmp: str = ""
    """whose, see `settings.openmp`"""
    gpu: bool = False
    """whether torch can use one"""
    driver: str = ""
    """of a GPU that is there, whether or not torch can use it; "": none was found"""
    torch: str = ""
    """its version; "": there is none"""
    vllm: str = ""
    """its version; "": there is none"""
    vllm_reads: frozenset[str] | None = None
    """the VLLM_ variables that it reads; None: not known"""

    def requested(self, name: str) -> str:
        return self.settings[name].requested if name in self.settings else ""

    def effective(self, name: str) -> str:
        return self.settings[name].effective if name in self.settings else ""


def of(seen: Surroundings) -> tuple[Problem, ...]:
    """All that there are."""
    return tuple(problem for check in CHECKS for problem in check(seen))


def capability(seen: Surroundings) -> Iterator[Problem]:
    asked, got = seen.requested("ATEN_CPU_CAPABILITY"), seen.effective("ATEN_CPU_CAPABILITY")
    if asked and got and asked.upper() != got.upper() and (asked, got) != ("default", "NO AVX"):
        yield Problem(
            f"ATEN_CPU_CAPABILITY={asked} is not in effect", f"torch runs its {got} kernels",
            "This processor has not what it names, or torch does not know the name: unset it, or use default, avx2 or avx512",
        )  # fmt: skip


def branch(seen: Surroundings) -> Iterator[Problem]:
    asked, got = seen.requested("MKL_CBWR"), seen.effective("MKL_CBWR")
    if asked and got and asked.upper().split(",")[0] != got.split(",")[0]:
        yield Problem(
            f"MKL_CBWR={asked} is not in effect", f"MKL is in its branch {got}",
            "MKL takes the branches of instruction sets on Intel's processors that have them, and COMPATIBLE everywhere: use MKL_CBWR=COMPATIBLE, or unset it",
        )  # fmt: skip


def threads(seen: Surroundings) -> Iterator[Problem]:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        asked, got = seen.requested(name).split(",")[0].strip(), seen.effective(name)
        if asked and got and asked != got:
            yield Problem(
                f"{name}={asked} is not in effect", f"{got} threads are used",
                "Bits depend on the number of threads. Ask for no more than there are processors, with OMP_NUM_THREADS alone, before torch is imported",
            )  # fmt: skip


def reductions(seen: Surroundings) -> Iterator[Problem]:
    for name in ("KMP_DETERMINISTIC_REDUCTION", "KMP_FORCE_REDUCTION"):
        if seen.requested(name) and seen.openmp == "GNU":
            yield Problem(
                f"{name} is not read", "torch computes with GNU's OpenMP here (libgomp), and KMP_ variables are of Intel's and LLVM's",
                f"Unset {name}. With GNU's OpenMP a reduction over threads repeats itself for certain with OMP_NUM_THREADS=1 alone",
            )  # fmt: skip


def isa(seen: Surroundings) -> Iterator[Problem]:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        if (asked := seen.requested(name)) and not ISAS.fullmatch(asked):
            yield Problem(
                f"{name}={asked} is not in effect", "oneDNN has no instruction set of that name, and ignores it",
                "Use a name of its documentation, like AVX2 or AVX512_CORE, or unset it",
            )  # fmt: skip


def workspace(seen: Surroundings) -> Iterator[Problem]:
    asked = seen.requested("CUBLAS_WORKSPACE_CONFIG")
    if asked and not re.fullmatch(r"(:\d+:\d+)+", asked):
        yield Problem(
            f"CUBLAS_WORKSPACE_CONFIG={asked} is not in effect", "cuBLAS wants :SIZE:COUNT, in KiB, and ignores anything else",
            f"Use CUBLAS_WORKSPACE_CONFIG={WORKSPACES[0]}",
        )  # fmt: skip
    elif seen.gpu and seen.effective("use_deterministic_algorithms") == "True" and asked not in WORKSPACES:
        yield Problem(
            "torch's deterministic algorithms are on, and cuBLAS may still choose between workspaces", f"CUBLAS_WORKSPACE_CONFIG is {asked or 'not set'}",
            f"Set CUBLAS_WORKSPACE_CONFIG={WORKSPACES[0]} before torch is imported; torch raises an error at the first product otherwise",
        )  # fmt: skip


def tf32(seen: Surroundings) -> Iterator[Problem]:
    allowed = seen.effective("cuda.matmul.allow_tf32")
    asked, below = seen.requested("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"), seen.requested("NVIDIA_TF32_OVERRIDE")
    if seen.gpu and asked == "1" and allowed == "False":
        yield Problem(
            "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 is not in effect", "torch.backends.cuda.matmul.allow_tf32 is False",
            "Something set it after torch was imported. Unset the variable, or leave the switch alone",
        )  # fmt: skip
    if seen.gpu and below == "0" and allowed == "True":
        yield Problem(
            "TF32 is allowed and forbidden", "torch.backends.cuda.matmul.allow_tf32 is True, and NVIDIA_TF32_OVERRIDE=0 forbids it to cuBLAS and cuDNN alone",
            "Kernels of Triton follow torch's switch: say the same with both, torch.backends.cuda.matmul.allow_tf32 = False",
        )  # fmt: skip


def unreadable(seen: Surroundings) -> Iterator[Problem]:
    for one in seen.settings.values():
        if one.effective.startswith("cannot be read"):
            yield Problem(
                f"{one.name} was set in two ways", one.effective,
                "Use either allow_tf32 or fp32_precision in a process, not both",
            )  # fmt: skip


def vllm_variables(seen: Surroundings) -> Iterator[Problem]:
    for name, one in seen.settings.items():
        if name.startswith("VLLM_") and one.requested and seen.vllm and name not in (seen.vllm_reads or {name}):
            instead = (
                "Choose the backend with --engine-arg attention_backend=..." if "ATTENTION" in name else "Unset it"
            )
            yield Problem(f"{name}={one.requested} is not read", f"vLLM {seen.vllm} has no such variable", instead)
    if seen.vllm and seen.torch and not seen.gpu and seen.requested("VLLM_BATCH_INVARIANT") not in ("", "0"):
        yield Problem(
            "VLLM_BATCH_INVARIANT=1 does not work here", "vLLM's own mode is made of kernels for GPUs, and torch finds none",
            "Unset it. On the CPU, --kernels batch-invariant puts our kernels into vLLM",
        )  # fmt: skip
    plugins = seen.requested("VLLM_PLUGINS")
    if seen.vllm and plugins and "detcheck" not in plugins.split(","):
        yield Problem(
            "vLLM will not load detcheck's plugin", f"VLLM_PLUGINS={plugins} names the plugins that it may load",
            f"Unset it, or set VLLM_PLUGINS={plugins},detcheck",
        )  # fmt: skip


def interpreted(seen: Surroundings) -> Iterator[Problem]:
    if seen.requested("TRITON_INTERPRET") == "1":
        yield Problem(
            "Triton's kernels are interpreted", "TRITON_INTERPRET=1",
            "Unset it: the interpreter adds in numpy's order, so that its bits say nothing about a GPU, and certify has nothing to compile",
        )  # fmt: skip


def unused_gpu(seen: Surroundings) -> Iterator[Problem]:
    if seen.driver and seen.torch and not seen.gpu:
        yield Problem(
            "a GPU is here, and torch cannot use it", f"{seen.driver}; torch is {seen.torch}",
            "Install the torch that was built for it (pytorch.org/get-started), and see that CUDA_VISIBLE_DEVICES does not hide it",
        )  # fmt: skip


CHECKS = (
    capability, branch, threads, reductions, isa, workspace, tf32, unreadable, vllm_variables, interpreted, unused_gpu,
)  # fmt: skip
