"""The CPU kernels on 64-bit ARM, emulated: `benchmarks/aarch64.py`, where its tools are."""

import shutil

import aarch64
import pytest


def test_every_kernel_has_the_bits_of_this_machine():
    if not shutil.which(aarch64.COMPILER) or not shutil.which(aarch64.EMULATOR):
        pytest.skip("needs a cross compiler and an emulator: apt-get install g++-aarch64-linux-gnu qemu-user")
    equal, other = aarch64.compare()
    assert not other and len(equal) > 90
