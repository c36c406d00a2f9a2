"""Faults under load: runs of ten thousand samples that are killed, filled up, cut off and asked to end, and what is left of them.

    python benchmarks/faults.py            # prints the table; exits with 1 where a row is wrong
    python benchmarks/faults.py --write    # and writes it into docs/faults.md (make faults)
    python benchmarks/faults.py --only memory --seed 7

Every detcheck here is a process of its own, and every kill is SIGKILL. It needs about ten minutes of two cores.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "doubles"), str(ROOT)]

import faults as f  # noqa: E402
from server_process import started  # noqa: E402

PAGE = ROOT / "docs" / "faults.md"
BEGIN = "<!-- what follows is written by benchmarks/faults.py -->\n"
SAMPLES = 10_000
PROMPTS = 10
QUIET = ("--quiet", "--format", "json")


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    fault: str
    done: str
    seen: str
    right: bool


def asked(*more, samples=SAMPLES, tokens=4, program=f.SCRIPTED):
    return [*program, "completions", "-n", str(samples), "--max-tokens", str(tokens), *QUIET, *more]


def resumed(run, program=f.SCRIPTED, **more):
    done = f.run([*program, "completions", "--resume", str(run), *QUIET], **more)
    return done, json.loads(done.stdout) if done.stdout else {"verdict": None, "findings": [], "summary": {}}


def facts(report, *left_out):
    """What a report says of its findings, but for how long anything took and what the bits depend on."""
    found = []
    for finding in report["findings"]:
        kept = {name: value for name, value in finding.items() if name not in ("metrics", *left_out)}
        found.append(kept | {"evidence": finding["evidence"] | {"varies_with": None}})
    return found


def varies(report):
    """Of each finding, what its bits depend on."""
    return [finding["evidence"].get("varies_with") or [] for finding in report["findings"]]


def same_as(whole, report, run):
    """(words, whether the run has all that the undisturbed one has, once, and the same verdict)."""
    path, first = whole
    there, here = f.mapping(path), f.mapping(run)
    ids = f.payloads(run)
    right = here == there and set(ids) == set(f.payloads(path)) and report["verdict"] == first["verdict"]
    told = f"{len(here)} of {len(there)} samples, digest {f.digest(here)} ({f.digest(there)} undisturbed), {report['verdict']}"
    if (found := varies(report)) == (all_of := varies(first)):
        return told, right and facts(report) == facts(first)
    # What the bits depend on is told from conditions that one process saw: where a kill fell between two of them, less is named.
    less = all(set(some) <= set(of) for some, of in zip(found, all_of, strict=True))
    told += "".join(
        f"; depends on {', '.join(some)} ({', '.join(of)} undisturbed)" for some, of in zip(found, all_of, strict=True)
    )
    return told, right and less and facts(report, "note") == facts(first, "note")


def kill_row(name, command, folder, counts, rng, program, start_s, **more):
    done = f.run([*command, "--output-dir", str(folder / "whole")], **more)
    whole = f.of(folder / "whole"), json.loads(done.stdout)
    planned = f.moments(rng, counts, start_s)
    struck = f.struck(command, folder / "killed", planned, **more)
    _, report = resumed(struck.run, program, **more)
    told, right = same_as(whole, report, struck.run)
    phases = Counter(moment.phase for moment in struck.hits)
    where = ", ".join(f"{n} {phase}" for phase, n in phases.items())
    lost = f"; lost in between: {len(struck.lost)}" if struck.lost else ""
    for moment in struck.missed:
        print(f"  the process was over before {moment}", file=sys.stderr)
    for traceback in struck.tracebacks:
        print(traceback, file=sys.stderr)
    right = right and not (struck.lost or struck.missed or struck.tracebacks)
    return Row(f"{name}, killed {len(struck.hits)} times", where, told + lost, right)


def killed_server(folder, rng):
    prompts = folder / "prompts.txt"
    folder.mkdir(parents=True, exist_ok=True)
    prompts.write_text("".join(f"Tell me about number {n}\n" for n in range(PROMPTS)))
    counts = {f.STARTING: 8, f.OBSERVING: 12, f.WRITING: 14, f.JUDGING: 8, f.REPORTING: 8}
    with started("--takes", 0.02) as (_, url):
        command = asked(
            "--base-url", url, "--prompt-file", str(prompts), "--allow-unseen-batch",
            samples=SAMPLES // PROMPTS, program=f.DETCHECK,
        )  # fmt: skip
        name = f"{SAMPLES} samples of {PROMPTS} prompts from a server"
        yield kill_row(name, command, folder, counts, rng, f.DETCHECK, 1.5)


def killed_scripted(folder, rng):
    counts = {f.STARTING: 3, f.OBSERVING: 6, f.WRITING: 8, f.JUDGING: 4, f.REPORTING: 4}
    name = f"{SAMPLES} samples whose bits depend on the batch, from an engine in the process"
    yield kill_row(name, asked(), folder, counts, rng, f.SCRIPTED, 2.5, SCRIPTED_S=0.2)


def killed_model(folder, rng):
    counts = {f.STARTING: 2, f.OBSERVING: 4, f.WRITING: 3, f.JUDGING: 2, f.REPORTING: 2}
    folder.mkdir(parents=True)
    command = [*f.REACTING, "completions", "-n", "40", "--max-tokens", "12", *QUIET]
    yield kill_row("40 samples of the embedded model", command, folder, counts, rng, f.REACTING, 4.0)


def full_disks(folder, rng):
    done = f.run([*asked(samples=2000), "--output-dir", str(folder / "whole")], SCRIPTED_S=0.01)
    whole = f.of(folder / "whole"), json.loads(done.stdout)
    need = sum(file.stat().st_size for file in whole[0].rglob("*") if file.is_file()) // 1024
    codes, lost, full, right, told = Counter(), 0, 0, True, ""
    for n in range(4):
        size = rng.randint(8, need)
        with f.small_disk(folder / f"disk{n}", size) as disk:
            before, command = {}, [*asked(samples=2000), "--output-dir", str(disk)]
            for _ in range(40):
                done = f.run(command, SCRIPTED_S=0.01)
                codes[done.returncode] += 1
                run = f.of(disk)
                full += "No space left" in done.stderr + done.stdout
                right = right and "Traceback" not in done.stderr and done.returncode in (1, 2, 3, 4)
                now = f.mapping(run) if run else {}
                lost += sum(now.get(key) != outcome for key, outcome in before.items())
                before = now
                if len(now) == 2000 and (run / "report.sarif").is_file():
                    break
                size += rng.randint(8, 120)
                f.resize(disk, size)
                command = [*f.SCRIPTED, "completions", "--resume", str(run), *QUIET] if run else command
            told, exact = same_as(whole, resumed(run)[1], run)
            right = right and exact
    said = ", ".join(f"{n} times {code}" for code, n in sorted(codes.items()))
    yield Row(
        "4 disks that are full at a random moment, and given more room until the run is whole",
        f"{full} commands found no room; exit codes: {said}",
        f"lost: {lost}; each time {told}",
        right and not lost and full > 0,
    )


def killed_servers(folder, rng):
    command = lambda url, out: asked(  # noqa: E731
        "--base-url", url, "--allow-unseen-batch", "--output-dir", str(out), samples=400, tokens=8, program=f.DETCHECK
    )
    with started("--takes", 0.02) as (_, url):
        f.run(command(url, folder / "whole"))
    there = by_place(f.mapping(f.of(folder / "whole")))
    rows = []
    for n in range(3):
        out = folder / str(n)
        with started("--takes", 0.02) as (server, url):
            client = subprocess.Popen(
                command(url, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=f.environment()
            )
            while not list(out.glob("*/observations/*.parquet")):
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 1.0))
            server.kill()
            text, err = client.communicate()
        report, run = json.loads(text), f.of(out)
        first = f.mapping(run)
        named = sum(outcome is None for outcome in first.values())
        with started("--port", url.rsplit(":")[-1], "--takes", 0.02):
            _, again = resumed(run, f.DETCHECK)
        last = f.mapping(run)
        kept = all(last[key] == outcome for key, outcome in first.items())
        answered = {key: outcome for key, outcome in by_place(last).items() if outcome}
        exact = len(last) == 400 and kept and all(there[key] == outcome for key, outcome in answered.items())
        missing = again["summary"]["missing"]
        ok = exact and missing == named > 0 and client.returncode == 3 and "Traceback" not in err
        ok = ok and (again["verdict"], report["verdict"]) == ("inconclusive", "inconclusive")
        rows.append(
            (ok, f"{len(first)} recorded, {named} of them missing and named; resumed: {len(last)}, {missing} missing")
        )
    yield Row(
        "the server killed in the middle, and started again for --resume",
        "3 times",
        "; ".join(t for _, t in rows),
        all(o for o, _ in rows),
    )
    other, same = folder / "other", folder / "same"
    shutil.copytree(f.of(folder / "0"), other)
    shutil.copytree(f.of(folder / "1"), same)
    for run in (other, same):
        torn = sorted((run / "observations").iterdir())[-1]
        torn.unlink()
    port = json.loads((other / "run.json").read_text())["spec"]["base_url"][0].rsplit(":")[-1]
    with started("--port", port, "--model", "another"):
        done = f.run([*f.DETCHECK, "completions", "--resume", str(other), *QUIET])
    caught = done.returncode == 2 and "m then, another now" in done.stderr and "Traceback" not in done.stderr
    yield Row(
        "the server comes back with a model of another name",
        "--resume",
        f"exit code {done.returncode}: refused by name",
        caught,
    )
    port = json.loads((same / "run.json").read_text())["spec"]["base_url"][0].rsplit(":")[-1]
    with started("--port", port, "--other"):
        _, report = resumed(same, f.DETCHECK)
    yield Row(
        "the server comes back with other weights under the same name", "--resume",
        f"{report['verdict']}, {report['findings'][0]['distinct']} distinct", report["exit_code"] == 1,
    )  # fmt: skip


def by_place(found):
    """Without the number of the batch."""
    return {(name, condition, trial, slot): outcome for (name, condition, trial, _, slot, _), outcome in found.items()}


def signals(folder, rng):
    for names in (("SIGTERM",), ("SIGHUP",), ("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT")):
        seen, right = Counter(), True
        for n in range(2):
            out = folder / "-".join(names) / str(n)
            command = [*asked(samples=2000), "--output-dir", str(out)]
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=f.environment(SCRIPTED_S=0.05),
                preexec_fn=hears,
            )  # fmt: skip
            while not list(out.glob("*/observations/*.parquet")):
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.8))
            for name in names:
                child.send_signal(getattr(signal, name))
                time.sleep(rng.uniform(0, 0.3))
            text, err = child.communicate()
            kept = len(f.mapping(f.of(out)))
            seen[child.returncode] += 1
            told = len(names) > 1 or json.loads(text)["summary"]["samples"] == kept > 0
            _, again = resumed(f.of(out))
            right = right and child.returncode == 130 and "Traceback" not in err and told
            right = right and again["verdict"] == "batch-variant" and len(f.mapping(f.of(out))) == 2000
        codes = ", ".join(f"{n} times {code}" for code, n in seen.items())
        yield Row(", then ".join(names) + " in the middle", "twice", f"exit codes: {codes}; resumed exactly", right)


def hears():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def two_writers(folder, rng):
    command = [*asked(samples=2000), "--output-dir", str(folder)]
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=f.environment(SCRIPTED_S=0.05)
    )
    while not list(folder.glob("*/observations/*.parquet")):
        time.sleep(0.02)
    run = f.of(folder)
    others = [subprocess.Popen([*f.SCRIPTED, "completions", "--resume", str(run), *QUIET], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=f.environment()) for _ in range(2)]  # fmt: skip
    said = [other.communicate()[1] for other in others]
    child.wait()
    refused = [
        other.returncode == 2 and "written by another process" in err for other, err in zip(others, said, strict=True)
    ]
    yield Row(
        "two more processes that resume a run while it is written", "--resume twice at once",
        f"{sum(refused)} refused with exit code 2; {len(f.mapping(run))} samples, each once",
        all(refused) and len(f.mapping(run)) == 2000,
    )  # fmt: skip


def memory(folder, rng):
    peaks, right, codes = {}, True, set()
    for n in (SAMPLES, 10 * SAMPLES):
        out = folder / str(n)
        peaks["run", n] = f.peak_mib([*asked(samples=n), "--output-dir", str(out)])
        run = f.of(out)
        peaks["report", n] = f.peak_mib([*f.DETCHECK, "report", str(run)])
        peaks["--resume", n] = f.peak_mib([*f.SCRIPTED, "completions", "--resume", str(run), *QUIET])
        right = right and len(f.mapping(run)) == n
        codes |= {peak[0] for peak in peaks.values()}
    for what in ("run", "report", "--resume"):
        small, large = peaks[what, SAMPLES], peaks[what, 10 * SAMPLES]
        grown = large[1] / small[1]
        told = f"{small[1]:.0f} MiB, and {large[1]:.0f} MiB: {grown:.2f} times ({small[2]:.0f} s and {large[2]:.0f} s)"
        done = {
            "run": "observed, judged and all reports written",
            "report": "judged and shown again",
            "--resume": "of a run that is whole",
        }
        yield Row(
            f"memory of {SAMPLES} samples and of {10 * SAMPLES}, {what}",
            done[what],
            told,
            right and grown < 1.25 and codes == {1},
        )


PARTS = {
    "server": killed_server, "scripted": killed_scripted, "model": killed_model, "disk": full_disks, "servers": killed_servers,
    "signals": signals, "writers": two_writers, "memory": memory,
}  # fmt: skip


def table(rows):
    lines = ["| fault | how | what was seen | right |", "|---|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {r.fault} | {r.done} | {r.seen} | {'yes' if r.right else '**no**'} |" for r in rows)]
    )


def part(name, folder, seed):
    """All rows of a part. It waits for processes nearly all the time, so a part for each core runs at once."""
    rows, began = [], time.monotonic()
    try:
        for row in PARTS[name](folder / name, f.seeded(f"{seed}/{name}")):
            rows.append(row)
            print(f"{name}, {time.monotonic() - began:.0f} s: {row}", file=sys.stderr, flush=True)
    except f.NoMountError as why:
        rows.append(Row("a full disk", "not tried", str(why), False))
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--write", action="store_true", help="the table into docs/faults.md")
    given = parser.parse_args()
    print(f"seed {given.seed}", file=sys.stderr)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults") as folder, ThreadPoolExecutor(os.cpu_count()) as workers:
        rows = list(
            itertools.chain(*workers.map(lambda name: part(name, Path(folder), given.seed), given.only or PARTS))
        )
    shown = table(rows)
    print(shown)
    took = f"Seed {given.seed}; {(time.monotonic() - began) / 60:.0f} minutes on {os.cpu_count()} cores of {platform.system()} {platform.machine()}, Python {platform.python_version()}."
    print(took)
    if given.write:
        head = PAGE.read_text("utf-8").partition(BEGIN)[0]
        PAGE.write_text(f"{head}{BEGIN}\n{took}\n\n{shown}\n", "utf-8")
    sys.exit(0 if all(row.right for row in rows) else 1)


if __name__ == "__main__":
    main()
