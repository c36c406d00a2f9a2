"""Faults that strike a real detcheck process: kill -9 at a moment that we name, disks that fill up; and what is on disk afterwards, read without detcheck.

A moment is a time, or a place: the n-th time that the process opens or moves a file of some name, and perhaps a while later.
"""

import contextlib
import hashlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTED = (sys.executable, str(Path(__file__).with_name("scripted_process.py")))
REACTING = (sys.executable, str(Path(__file__).with_name("reacting_process.py")))
DETCHECK = (sys.executable, "-m", "detcheck")

# Python itself tells when it opens and moves files: https://docs.python.org/3/library/audit_events.html
PLANT = """
import os, re, signal, sys, threading
event, pattern, nth, delay_s = os.environ.pop("FAULT").split(chr(10))
left = int(nth)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def hook(name, arguments):
    global left
    if name == event and re.search(pattern, str(arguments[1 if name == "os.rename" else 0])):
        left -= 1
        if left == 0 and not float(delay_s):
            die()
        if left == 0:
            timer = threading.Timer(float(delay_s), die)
            timer.daemon = True
            timer.start()
sys.addaudithook(hook)
"""


@dataclass(frozen=True)
class Moment:
    """When a process is killed."""

    phase: str
    event: str = ""
    """"open" or "os.rename"; "": only time counts"""
    file: str = ""
    """a regular expression that the file's path matches"""
    nth: int = 1
    delay_s: float = 0.0
    """after that, or after the process began"""

    def __str__(self):
        where = f"{self.event} {self.file} #{self.nth} " if self.event else ""
        return f"{self.phase}: {where}+{self.delay_s:.3f} s"


STARTING = "starting up"
OBSERVING = "observing"
WRITING = "writing a part"
JUDGING = "judging"
REPORTING = "writing reports"
REPORTS = r"report\.(json|md|html|sarif)|junit\.xml"


def moments(rng, counts, start_s, judge_s=0.2):
    """So many of each phase, in an order that can be: the run is whole when it is judged. start_s: until the first observation."""
    parts = [(e, rf"{kind}/\d+\.parquet{end}") for kind in ("outcomes", "observations") for e, end in WAYS]
    heads = [(e, rf"run\.json{end}") for e, end in WAYS]
    first, last = [], []
    for n in range(counts.get(STARTING, 0)):
        first.append(Moment(STARTING, *heads[n % 2]) if n < 2 else Moment(STARTING, delay_s=rng.uniform(0, start_s)))
    for _ in range(counts.get(OBSERVING, 0)):
        first.append(Moment(OBSERVING, "os.rename", r"observations/\d+\.parquet$", 1, rng.uniform(0.0, 0.4)))
    for n in range(counts.get(WRITING, 0)):
        first.append(Moment(WRITING, *parts[n % len(parts)], nth=rng.randint(1, 2)))
    rng.shuffle(first)
    first.sort(key=lambda m: "run" not in m.file)  # there is one only before there is a run
    for n in range(counts.get(JUDGING, 0)):
        ends = [(e, rf"{name}{end}") for name in (r"end\.json", r"baseline\.json") for e, end in WAYS]
        at = ends[n % len(ends)] if n % 2 else ("os.rename", r"end\.json$")
        last.append(Moment(JUDGING, *at, delay_s=0.0 if n % 2 else rng.uniform(0.001, judge_s)))
    for n in range(counts.get(REPORTING, 0)):
        event, end = WAYS[n % 2]
        last.append(Moment(REPORTING, event, rf"/({REPORTS}){end}", nth=rng.randint(1, 5)))
    return first + last


WAYS = (("open", r"\.tmp$"), ("os.rename", "$"))  # nothing of it is written yet; all of it, beside its name


def environment(plant=None, **more):
    """Of a child process: this source, and perhaps code that runs before anything else."""
    path = [str(ROOT), *([str(plant)] if plant else [])]
    found = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]).rstrip(":")}
    return found | {name: str(value) for name, value in more.items()}


def strike(command, moment, **more):
    """Runs the command until that moment: (exit status, stderr). -9: it was killed."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as err:
        plant = None
        if moment.event:
            Path(folder, "sitecustomize.py").write_text(PLANT)
            plant, more = folder, more | {"FAULT": f"{moment.event}\n{moment.file}\n{moment.nth}\n{moment.delay_s}"}
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err, env=environment(plant, **more))
        if not moment.event:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(moment.delay_s)
            child.send_signal(signal.SIGKILL)
        status = child.wait()
        err.seek(0)
        return status, err.read()


def run(command, **more):
    return subprocess.run(command, capture_output=True, text=True, env=environment(**more))


def rows(run):
    """Every observation on disk, by pyarrow alone: ((input, condition, trial, batch, slot), outcome, process)."""
    import pyarrow.parquet

    for part in sorted(Path(run, "observations").glob("*.parquet")):
        with part.open("rb") as file:
            found = pyarrow.parquet.read_table(file).to_pylist()
        for row in found:
            key = tuple(row[name] for name in ("input", "condition", "trial", "batch", "slot", "sample"))
            yield key, row["outcome"], row["process"]


def mapping(run):
    """(input, condition, trial, batch, slot, sample) -> outcome. Raises AssertionError where a sample is there twice."""
    found = {}
    for key, outcome, _ in rows(run):
        assert key not in found, f"{key} is there twice"
        found[key] = outcome
    return found


def digest(found):
    """Of a mapping, one line to compare. The number of a batch is left out: it is the place in the schedule, which the condition and trial name."""
    lines = sorted(
        f"{name}\t{condition}\t{trial}\t{slot}\t{outcome}"
        for (name, condition, trial, _, slot, _), outcome in found.items()
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def payloads(run):
    """The ids of all outcomes on disk, each once."""
    import pyarrow.parquet

    parts = sorted(Path(run, "outcomes").glob("*.parquet"))
    return list(
        itertools.chain(*(pyarrow.parquet.read_table(part, columns=["id"])["id"].to_pylist() for part in parts))
    )


@dataclass
class Struck:
    """A run that was killed again and again, and went on."""

    run: Path
    hits: list
    """moments that struck"""
    missed: list
    """moments at which the process was over already"""
    lost: list
    """what was on disk once and was not later"""
    tracebacks: list


def struck(command, parent, planned, stop_early=False, **more):
    """Kills the command at each planned moment and goes on with --resume; without a run.json there is nothing to go on with, and it begins again."""
    hits, missed, lost, tracebacks, before = [], [], [], [], {}
    for moment in planned:
        run = of(parent)
        asked = (
            [*command, "--output-dir", str(parent)]
            if run is None
            else [*command[: position(command)], "--resume", str(run)]
        )
        status, err = strike(asked, moment, **more)
        (hits if status == -signal.SIGKILL else missed).append(moment)
        tracebacks += [err] if "Traceback" in err else []
        if run := of(parent):
            now = mapping(run)
            lost += [key for key, outcome in before.items() if now.get(key) != outcome]
            before = now
    return Struck(of(parent), hits, missed, lost, tracebacks)


def position(command):
    """Where the options begin: behind the name of the probe."""
    return next(n for n, word in enumerate(command) if word == "completions") + 1


def of(parent):
    """The newest run in there that began; None: there is none."""
    found = sorted((p.parent for p in Path(parent).glob("*/run.json")), key=lambda p: (p / "run.json").stat().st_mtime)
    return found[-1] if found else None


def peak_mib(command, **more):
    """(exit code, most memory that it had, in MiB, seconds)"""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(**more))
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_maxrss / 1024, time.monotonic() - began


class NoMountError(Exception):
    """Why no small disk can be had."""


@contextlib.contextmanager
def small_disk(folder, size_kib):
    """A disk of that size at that folder. Raises NoMountError with words."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise NoMountError("mounting a small disk needs root")
    Path(folder).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", folder], capture_output=True)
    if done.returncode:
        raise NoMountError(f"this system does not let root mount a tmpfs: {done.stderr.decode().strip()}")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


def resize(folder, size_kib):
    subprocess.run(["mount", "-o", f"remount,size={size_kib}k", folder], check=True)


def seeded(seed):
    return random.Random(seed)


def plain(err):
    """stderr without progress."""
    return "\n".join(line for line in err.splitlines() if not re.match(r"detcheck: \d+/\d+ samples", line))
