"""What a fleet costs the process that asks it: memory and time with 10, 50 and 200 real workers of a local Ray cluster, all alike and all different;
and memory for 10,000 answers that are made up, to see what a large fleet would hold.

python benchmarks/fleet.py            # a few minutes: the workers share this machine's processors
python benchmarks/fleet.py --made-up  # the made-up answers alone: seconds
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

from measured import record

COUNTS = (10, 50, 200)
OPS = """
import os, time
from torch import randn, Generator

def make_inputs(rows, dtype, seed):
    return (randn(rows, 64, generator=Generator().manual_seed(seed)).to(dtype),)

def alike(x):
    return x * 2

began = time.time_ns()

def different(x):
    return x * (1 + (time.time_ns() - began) % 10**9)
"""


def one(op, count, address, folder):
    """A fleet, in a process of its own, and what it came to."""
    import psutil
    import ray

    from detcheck.fleet import cluster, run
    from detcheck.fleet.options import fleet_spec
    from detcheck.spec import Kernels

    ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
    own = {"op": f"fleet_ops:{op}", "address": address, "workers": count}
    shared = {"kernels": Kernels.STOCK, "dtype": "float32", "batch_sizes": (1, 4), "trials": 1}
    process, seen = psutil.Process(), {}

    def watch(p):
        seen[p.done] = process.memory_info().rss

    os.chdir(folder)
    began = time.monotonic()
    found = run.ask(fleet_spec("kernels", own, shared), Path(folder, "runs"), watch, "benchmark")
    took = time.monotonic() - began
    stored = sum(file.stat().st_size for file in found.path.rglob("*") if file.is_file())
    tables = len(list((found.path / "tables").iterdir()))
    print(json.dumps({
        "op": op, "members": count, "tables": tables, "verdict": str(found.verdict), "missing": found.findings[0].missing,
        "seconds": round(took, 1), "rss_first_mb": round(seen[1] / 2**20, 1), "rss_last_mb": round(seen[count] / 2**20, 1),
        "rss_judged_mb": round(process.memory_info().rss / 2**20, 1), "stored_kb": round(stored / 1024), "at_once": cluster.AT_ONCE,
    }))  # fmt: skip
    ray.shutdown()


def made_up(count, distinct):
    """Python's own memory, in KiB, after that many answers of which so many are distinct: before and after they are judged."""
    from detcheck.fleet.folder import FleetFolder
    from detcheck.fleet.groups import Recorded
    from detcheck.fleet.judge import findings
    from detcheck.fleet.members import Came, FleetMember, table_digest
    from detcheck.fleet.watching import Watch
    from detcheck.records import Case, Condition
    from detcheck.storage import baselines
    from detcheck.storage.baselines import Baseline, Known, Settled

    def table(n):
        name = f"{n:064x}"
        conditions = tuple(Settled(Condition(f"batch-{size}", size, None, "c"), (0,), name) for size in range(2, 40))
        case = Case("completions", "m", "stock", "float32", "0:a")
        return baselines.document(Baseline("", "completions", {}, {}, {}, (Known(case, "identical", 0, "bits", "token", {name: 80}, {name: name}, "0" * 1024, "0" * 1024, conditions),)))  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        made = FleetFolder.create(Path(folder), "fleet completions")
        watch = Watch(made, count)
        watch.take(
            Came(FleetMember(0, "first", table_digest(table(0)), "e", "identical"), {"device": "cpu"}, lambda: table(0))
        )
        tracemalloc.start()
        for n in range(1, count):
            document = table(n % distinct)
            member = FleetMember(n, f"worker {n} on node {n // 8}", table_digest(document), "e", "identical")
            watch.take(Came(member, {"device": "cpu"}, lambda document=document: document))
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        names = [m.name for m in watch.members]
        began = time.monotonic()
        findings(
            Recorded(
                names,
                [replace(m, number=n) for n, m in enumerate(watch.members, 1)],
                made.table,
                made.environments(),
                {},
            ),
            Case("fleet", "m", "stock", "", ""),
        )
        took = time.monotonic() - began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return {
        "members": count,
        "tables": distinct,
        "held_kb": round(held / 1024),
        "judging_peak_kb": round(peak / 1024),
        "judging_s": round(took, 2),
    }


def main():
    asked = argparse.ArgumentParser()
    asked.add_argument("--one", nargs=4, metavar=("OP", "COUNT", "ADDRESS", "FOLDER"))
    asked.add_argument("--made-up", action="store_true")
    given = asked.parse_args()
    if given.one:
        op, count, *rest = given.one
        return one(op, int(count), *rest)
    print("made-up answers, tables of 38 conditions")
    found = {}
    for count, distinct in ((100, 1), (1000, 1), (10_000, 1), (1000, 10), (1000, 200)):
        found[count, distinct] = made_up(count, distinct)
        print(json.dumps(found[count, distinct]), flush=True)
    many, few = found[10_000, 1]["held_kb"], found[100, 1]["held_kb"]
    record("fleet-held", [many / few], f"{many} and {few} KiB")
    record("fleet-judge", [found[10_000, 1]["judging_s"]])
    record("fleet-judge-distinct", [found[1000, 200]["judging_s"]])
    if given.made_up:
        return None
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "fleet_ops.py").write_text(OPS)
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        try:
            print("real workers, on a node of two processors", flush=True)
            for op in ("alike", "different"):
                gained = []
                for count in COUNTS:
                    command = [sys.executable, __file__, "--one", op, str(count), made.address, folder]
                    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                    print(told, end="", flush=True)
                    line = json.loads(told.splitlines()[-1])
                    gained.append(round(line["rss_last_mb"] - line["rss_first_mb"], 1))
                of_each = " and ".join(f"{mb} MB with {count}" for mb, count in zip(gained, COUNTS, strict=True))
                record(f"fleet-workers-{op}", [gained[-1] - gained[0]], f"from the first answer to the last: {of_each}")
        finally:
            made.shutdown()
    return None


if __name__ == "__main__":
    main()
