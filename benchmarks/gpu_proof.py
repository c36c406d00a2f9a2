"""Everything of ours that only a GPU can show, in one command of minutes, the worthiest first.

    PYTHONPATH=. python3 benchmarks/gpu_proof.py --out DIR --minutes 8

Parts that measure no time run beside each other, --together of them; then those that do, each alone.

Nothing needs to be installed or downloaded: a checkout, Python 3.11 or newer, a CUDA torch with its Triton, and detcheck's other
requirements. Each part is a process of its own with a time limit (gpu_parts.py says what it does). It writes down what it found as it
finds it, DIR/PART.json, and its line of the table, DIR/summary.md, before the next one starts: being cut off loses a part at most.

--device cpu --small rehearses all of it on a machine without a GPU: what fails there has nothing to do with one.
"""

import argparse
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = {  # name -> (seconds that it may take, what it asks)
    "device": (60, "each bundled op, correct and with equal bits of a row among 1 to 257"),
    "amplifier": (60, "completions of the amplifier: stock varies, ours does not"),
    "qwen3": (90, "completions of a model with Qwen3-8B's layers: stock varies, ours does not"),
    "tiles": (60, "do other tiles give the bits of the one that defines the result?"),
    "speed": (75, "matmul against cuBLAS, attention against SDPA: a few shapes"),
    "kernels": (90, "detcheck kernels --op all"),
    "matmul": (40, "one product, 1000 times"),
    "batch": (45, "logits of one prompt in batches of every size"),
    "tests": (120, "tests/gpu/test_gpu.py"),
    "graphs": (45, "our ops captured into a CUDA graph, and under torch.compile"),
    "order": (45, "in which order does cuBLAS add, at 1, 16 and 256 rows?"),
    "bisect": (45, "which op of the amplifier differs first"),
    "overhead": (45, "what the probe adds to plain decoding, and the memory it takes"),
    "tuning": (90, "which tile is the fastest, at one size of weight?"),
    "speeds": (180, "all shapes of benchmarks/gpu.py"),
}
TIMED = ("speed", "overhead", "tuning", "speeds")
SLOWER = 5  # how much longer a part may take in a rehearsal
LEAST = 5.0  # seconds without which a part is not begun


def main(arguments: argparse.Namespace) -> int:
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * arguments.minutes
    names = arguments.parts.split(",") if arguments.parts else list(PARTS)
    if unknown := sorted(set(names) - set(PARTS)):
        raise SystemExit(f"--parts {','.join(unknown)}: there are {', '.join(PARTS)}")
    table = ["| part | asked | s | result |", "|---|---|---|---|"]
    failed = False

    def one(name: str) -> tuple[str, float, dict]:
        left = until - time.monotonic()
        seconds = (
            PARTS[name][0]
            * (SLOWER if arguments.device == "cpu" else 1)
            * (2 if name not in TIMED and arguments.together > 1 else 1)
        )
        started = time.monotonic()
        result = run(name, out, arguments, min(seconds, left)) if left > LEAST else {"ok": None, "line": "no time left"}
        return name, time.monotonic() - started, result

    groups = [
        ([name for name in names if name not in TIMED], arguments.together),
        ([name for name in TIMED if name in names], 1),
    ]
    for group, together in groups:
        with concurrent.futures.ThreadPoolExecutor(together) as pool:
            for asked in concurrent.futures.as_completed([pool.submit(one, name) for name in group]):
                name, seconds, result = asked.result()
                failed |= result["ok"] is False
                mark = {True: "", False: "**NOT AS EXPECTED** ", None: "(not known) "}[result["ok"]]
                table.append(f"| {name} | {PARTS[name][1]} | {seconds:.0f} | {mark}{result['line']} |")
                print(table[-1], flush=True)
                (out / "summary.md").write_text("\n".join(table) + "\n")
                bundle(out, names)
    return int(failed)


def bundle(out: Path, names: list[str]) -> None:
    """What all parts found so far, and how their logs end, in one file: some machines hand few files back."""
    found = {}
    for name in names:
        written, log = out / f"{name}.json", out / f"{name}.log"
        if log.is_file():
            found[name] = json.loads(written.read_text()) if written.is_file() else {}
            found[name]["log"] = log.read_text(errors="replace")[-20000:]
    (out / "proof.json").write_text(json.dumps(found, indent=1))


def run(name: str, out: Path, arguments: argparse.Namespace, seconds: float) -> dict:
    """The part in a process of its own; what it wrote down, though it was killed or died."""
    found, log = out / f"{name}.json", out / f"{name}.log"
    found.unlink(missing_ok=True)
    command = [
        sys.executable,
        HERE / "gpu_parts.py",
        name,
        out,
        arguments.device,
        *(["--small"] if arguments.small else []),
    ]
    path = os.pathsep.join([str(HERE.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if arguments.device == "cpu" and name == "tiles":
        environment["TRITON_INTERPRET"] = "1"
    with log.open("w") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=out, start_new_session=True
        )
        try:
            code = child.wait(seconds)
            ended = "" if code == 0 else f"ended with exit code {code}, see {log.name}"
        except subprocess.TimeoutExpired:
            ended = f"cut off after {seconds:.0f} s"
        finally:
            if child.poll() is None:  # whatever ends us: nothing of it goes on holding the device
                os.killpg(child.pid, signal.SIGKILL)  # its own children too
                child.wait()
    cut = ended.startswith("cut off")
    result = (
        json.loads(found.read_text())
        if found.is_file()
        else {"ok": None if cut else False, "line": "wrote nothing down"}
    )
    if ended:  # what was wrong before it was cut off stays so; what was right is not all that was asked
        result |= {"ok": None if cut and result["ok"] is not False else False, "line": f"{ended}; {result['line']}"}
    return result


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together (8)")
    parser.add_argument("--parts", help=f"some of {','.join(PARTS)}; all by default")
    parser.add_argument(
        "--together",
        type=int,
        default=1,
        help="how many parts run beside each other, of those that measure no time (1)",
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="sizes for a rehearsal")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(asked()))
