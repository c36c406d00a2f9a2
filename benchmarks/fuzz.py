"""Every fuzz target of tests/fuzz for a while: by atheris, which is led by the code's coverage, where it is installed; else by hypothesis at random.

    python benchmarks/fuzz.py --minutes 5                      # of each target
    python benchmarks/fuzz.py --minutes 20 --targets runs,ttir
    python benchmarks/fuzz.py --replay fuzz-finds/runs-1a2b3c4d.json

What must not be is kept as a file, one a kind, with the command that reads it again, and the target goes on. Exits with 1 if there is any.
`make fuzz MINUTES=5 TARGETS=runs` does the same. docs/fuzz.md has the table that this printed.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent.parent
sys.path[:0] = [str(HERE), str(HERE / "tests" / "fuzz"), str(HERE / "tests" / "doubles")]
MOST_BYTES = 8 << 30  # of addresses
LONGEST = 16384  # bytes that an input's choices are made of


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="of each target")
    parser.add_argument("--targets", help="with commas; default: all")
    parser.add_argument("--finds", type=Path, default=Path("fuzz-finds"))
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), default=engine())
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.replay:
        return replay(asked.replay)
    if asked.one:
        return one(asked)
    from fuzzing import targets

    names = asked.targets.split(",") if asked.targets else sorted(targets())
    print(
        f"{asked.engine}, {asked.minutes:g} minutes a target\n\n| target | minutes | of a core | inputs | a second of a core | finds |\n|---|---|---|---|---|---|"
    )
    found = 0
    for name in names:
        told = run(name, asked)
        found += told["finds"]
        per_s = told["inputs"] / max(told["cpu"], 1e-9)
        print(
            f"| {name} | {told['seconds'] / 60:.1f} | {told['cpu'] / 60:.1f} | {told['inputs']:,} | {per_s:.0f} | {told['finds']} |",
            flush=True,
        )
    return 1 if found else 0


def engine():
    return "atheris" if importlib.util.find_spec("atheris") else "hypothesis"


def run(name, asked):
    """One target, in a process of its own: a reader that takes the whole process with it is a find too."""
    with tempfile.TemporaryDirectory() as folder:
        status = Path(folder) / "status.json"
        words = [sys.executable, __file__, "--one", name, "--minutes", str(asked.minutes), "--engine", asked.engine]
        words += ["--finds", str(asked.finds)]
        made = subprocess.Popen(
            words,
            env=os.environ | {"DETCHECK_FUZZ_STATUS": str(status)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        out, err = made.communicate()
        print(
            *[f"  {line}" for line in out.splitlines() if "FOUND" in line or "--replay" in line],
            sep="\n",
            file=sys.stderr,
        )
        told = (
            json.loads(status.read_text())
            if status.is_file()
            else {"seconds": 0.0, "cpu": 0.0, "inputs": 0, "finds": 0}
        )
        if made.returncode:
            told["finds"] += 1
            print(f"{name} ended with {made.returncode}:\n{err[-2000:]}", file=sys.stderr)
        return told


def one(asked):
    """A target, until its time is over."""
    import warnings

    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    warnings.simplefilter("ignore")
    with instrumented(asked.engine) as atheris:
        from fuzzing import Finds, targets
        from hypothesis import HealthCheck, given, settings

        target = targets()[asked.one]
        asked.finds.mkdir(parents=True, exist_ok=True)
        finds = Finds(target, asked.finds.resolve())
        began, last = time.monotonic(), [0.0]

        @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=10**9)
        @given(target.files)
        def reads(files):
            finds.run(files)
            tell(finds, began, last)
            if time.monotonic() - began > asked.minutes * 60:
                tell(finds, began, [0.0])
                sys.stdout.flush()
                os._exit(0)  # neither engine ends by itself at a time

        if not atheris:
            reads()
        with tempfile.TemporaryDirectory() as corpus:
            for n in range(64):  # so that it begins with inputs that are long enough for a file
                (Path(corpus) / str(n)).write_bytes(random.randbytes(LONGEST // 4))
            atheris.Setup(
                [sys.argv[0], *libfuzzer(asked.finds), corpus],
                reads.hypothesis.fuzz_one_input,
            )
            atheris.Fuzz()
    return 0


def libfuzzer(finds):
    """Its options. What it keeps itself (`slow-unit-*`, `crash-*`, `timeout-*`) goes to the finds, not into the current folder."""
    kept = f"-artifact_prefix={finds.resolve()}/"
    return [f"-max_len={LONGEST}", "-timeout=600", "-rss_limit_mb=0", "-len_control=0", kept]


@contextlib.contextmanager
def instrumented(engine):
    """atheris, and all of detcheck that is imported inside counted by it; None where hypothesis is asked for."""
    if engine != "atheris":
        yield None
        return
    import atheris

    with atheris.instrument_imports(include=["detcheck"]):
        yield atheris


def tell(finds, began, last):
    """How far it is, once a second: whatever becomes of this process, that is known."""
    now = time.monotonic()
    if now - last[0] > 1 and (path := os.environ.get("DETCHECK_FUZZ_STATUS")):
        last[0] = now
        Path(path).write_text(
            json.dumps(
                {
                    "seconds": now - began,
                    "cpu": time.process_time(),
                    "inputs": finds.executions,
                    "finds": len(finds.kinds),
                }
            )
        )


def replay(path):
    from fuzzing import replayed, targets, tried

    name, files = replayed(path)
    tried(targets()[name], files)
    print(f"{path}: nothing is wrong with it any more")
    return 0


if __name__ == "__main__":
    sys.exit(main())
