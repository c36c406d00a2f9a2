"""Every example runs, and says what it says it says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("op", "code", "says"), [("norm", 0, "identical"), ("split_sum", 1, "batch-variant")])
def test_a_users_own_op_from_the_command_line(op, code, says, tmp_path):
    arguments = ["kernels", "--op", f"my_kernels:{op}", "--batch-sizes", "1,2,8,33", "-q", "--output-dir", tmp_path]
    done = subprocess.run([sys.executable, "-m", "detcheck", *arguments], cwd=EXAMPLES, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (code, says), done.stdout + done.stderr
    assert f"detcheck kernels --op my_kernels:{op}" in (EXAMPLES / "my_kernels.py").read_text()


@pytest.mark.parametrize(("kernel", "code", "says"), [("before", 1, "refuted"), ("after", 0, "certified")])
def test_a_users_triton_kernel_before_and_after(kernel, code, says, tmp_path):
    arguments = ["certify", "--op", f"triton_sums:{kernel}", "--target", "sm_90", "-q", "--output-dir", tmp_path]
    done = subprocess.run([sys.executable, "-m", "detcheck", *arguments], cwd=EXAMPLES, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (code, says), done.stdout + done.stderr
    assert f"detcheck certify --op triton_sums:{kernel}" in (EXAMPLES / "triton_sums.py").read_text()


def test_the_pytest_file(tmp_path):
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_my_kernels.py"]
    done = subprocess.run([sys.executable, *arguments], cwd=EXAMPLES, capture_output=True, text=True)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout
