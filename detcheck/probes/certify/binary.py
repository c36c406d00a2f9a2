"""What a compiled kernel's binary says of itself, read with the tools that come with Triton."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detcheck.probes.certify.compile import Built

MATRIX = r"\b(?:HMMA|HGMMA|IMMA|QGMMA|DMMA|UTC\w*MMA)\b|v_mfma_\w+|v_wmma_\w+"


def read(built: Iterable[Built]) -> tuple[int, int, dict[str, int]]:
    """The most registers a thread has, the most of it that spilled, and matrix instructions with how often they stand in the code.

    Each distinct binary is read once: a tool takes half a second. What it did not say is 0.
    """
    distinct = {each.digest: each for each in built}.values()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = list(pool.map(lambda each: amd(each.assembly) if each.assembly else nvidia(each.binary), distinct))
    most: dict[str, int] = {}
    for _, instructions in said:
        for name, number in instructions.items():
            most[name] = max(number, most.get(name, 0))
    registers, spills = (max((n.get(name, 0) for n, _ in said), default=0) for name in ("registers", "spills"))
    return registers, spills, dict(sorted(most.items()))


def amd(assembly: str) -> tuple[dict[str, int], Counter[str]]:
    found = {}
    for name, key in (("registers", r"\.vgpr_count:"), ("spills", r"\.vgpr_spill_count:")):
        if number := re.search(rf"{key}\s+(\d+)", assembly):
            found[name] = int(number.group(1))
    return found, count(assembly)


def nvidia(binary: bytes) -> tuple[dict[str, int], Counter[str]]:
    import triton

    found = {}
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory(prefix="detcheck-") as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary)
        usage = output(tools / "cuobjdump", "-res-usage", str(file))
        if number := re.search(r"REG:(\d+)", usage):
            found["registers"] = int(number.group(1))
        # Local memory and stack hold what did not fit into registers.
        if numbers := re.search(r"STACK:(\d+).*?LOCAL:(\d+)", usage):
            found["spills"] = sum(map(int, numbers.groups()))
        return found, count(output(tools / "nvdisasm", "-c", str(file)))


def count(assembly: str) -> Counter[str]:
    return Counter(re.sub(r"_\d+x.*", "", word) for word in re.findall(MATRIX, assembly))


def output(tool: Path, *arguments: str) -> str:
    try:
        return subprocess.run([str(tool), *arguments], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
