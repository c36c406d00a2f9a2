"""The CPU kernels on 64-bit ARM, emulated: `benchmarks/aarch64.py`, where its tools are."""

import importlib.util
import shutil
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "aarch64.py"


def test_every_kernel_has_the_bits_of_this_machine():
    spec = importlib.util.spec_from_file_location("aarch64", SCRIPT)
    aarch64 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(aarch64)
    if not shutil.which(aarch64.COMPILER) or not shutil.which(aarch64.EMULATOR):
        pytest.skip("needs a cross compiler and an emulator: apt-get install g++-aarch64-linux-gnu qemu-user")
    equal, other = aarch64.compare()
    assert not other and len(equal) > 90
