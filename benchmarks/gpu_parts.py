"""The parts of gpu_proof.py, each run in a process of its own: python gpu_parts.py PART DIR cuda|cpu [--small].

A part returns nothing: it tells `Findings` what it found, as it finds it, and each time that is written to DIR/PART.json.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Findings:
    """What a part has found so far."""

    file: Path
    device: str
    small: bool
    facts: dict = field(default_factory=dict)
    wrong: list = field(default_factory=list)
    line: str = "began"

    @property
    def out(self):
        return self.file.parent

    def say(self, line, ok=True, **facts):
        """The line of the table so far. ok=False: something is not as it has to be, and stays so."""
        self.facts |= facts
        if not ok:
            self.wrong.append(line)
        self.line = "; ".join([*self.wrong, line] if ok and self.wrong else [line])
        made = {"ok": not self.wrong, "line": self.line, "facts": self.facts}
        unfinished = self.file.with_suffix(".part")
        unfinished.write_text(json.dumps(made, indent=1, default=str))
        os.replace(unfinished, self.file)
        print(line, flush=True)


def detcheck(found, *words, expected=(0,)):
    """The command as a user types it, in this part's own process, which has torch imported. Returns its JSON report; what it printed else goes into the log."""
    from detcheck.cli import main

    sys.argv = ["detcheck", *map(str, words), "--format", "json", "--output-dir", str(found.out / "runs"), "-q"]
    print("$", *sys.argv, flush=True)
    started, out, code = time.perf_counter(), io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), 0
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    seconds, said = time.perf_counter() - started, out.buffer.getvalue().decode()
    try:
        report = json.loads(said)
    except ValueError:
        found.say(f"detcheck {words[0]} exited with {code} and printed no report", ok=False)
        raise SystemExit(1) from None
    (found.out / f"{found.file.stem}-{words[0]}.json").write_text(said)
    found.say(f"exit {code} ({report['verdict']}) in {seconds:.0f} s", ok=code in expected, exit_code=code)
    return report


def arms(report):
    """ "stock: batch-variant, 7 distinct; ..." of a report."""
    told = []
    for one in report["findings"]:
        distinct = one.get("distinct_bits") or one.get("distinct")
        told.append(
            f"{one['case']['kernels']} {one['case']['dtype']}: {one['verdict']}, {distinct} distinct of {one['samples']}"
        )
    return "; ".join(told)


def device(found):
    """Where we are, and each bundled op once: right, and with the bits of a row alone among any number of others."""
    import torch

    from detcheck import lookup
    from detcheck.environment import observe_environment
    from detcheck.harness import accuracy
    from detcheck.kernels._triton import launch

    on_gpu = found.device == "cuda"
    facts = {"environment": vars(observe_environment(found.device))}
    if on_gpu:
        facts["properties"] = str(torch.cuda.get_device_properties())
        facts["ours"] = launch.description()
        with contextlib.suppress(OSError):
            facts["nvidia-smi"] = subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout
    found.say("the environment", **facts)
    rows, told = (5 if found.small else 257), []
    for name in lookup.names("kernels"):
        op = lookup.find("kernels", name).OP
        if op.batch_invariant is None or found.device not in op.devices:
            continue
        for dtype in (torch.bfloat16, torch.float32):
            shape = op.shapes[0 if found.small else -1]
            made = op.make(shape, rows, dtype, 0)
            given = [t.to(found.device) for t in made]
            whole = op.batch_invariant(*given)
            few = [t[:4] if i in op.batched else t for i, t in enumerate(made)]
            exact = accuracy.Exact.of(op.reference, tuple(few), op.batched)
            share = exact.error(whole[:4].cpu(), exact.allowed(dtype, op.roundings), range(4))[1]
            unlike = 0
            for m in range(1, rows + 1):
                part = op.batch_invariant(*(t[:m] if i in op.batched else t for i, t in enumerate(given)))
                unlike += not equal_bits(part, whole[:m])
            told.append([name, str(dtype), share, unlike])
            ok = share <= 1 and not unlike
            found.say(f"{len(told)} ops right, each row the same among 1 to {rows}" if ok else f"{name} {dtype}: {share:.2g} of its bound, {unlike} numbers of rows with other bits", ok, ops=told)  # fmt: skip


def equal_bits(a, b):
    import torch

    whole = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return torch.equal(a.contiguous().view(whole), b.contiguous().view(whole))


def amplifier(found):
    sizes = ("-n", 8, "--max-tokens", 12) if found.small else ("-n", 48, "--max-tokens", 48)
    common = ("--device", found.device, "--engine", "transformers", "--kernels", "both")
    found.say(arms(detcheck(found, "completions", *common, *sizes)))


def qwen3(found):
    model = folder_of_qwen3(found)
    sizes = ("-n", 6, "--max-tokens", 6) if found.small else ("-n", 24, "--max-tokens", 32)
    common = ("--model", model, "--device", found.device, "--engine", "transformers", "--kernels", "both")
    # Exit code 3: stock did not react, so equal bits of ours prove nothing. It says so; on a GPU it would be news.
    found.say(arms(detcheck(found, "completions", *common, *sizes, expected=(0, 3) if found.small else (0,))))


def folder_of_qwen3(found):
    """A seeded model with Qwen3-8B's layers, few of them, in bfloat16; with the amplifier's tokenizer."""
    import torch
    import transformers

    from detcheck.models import amplifier

    folder = found.out / "qwen3"
    if (folder / "config.json").is_file():
        return folder
    sizes = {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    }
    if found.small:
        sizes = {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
        }
    config = transformers.Qwen3Config(
        vocab_size=2048 if found.small else 32768, num_hidden_layers=2 if found.small else 4, tie_word_embeddings=True,
        max_position_embeddings=4096, bos_token_id=None, eos_token_id=None, pad_token_id=None, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(found.device):
        model = transformers.Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    making = folder.with_name("qwen3-unfinished")
    model.save_pretrained(making)
    transformers.AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(making)
    os.replace(making, folder)  # a part that is cut off leaves no half of it
    return folder


def kernels(found):
    sizes = ("--batch-sizes", "1,2,3", "--op", "matmul", "--shapes", "67x33") if found.small else ("--op", "all")
    report = detcheck(found, "kernels", "--device", found.device, *sizes)
    ours = [one for one in report["findings"] if one["role"] == "gates"]
    shares = [one["metrics"].get("error_share", 0) for one in ours]
    found.say(f"{len(ours)} cases of ours: {', '.join(sorted({one['verdict'] for one in ours}))}; worst error {max(shares, default=0):.2f} of its bound")  # fmt: skip


def matmul(found):
    sizes = ("--trials", 20, "--shape", "8,64,64") if found.small else ("--trials", 1000, "--shape", "512,4096,4096")
    told = []
    for dtype in ("bf16", "float32"):
        report = detcheck(found, "matmul", "--device", found.device, "--dtype", dtype, *sizes, expected=(0, 1))
        told.append(arms(report))
        found.say("; ".join(told))


def batch(found):
    sizes = ("--batch-sizes", "1,2,3") if found.small else ()
    found.say(arms(detcheck(found, "batch", "--device", found.device, "--kernels", "both", *sizes)))


def tests(found):
    with_workers = (
        ["-n", "8"]
        if found.device == "cuda"
        and subprocess.run([sys.executable, "-c", "import xdist"], capture_output=True).returncode == 0
        else []
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        ROOT / "tests" / "gpu" / "test_gpu.py",
        "-q",
        "-rfE",
        "-p",
        "no:cacheprovider",
        *with_workers,
    ]
    few = os.environ | {"OMP_NUM_THREADS": "2"}  # workers share the cores
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=few)
    print(done.stdout)
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1].strip("= ")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    found.say(last, ok=done.returncode == 0, failed=failed)


def tiles(found):
    """Which tiles give the bits of the one that defines the result: what lets a tile follow the number of rows."""
    import gpu_tiles

    gpu_tiles.compare(found)


def tuning(found):
    """Stock's time / ours with each tile that gives the right bits, at the numbers of rows where the table has another one."""
    import gpu_tiles

    if found.device != "cuda":
        found.say("there is nothing to time here")
        return
    best = {}
    for rows in (1, 16, 32, 64, 128, 512, 2048):
        best[rows] = gpu_tiles.times(4096, 4096, rows)
        told = "; ".join(f"M={m}: {ratios[0][1]} {ratios[0][0]:.2f}" for m, ratios in best.items() if ratios)
        found.say(told, best=best)


def speed(found):
    import torch

    dtype = torch.bfloat16
    shapes = [(m, n, k) for n, k in ((4096, 4096), (28672, 4096)) for m in (1, 16, 128, 2048)]
    keys = [(1, 1, 8192), (16, 1, 8192), (1, 2048, 2048)]
    if found.small:
        shapes, keys = [(2, 64, 64)], [(1, 1, 64), (1, 16, 16)]
    time_all(found, dtype, shapes, keys)


def speeds(found):
    import gpu
    import torch

    shapes = [(m, n, k) for m in (*gpu.DECODE, *gpu.PREFILL) for n, k in gpu.WEIGHTS]
    keys = [(b, 1, s) for b in (1, 8, 64) for s in (1024, 8192, 32768)] + [(1, n, n) for n in (512, 2048, 8192)]
    if found.small:
        shapes, keys = [(1, 64, 64)], [(1, 1, 64)]
    for dtype in (torch.bfloat16, torch.float16)[
        : 1 if found.small else 2
    ]:  # float32 is outside the matrix units, and long
        time_all(found, dtype, shapes, keys)


def time_all(found, dtype, shapes, keys):
    """Each shape, written down at once: stock's time / ours, of the device."""
    import gpu
    import torch

    name, rows = str(dtype).removeprefix("torch."), found.facts.setdefault("times", [])
    with torch.inference_mode():
        for m, n, k in shapes:
            rows.append(["matmul", name, [m, n, k], gpu.matmul_ms(m, n, k, dtype, found.device)])
            found.say(geometric_means(rows))
        for shape in keys:
            for split in (False, True) if shape[1] == 1 and found.device == "cuda" else (None,):
                ms = gpu.attention_ms(*shape, dtype, split, found.device)
                rows.append([f"attention{' split' if split else ''}", name, list(shape), ms])
                found.say(geometric_means(rows))


def geometric_means(rows):
    import math
    import statistics

    told = {}
    for what, dtype, shape, ms in rows:
        decode = shape[1] == 1 if what.startswith("attention") else shape[0] <= 128
        told.setdefault(f"{what} {dtype} {'decode' if decode else 'prefill'}", []).append(ms["stock"] / ms["ours"])
    means = {name: math.exp(statistics.fmean(map(math.log, ratios))) for name, ratios in told.items()}
    return "stock / ours: " + ", ".join(
        f"{name} {mean:.2f} (least {min(told[name]):.2f})" for name, mean in means.items()
    )


def graphs(found):
    """Captured and replayed, our ops give the bits of a plain call; and torch.compile around them too."""
    import torch

    from detcheck import batch_invariant
    from detcheck.kernels.matmul import linear

    n = 64 if found.small else 1024
    x, w = torch.randn(16, n).to(torch.bfloat16).to(found.device), torch.randn(n, n).to(torch.bfloat16).to(found.device)

    def chain(x, w):
        y = torch.nn.functional.linear(x, w)
        return torch.nn.functional.silu(torch.nn.functional.softmax(y, -1))

    with torch.inference_mode(), batch_invariant():
        expected = chain(x, w)
        equal = {"linear alone": equal_bits(linear(x[:1], w), torch.nn.functional.linear(x, w)[:1])}
        if found.device == "cuda":
            torch.cuda.synchronize()
            graph, still = torch.cuda.CUDAGraph(), x.clone()
            with torch.cuda.graph(graph):
                out = chain(still, w)
            still.copy_(x)
            graph.replay()
            equal["replayed graph"] = equal_bits(out, expected)
        found.say("captured", capture=equal)
        compiled = torch.compile(chain, backend="eager" if found.small else "inductor")
        try:
            equal["torch.compile"] = equal_bits(compiled(x, w), expected)
        except Exception as error:  # noqa: BLE001  told of, like its bits
            found.say("torch.compile raised", compile_error=f"{type(error).__name__}: {str(error)[:500]}")
            equal["torch.compile"] = False
    # What inductor makes of a product is its own: other bits there are known (docs/kernels.md), and only told of.
    needed = {name: same for name, same in equal.items() if name != "torch.compile" or found.small}
    found.say(", ".join(f"{name}: {'equal' if same else 'OTHER'} bits" for name, same in equal.items()), ok=all(needed.values()), equal=equal)  # fmt: skip


def order(found):
    sizes = (
        ("--shape", "32,8", "--batch-sizes", "1,2")
        if found.small
        else ("--shape", "1024,1024", "--batch-sizes", "1,16,256")
    )
    told = []
    for dtype in ("float32", "bf16"):
        report = detcheck(found, "order", "--device", found.device, "--dtype", dtype, *sizes, expected=(0, 1, 3))
        told += [f"{one['case']['dtype']}: {one['verdict']}, {one['note'][:300]}" for one in report["findings"]]
        found.say("; ".join(told))


def bisect(found):
    sizes = ("--batch-sizes", "2") if found.small else ()
    report = detcheck(found, "bisect", "--device", found.device, *sizes, expected=(0, 1, 3))
    first = report["findings"][0]
    found.say(f"{len(report['findings'])} findings, the first: {first['verdict']}, {first['note'][:300]}")


def overhead(found):
    """Seconds of the engine's decoding by those of transformers' own loop on the same model, and the memory on the device."""
    import torch

    from detcheck.engine import Row
    from detcheck.engines.transformers.engine import TransformersEngine
    from detcheck.spec import Kernels

    engine = TransformersEngine(str(folder_of_qwen3(found)), None, found.device)
    engine.load(512)
    tokens, ratios = (4, {}) if found.small else (64, {})
    for rows in (1, 2) if found.small else (1, 16, 64):
        prompts = [Row(tuple(400 + (7 * slot + n) % 1500 for n in range(32))) for slot in range(rows)]

        def probed(prompts=prompts):
            with engine.running(Kernels.STOCK):
                engine.complete(prompts, tokens, ignore_eos=True)

        def plain(rows=rows, prompts=prompts):
            ids = torch.tensor([row.prompt for row in prompts], device=found.device)
            with torch.inference_mode():
                engine._model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

        seconds = {}
        for name, call in (("probed", probed), ("plain", plain)):
            call()
            started = time.perf_counter()
            call()
            seconds[name] = time.perf_counter() - started
        ratios[rows] = seconds["probed"] / seconds["plain"]
        peak = torch.cuda.max_memory_allocated() / 2**30 if found.device == "cuda" else 0.0
        told = ", ".join(f"{ratio:.2f} at {n} rows" for n, ratio in ratios.items())
        found.say(f"probe's decoding / generate: {told}; peak {peak:.1f} GiB", ratios=ratios, peak_gib=peak)


PARTS = (
    device,
    amplifier,
    qwen3,
    tiles,
    speed,
    kernels,
    matmul,
    batch,
    tests,
    graphs,
    order,
    bisect,
    overhead,
    tuning,
    speeds,
)

if __name__ == "__main__":
    name, folder, where, *more = sys.argv[1:]
    part = next(part for part in PARTS if part.__name__ == name)
    if "--small" in more:
        from detcheck.schedules import widths

        widths.SWEPT = 2  # each of 32 widths is asked in other tests
    part(Findings(Path(folder) / f"{name}.json", where, "--small" in more))
