"""`detcheck report RUN` from start to exit, for runs of 1000 and of 100,000 stored completions of 1000 tokens, 100 distinct. Goal: at most 1 s for 1000.

The runs are written here as a probe writes them, a part for each 1000 completions: the stored run of the tests lends what is not about samples.

python benchmarks/report.py
"""

import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from judge import DISTINCT, TOKENS, outcomes
from measured import in_turn, ratios, record
from startup import COMMANDS, started

from detcheck.probes.completions.options import Options
from detcheck.records import Condition, Observation, Schedule, Step
from detcheck.storage.folder import RunFolder
from detcheck.storage.head import read_head, read_spec, read_subject

STORED = Path(__file__).parents[1] / "tests" / "stored" / "completions-stock" / "run"
PART, ROUNDS, SIZES = 1000, 5, {"1000": 1000, "100000": 100_000}


def write(folder, count):
    """A run of `count` completions in batches of 1 to 8 rows."""
    head = read_head(STORED)
    spec, subject = read_spec(head, Options), read_subject(head)
    ((case, role),) = subject.cases
    sizes, left = [], count
    while left:
        sizes.append(min(1 + len(sizes) % 8, left))
        left -= sizes[-1]
    steps = tuple(Step(n, case.input, f"batch-{size}", n, (0,) * size) for n, size in enumerate(sizes))
    subject = replace(subject, schedule=Schedule(steps, (), 8), cases=((case, role),))
    run, made, waiting = RunFolder.create(folder, "completions", str(count)), outcomes(), []
    run.write_head(spec, subject, head["command"], head["started"])
    n = 0
    for step, size in zip(steps, sizes, strict=True):
        for slot in range(size):
            came = made[(n * 7919) % DISTINCT].id
            condition = Condition(f"batch-{size}", size, slot, composition=f"{size} rows", threads=2)
            waiting.append(Observation(case, condition, step.index // 8, step.index, 0, came, (size,)))
            n += 1
        if len(waiting) >= PART or n == count:
            run.append(waiting, made)
            run.flush()
            waiting = []
    (run.path / "end.json").write_text('{"interrupted": false, "warnings": []}')
    return run.path


def main():
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: write(Path(folder), count) for name, count in SIZES.items()}
        shown, cpu = {}, {name: [] for name in runs}

        def children_s():
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime

        def report(name):
            before = children_s()
            done = subprocess.run(
                [sys.executable, "-m", "detcheck", "report", runs[name]], capture_output=True, text=True
            )
            assert done.returncode == 1, done.stderr
            shown[name] = done.stdout
            cpu[name].append(children_s() - before)

        works = {name: lambda name=name: report(name) for name in runs}
        took = in_turn(works | {"bare": lambda: started(COMMANDS["bare typer"])}, ROUNDS)
    for name, count in SIZES.items():
        assert f"Total samples: {count}" in shown[name].replace(",", ""), shown[name][:400]
        print(f"report of {count:,} completions of {TOKENS} tokens: {statistics.median(took[name]):.2f} s")
    told = {name: f"{statistics.median(cpu[name]):.2f} s of CPU" for name in SIZES}
    record("report", took["1000"], told["1000"])
    record("report-bare", ratios(took["1000"], took["bare"]))
    record("report-100000", took["100000"], told["100000"])
    record("report-100000-bare", ratios(took["100000"], took["bare"]))


if __name__ == "__main__":
    main()
