"""How each tool of `side_by_side.py` is asked about a server or a model's folder, and how what it says is read.

Each is asked as its own documentation says, with the options that suit the question best. A tool's answer is "equal" (nothing
differed), "different", "unsure" (it says that it cannot tell), or "none" (it gave no answer).
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SOUND = {"sound", "slow", "unicode", "exact"}
PROMPTS = [
    f"Say something about {word}." for word in ("copper", "rain", "glass", "salt", "wind", "paper", "stone", "bread")
]


@dataclass(frozen=True)
class Where:
    """A subject, for a tool."""

    target: str
    """a URL, or a folder"""
    server: bool
    python: str
    """of the tool's environment"""
    work: Path
    """an empty folder, in which the command runs"""
    samples: int = 100
    """completions that detcheck asks a server for"""

    @property
    def bin(self) -> Path:
        return Path(self.python).parent


@dataclass(frozen=True)
class Tool:
    name: str
    package: str
    """for pip, with the version that was tried; "" for this checkout"""
    asks: frozenset[str]
    """subjects whose fault is what it asks about by its own documentation; with others a wrong answer is not held against it"""
    halfway: int
    """half the requests that it sends to a server"""
    commands: object
    """Where -> command lines, none where it takes no such subject"""
    read: object
    """(Where, exit codes, output) -> (answer, one line)"""
    needs_torch: bool = False


def of_detcheck(at):
    asked = ["--max-tokens", "16", "-q", "--format", "json", "--output-dir", str(at.work / "runs")]
    subject = ["--base-url", at.target, "-n", str(at.samples)] if at.server else ["--model", at.target, "-n", "24"]
    return [[at.python, "-m", "detcheck", "completions", *subject, *asked]]


def read_detcheck(at, codes, output):
    report = json.loads(output[output.index("{") : output.rindex("}") + 1])
    answer = {0: "equal", 1: "different", 3: "unsure"}.get(codes[-1], "none")
    return answer, f"{report['verdict']}: {report['findings'][0]['note'] if report['findings'] else ''}"


def of_detllm(at):
    file = prompts(at, [{"prompt": p} for p in PROMPTS] if at.server else [{"prompt": PROMPTS[0] * 8}] * 8)
    if at.server:
        return [[at.python, str(HERE / "side_by_side_detllm.py"), at.target, str(file), str(at.work / "out")]]
    asked = ["--tier", "2", "--runs", "3", "--batch-size", "1", "--vary-batch", "2,4,8", "--max-new-tokens", "16"]
    model = ["--backend", "hf", "--model", at.target, "--prompt-file", str(file)]
    return [[str(at.bin / "detllm"), "check", *model, *asked, "--out", str(at.work / "out")]]


def read_detllm(at, codes, output):
    report = at.work / "out" / "report.txt"
    if not report.exists():
        return "none", last(output)
    said = report.read_text()
    status, category = (re.search(rf"^{name}: (\S+)", said, re.M)[1] for name in ("Status", "Category"))
    return {"PASS": "equal", "FAIL": "different"}.get(status, "none"), f"{status} {category}"


def of_infer_check(at):
    if not at.server:
        return []
    tool = str(at.bin / "infer-check")
    one = prompts(at, [{"id": "p0", "text": PROMPTS[0], "category": "general"}], "one.jsonl")
    all_ = prompts(at, [{"id": f"p{n}", "text": PROMPTS[n % 8], "category": "general"} for n in range(16)])
    to = [
        "--backend",
        "openai-compat",
        "--model",
        "planted",
        "--base-url",
        at.target,
        "--no-chat",
        "--max-tokens",
        "16",
    ]
    return [
        [tool, "determinism", *to, "--prompts", str(one), "--runs", "100", "--output", str(at.work / "determinism")],
        [
            tool,
            "stress",
            *to,
            "--prompts",
            str(all_),
            "--concurrency",
            "1,2,4,8,16",
            "--output",
            str(at.work / "stress"),
        ],
    ]


def read_infer_check(at, codes, output):
    repeats = [r for file in (at.work / "determinism").glob("*.json") for r in json.loads(file.read_text())]
    loads = [r for file in (at.work / "stress").glob("*.json") for r in json.loads(file.read_text())]
    if not repeats or not loads:
        return "none", last(output)
    differ = sum(len(r["divergence_positions"]) for r in repeats)
    missing = sum(r["num_runs"] - r["identical_count"] for r in repeats) - differ + sum(r["error_count"] for r in loads)
    worst = min(r["output_consistency"] for r in loads)
    line = f"determinism {min(r['determinism_score'] for r in repeats):.0%}, consistency {worst:.0%} under load"
    line += f", {missing} errors" if missing else ""
    return "different" if differ or worst < 1 else "unsure" if missing else "equal", line


def of_deltacert(at):
    tool, cert = str(at.bin / "deltacert"), ["--output", str(at.work / "cert.json")]
    if at.server:
        to = ["--api-base", f"{at.target}/v1", "--api-model", "planted", "--api-key", "none"]
        drift = ["--checks", "provider_drift", "--drift-baseline", str(at.work / "baseline.npz")]
        return [[tool, "certify", "--model", "planted", *drift, *to, *cert]] * 2  # the first run makes the baseline
    file = at.work / "prompts.txt"
    file.write_text("".join(f"{prompt * 8}\n" for prompt in PROMPTS))
    checks = ["--checks", "batch_divergence", "--batch-size", "8", "--device", "cpu", "--prompts", str(file)]
    return [[tool, "certify", "--model", at.target, *checks, *cert]]


def read_deltacert(at, codes, output):
    if not (at.work / "cert.json").exists():
        return "none", last(output)
    cert = json.loads((at.work / "cert.json").read_text())
    distance = ", ".join(f"{name}: d = {layer.get('d_comm')}" for name, layer in cert.get("layers", {}).items())
    said = "certified" if cert["certified"] else "not certified"
    return "equal" if cert["certified"] else "different", f"{said} ({distance})"


def of_metria(at):
    if at.server:
        return []
    files = {p.name: sha256(p) for p in Path(at.target).iterdir()}
    (at.work / "model.json").write_text(json.dumps({"model_id": "planted", "revision": "0", "files": files}))
    file = prompts(at, [{"id": f"p{n}", "category": "any", "prompt": p} for n, p in enumerate(PROMPTS)])
    given = ["--model", at.target, "--descriptor", str(at.work / "model.json"), "--workload", str(file)]
    tool, study = str(at.bin / "metria"), str(at.work / "study.json")
    return [
        [tool, "recipe", "prepare-vllm-serving", *given, "--output", study],
        [tool, "verify", study, "--output", str(at.work / "verification")],
    ]


def read_metria(at, codes, output):
    file = at.work / "verification" / "verification.json"
    if not file.exists():
        return "none", next(
            (line for line in output.splitlines() if re.search(r"(\w*Error|error): ", line)), last(output)
        )
    said = json.loads(file.read_text())
    return {0: "equal", 1: "different"}.get(codes[-1], "unsure"), str(said.get("verdict", said.get("status")))


def prompts(at, rows, name="prompts.jsonl"):
    file = at.work / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def last(output):
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "nothing was printed")


ALL = frozenset({*SOUND, "batch", "rare", "bits", "cold", "heals", "swap", "cache", "ones", "drops", "amplifier"})
TOOLS = {
    tool.name: tool
    for tool in (
        Tool("detcheck", "", ALL, 80, of_detcheck, read_detcheck, needs_torch=True),
        Tool("detllm", "detllm[hf]==0.1.1", ALL - {"cache", "ones"}, 52, of_detllm, read_detllm, needs_torch=True),
        Tool(
            "infer-check",
            "infer-check==0.2.6",
            ALL - {"cache", "ones", "bits", "amplifier", "exact"},
            50,
            of_infer_check,
            read_infer_check,
        ),
        Tool(
            "deltacert",
            "deltacert==1.2.4",
            frozenset({*SOUND, "swap"}),  # vLLM alone is asked about batches, by the first token, against a bound
            10,
            of_deltacert,
            read_deltacert,
            needs_torch=True,
        ),
        Tool("metria", "metria==0.1.2", frozenset({"exact", "amplifier"}), 50, of_metria, read_metria),
    )
}
