"""What is asked of the machine itself, with what is there."""

import sys

from detcheck import machine


def test_free_memory_with_psutil_and_without(monkeypatch):
    with_psutil = machine.free_memory()
    monkeypatch.setitem(sys.modules, "psutil", None)
    without = machine.free_memory()
    assert with_psutil > 1 << 20 and without > 1 << 20


def test_what_chooses_kernels_on_a_gpu_is_asked_without_one():
    """No flag is missing where torch has it, and what it does not have is left out."""
    found = machine.of_gpu()
    assert isinstance(found["cuda.matmul.allow_fp16_reduced_precision_reduction"], bool)
    assert {"flash", "math"} <= set(found["cuda.sdpa"].split(", "))
    assert all(value is not None for value in found.values())


def test_products_of_one_run_share_what_is_stored():
    """The second product has the first one's bits: it is compared where it is, and refers to the same outcome."""
    from detcheck.probes.matmul.options import Options
    from detcheck.probes.matmul.session import Matmul
    from detcheck.spec import Kernels, Spec

    opened = Matmul(Spec("matmul", Options((4, 8, 4)), None, Kernels.STOCK, "float32", "cpu", 0, 3, None))
    made = [opened.observe(step) for step in opened.subject.schedule.steps]
    assert len({outcomes[0].id for _, outcomes in made}) == 1 and made[1][1][0] is made[0][1][0]
    opened._a = opened._a + 1  # another product: another outcome, read for itself
    _, (other,) = opened.observe(opened.subject.schedule.steps[0])
    assert other.id != made[0][1][0].id
