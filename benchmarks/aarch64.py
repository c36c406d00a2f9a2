"""The CPU kernels compiled for 64-bit ARM and run under emulation: are their bits those of this machine?

Needs `g++-aarch64-linux-gnu` and `qemu-user` (Debian's names). What emulation cannot show: speed, and what a real processor does
with numbers below the normal ones, where the emulator follows the manual.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from detcheck.kernels._cpu import build

HERE = Path(__file__).parent
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
SOURCES = [build.SOURCES / f"{name}.cpp" for name in ("matmul", "attention", "rowwise")]
FLAGS = [flag for flag in build.FLAGS if flag not in ("-fPIC", "-shared")]


def hashes(compiler: str, flags: list[str], before: list[str]) -> dict[str, str]:
    """Name of a result -> its hash, by a program that is made for the purpose."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "kernels"
        sources = [HERE / "aarch64.cpp", *SOURCES]
        subprocess.run([compiler, *FLAGS, *flags, "-I", build.SOURCES, "-o", program, *sources], check=True)
        said = subprocess.run([*before, program], check=True, capture_output=True, text=True).stdout
    return dict(line.rsplit(" ", 1) for line in said.splitlines())


def compare() -> tuple[list[str], list[str]]:
    """Names of the results that are equal, and of those that are not, among all that an order defines."""
    level = next(v for v in reversed(build.levels()) if v.needs <= build.processor_flags() and v.order == build.PAIRS)
    here = hashes(build.compiler()[0], list(level.flags), [])
    there = hashes(COMPILER, ["-static"], [EMULATOR])
    assert here.keys() == there.keys() and len(here) > 90
    return [n for n in here if here[n] == there[n]], [n for n in here if here[n] != there[n]]


if __name__ == "__main__":
    if missing := [tool for tool in (COMPILER, EMULATOR) if not shutil.which(tool)]:
        sys.exit(f"{' and '.join(missing)} missing: apt-get install g++-aarch64-linux-gnu qemu-user")
    equal, other = compare()
    print(
        f"{len(equal)} of {len(equal) + len(other)} results have the bits of {build.description()} on aarch64, emulated"
    )
    print("\n".join(f"not equal: {name}" for name in other))
    sys.exit(bool(other))
