"""Calls and seconds to reveal the order in which stock linear adds, beside the published algorithm as it is published.

    python benchmarks/order.py [K] [N] [dtype] [threads]      512 256 float32 1
    python benchmarks/order.py [K] [N] bench                  what `make bench` measures: both dtypes, the published one at 4 rows alone

FPRev (Xie, Gao, Wang, Xue, USENIX ATC 2025) asks one pair of summands a call, and a summand of every group about all others in it;
here it is in plain, with float32's masks, in one output column. Ours asks as many pairs a call as there are columns. Goal, at
K = 4096 and N = 1024: at most 50 calls, revealed twice, with the repeats and the calls on the data that
the order is re-added on; and at most 0.5 s beside the op's own. At that size the published algorithm is 8190 calls for a sequential sum revealed twice: minutes, so the default is smaller.
"""

import json
import sys
import time

import torch
from measured import record

from detcheck.probes.order.options import Options
from detcheck.probes.order.session import Order
from detcheck.spec import Kernels, Spec
from detcheck.summation.tree import Tree
from detcheck.verdict import FailOn

HUGE = 2.0**100


def published(ask, length):
    """FPRev, for nodes of two: the first summand of a group against each of the others, then the same within each part."""
    seen, todo = [], [list(range(length))]
    while todo:
        group = todo.pop()
        sizes = {leaf: ask(group[0], leaf) for leaf in group[1:]}
        parts = [[leaf for leaf in group[1:] if sizes[leaf] == size] for size in sorted(set(sizes.values()))]
        seen.append((group[0], [part[0] for part in parts]))
        todo += parts
    roots, children = {}, {}
    for first, parts in reversed(seen):  # a part was seen after the group that it is in
        roots[first] = first
        for part in parts:
            children[length + len(children)] = [roots[first], roots[part]]
            roots[first] = length + len(children) - 1
    return Tree.of(length, children, roots[0])


def plain(k, n, rows):
    """(the tree, calls) by one pair a call."""
    x, w, calls = torch.ones(rows, k), torch.ones(n, k), 0

    def ask(i, j):
        nonlocal calls
        calls += 1
        w[0, i], w[0, j] = HUGE, -HUGE
        left = torch.nn.functional.linear(x, w)[0, 0].item()
        w[0, i] = w[0, j] = 1.0
        return k - int(left)

    return published(ask, k), calls


def ours(k, n, dtype, threads, sizes):
    """Batch size -> [(facts, calls, s, s in the op)] of everything that was observed."""
    own = Options("torch.nn.functional:linear", "linear", (k, n), (threads,))
    probe = Order(Spec("order", own, None, Kernels.STOCK, dtype, "cpu", 0, 2, sizes, FailOn.ANY))
    started = time.perf_counter()
    probe._revealer._data_of(probe._sums(probe._arms[0], 1))  # once a run, and here counted by itself
    made_s = time.perf_counter() - started
    print(f"data to re-add on: {made_s:.2f} s, once for all batch sizes")
    if dtype == "float32":
        record("order-data", [made_s])
    seen = {}
    for step in probe.subject.schedule.steps:
        for observation, outcome in zip(*probe.observe(step), strict=True):
            metrics = dict(observation.metrics)
            facts = json.loads(outcome.text)
            row = facts, metrics["calls"], observation.wall_s, metrics["op_s"]
            seen.setdefault(observation.condition.batch_size, []).append(row)
    return seen


def bench(k, n):
    torch.set_num_threads(1)
    for dtype in ("float32", "bfloat16"):
        seen = ours(k, n, dtype, 1, (1, 2, 4, 64))
        calls = {rows: sum(row[1] for row in found) for rows, found in seen.items()}
        beside = {rows: sum(row[2] - row[3] for row in found) for rows, found in seen.items()}
        sure = all(facts["sure"] for found in seen.values() for facts, *_ in found)
        assert sure, "an order could not be read, so its calls count nothing"
        print(f"{dtype}: calls {calls}, seconds beside the op {beside}", flush=True)
        record(f"order-{dtype}", [max(calls.values())], f"{min(calls.values()):.0f} to {max(calls.values()):.0f}")
        if dtype == "float32":
            told = f"{min(beside.values()):.2f} to {max(beside.values()):.2f} s"
            record("order-beside", [max(beside.values())], told)
            began = time.perf_counter()
            tree, each = plain(k, n, 4)
            told = f"{2 * each:,} calls in {2 * (time.perf_counter() - began):.0f} s, and {calls[4]:.0f} calls; the same tree"
            same = {tree.hash} == {facts["tree"] for facts, *_ in seen[4]}
            assert same, "the published algorithm finds another tree"
            record("order-published", [2 * each / calls[4]], told)


def main():
    given = sys.argv[1:]
    if given[2:] == ["bench"]:
        bench(*map(int, given[:2]))
        return
    k, n, dtype, threads = [*given, *("512", "256", "float32", "1")[len(given) :]]
    k, n, threads = int(k), int(n), int(threads)
    torch.set_num_threads(threads)
    print(f"stock linear, K = {k}, N = {n}, {dtype}, threads {threads}, torch {torch.__version__}; revealed twice")
    for rows, seen in ours(k, n, dtype, threads, (1, 2, 4, 64)).items():
        calls, wall_s, op_s = (sum(row[m] for row in seen) for m in (1, 2, 3))
        sure = "sure" if all(facts["sure"] for facts, *_ in seen) else "not sure"
        print(
            f"M = {rows:>2}: ours {calls:.0f} calls, {op_s:.2f} s in the op, {wall_s - op_s:.2f} s beside it, {sure}",
            end="",
        )
        if dtype == "float32":
            started = time.perf_counter()
            trees = [plain(k, n, rows) for _ in range(2)]
            same = {tree.hash for tree, _ in trees} == {facts["tree"] for facts, *_ in seen}
            seconds, each = time.perf_counter() - started, sum(calls for _, calls in trees)
            print(f"; published {each} calls, {seconds:.2f} s, {'the same tree' if same else 'another tree'}", end="")
        print()


if __name__ == "__main__":
    main()
