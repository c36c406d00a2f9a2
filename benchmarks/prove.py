"""`detcheck order --prove`: every pair of summands of stock `linear`, K = 4096, N = 1024, 64 rows. Goal: at most 4 s on two threads.

Beside it stands the op's own time in these calls, and what the rest of the observation (revealing and re-adding) takes is left out.

    python benchmarks/prove.py [K] [N]
"""

import statistics
import sys
import time

import torch
from measured import ratios, record

from detcheck.probes.order import pairs
from detcheck.probes.order.options import Options
from detcheck.probes.order.session import Order
from detcheck.spec import Kernels, Spec
from detcheck.verdict import FailOn

ROWS, ROUNDS = 64, 5


def main():
    k, n = map(int, sys.argv[1:] or (4096, 1024))
    torch.set_num_threads(2)
    own = Options("torch.nn.functional:linear", "linear", (k, n), (2,), prove=True)
    took, beside, cpu, given = [], [], [], pairs.prove

    def timed(sums, place, tree):
        before, started, used = sums.op_s, time.perf_counter(), time.process_time()
        proved = given(sums, place, tree)
        took.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
        beside.append(sums.op_s - before)
        assert proved.pairs == k * (k - 1) and not proved.unlike, proved
        return proved

    pairs.prove = timed
    for _ in range(ROUNDS):
        probe = Order(Spec("order", own, None, Kernels.STOCK, "float32", "cpu", 0, 1, (ROWS,), FailOn.ANY))
        for step in probe.subject.schedule.steps:
            probe.observe(step)
    assert len(took) == ROUNDS, took
    middle = statistics.median(took)
    print(f"{k * (k - 1):,} pairs: {middle:.2f} s, {statistics.median(beside):.2f} of these in the op")
    record("prove", took, f"{statistics.median(cpu):.2f} s of CPU, both threads together")
    record("prove-op", ratios(took, beside))


if __name__ == "__main__":
    main()
