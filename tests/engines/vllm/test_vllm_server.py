"""A real vLLM server on loopback, with stock kernels and with ours. Started and stopped here; needs no GPU."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make test installs it on Linux x86-64")
START_S = 240
# Completions so long that requests which are sent together meet, also where a busy machine sends one of them late.
ASK = ("-n", "9", "--max-tokens", "64", "--ignore-eos", "--format", "json", "-q")
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextlib.contextmanager
def vllm_server(kernels, log):
    """Its URL. Ended with all its processes."""
    from detcheck.models.amplifier import folder

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder()),
        "--dtype",
        "float32",
    ]
    command += [
        "--served-model-name",
        "amplifier",
        "--enforce-eager",
        "--max-model-len",
        "1024",
        "--max-num-seqs",
        "32",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--distributed-executor-backend", "uni"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=os.environ | ENVIRONMENT | {"DETCHECK_KERNELS": kernels},
        )
    try:
        until = time.monotonic() + START_S
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2):
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_stock_reacts_to_load_and_our_plugin_does_not(detcheck, tmp_path, reacting):
    from detcheck.models.amplifier import PROMPT

    reports, scores = {}, {}
    for kernels in ("stock", "batch-invariant"):
        with vllm_server(kernels, tmp_path / f"{kernels}.log") as url:
            result = detcheck(
                "completions",
                "--base-url",
                url,
                *ASK,
                "--prompt",
                PROMPT,
                "--conditions",
                "alone,staggered-4,wave-4",
                "--trials",
                "2",
            )
            given = ("--prompt", PROMPT, "--continuation", " and his drums", "-n", "8", "--format", "json", "-q")
            scores[kernels] = json.loads(detcheck("score", "--base-url", url, *given).out)["findings"][0]
        assert result.out, result.err
        reports[kernels] = json.loads(result.out)
        (finding,) = reports[kernels]["findings"]
        assert finding["evidence"]["compared"] == "bits" and not finding["missing"]
        assert finding["evidence"]["conditions"]["staggered-4"]["requests"] > 1
        assert reports[kernels]["environment"]["flags"]["server"].startswith("vLLM ")
        assert finding["case"]["kernels"] == kernels
    stock, ours = (reports[k]["findings"][0] for k in ("stock", "batch-invariant"))
    assert (reports["stock"]["exit_code"], stock["verdict"]) == (1, "batch-variant"), stock["note"]
    assert stock["evidence"]["conditions"]["alone"]["distinct_bits"] == 1
    assert (reports["batch-invariant"]["exit_code"], ours["verdict"]) == (0, "identical"), ours["note"]
    assert ours["evidence"]["coverage"]["overridden"]["vllm::attention"] > 0
    assert reports["batch-invariant"]["environment"]["flags"]["server.plugin"]
    assert {k: found["evidence"]["compared"] for k, found in scores.items()} == dict.fromkeys(scores, "bits")
    assert (scores["stock"]["distinct_bits"] > 1, scores["batch-invariant"]["distinct_bits"]) == (True, 1)
    assert {k: (found["distinct"], found["missing"]) for k, found in scores.items()} == dict.fromkeys(scores, (1, 0))
