"""The process that holds vLLM, seen from outside: started with the environment that an arm needs, asked, and ended with all that it started."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from multiprocessing.connection import Connection
from typing import Any

from detcheck.engines.vllm import install
from detcheck.errors import FailedError, UsageError

START = "import sys; from detcheck.engines.vllm.host import main; main(int(sys.argv[1]))"
# Set unless the user sets them: quiet, offline, and threads that do not spin while the other process works.
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
ON_CPU = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
EAGER = {"TORCHDYNAMO_DISABLE": "1"}  # with log-probabilities vLLM compiles one small function, which takes seconds
ANSI = re.compile(r"\x1b\[[0-9;]*m")
LAST_WORDS = 200  # lines of vLLM's log that an error looks through


class Process:
    """`close` leaves none of its own behind."""

    def __init__(self, kernels: str, on_cpu: bool, looked_into: bool = False, eager: bool = True) -> None:
        """`looked_into`: modules will be traced. `eager`: nothing that the user asked for is compiled."""
        self.kernels = kernels
        ours, theirs = socket.socketpair()
        loud = logging.getLogger("detcheck").isEnabledFor(logging.INFO)
        self._log = None if loud else tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        out = sys.stderr.fileno() if loud else self._log
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment(kernels, on_cpu, looked_into, eager),
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        self._channel = Connection(ours.detach())
        self._end = weakref.finalize(self, end, self._process, self._channel, self._log)

    def ask(self, kind: str, message: object) -> Any:
        """Raises UsageError for an engine argument that is no good, FailedError for whatever else goes wrong."""
        try:
            self._channel.send((kind, message))
            answer, content = self._channel.recv()
        except (EOFError, OSError):
            raise FailedError(self._last_words()) from None
        if answer == "usage":
            raise UsageError(content)
        if answer == "failed":
            raise FailedError(explained(content, self.said()))
        return content

    def said(self) -> str:
        """What it printed."""
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        code = self._process.returncode
        said = self.said()
        if own := [line for line in said.splitlines() if line.startswith("detcheck: ")]:
            return own[-1].removeprefix("detcheck: ")
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        killed = " (the system kills so when memory runs out)" if code == -signal.SIGKILL else ""
        return explained(f"its process ended {how}{killed}", said)

    def close(self) -> None:
        self._end()


def end(process: subprocess.Popen[bytes], channel: Connection, log: Any) -> None:
    """Asks by closing the socket, and ends the whole group of processes, whoever of it is left."""
    channel.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if log is not None:
        log.close()


def environment(kernels: str, on_cpu: bool, looked_into: bool = False, eager: bool = True) -> dict[str, str]:
    """What an arm's process starts with."""
    made = dict(os.environ)
    if (
        looked_into
    ):  # where requests lie in a step is known of vLLM's first model runner, and its second is the default on GPUs
        made.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    for name, value in (ENVIRONMENT | (ON_CPU | (EAGER if eager else {}) if on_cpu else {})).items():
        made.setdefault(name, value)
    made["DETCHECK_KERNELS"] = kernels if kernels == "batch-invariant" else "stock"
    made["DETCHECK_EVIDENCE"] = "off"  # each process is asked for its counts itself
    if kernels == "engine":
        made["VLLM_BATCH_INVARIANT"] = "1"
    else:
        made.pop("VLLM_BATCH_INVARIANT", None)
    return made


def explained(what: str, said: str) -> str:
    """The error, its cause where that is only in what vLLM printed, and what to do where that is known."""
    if advice := install.remedy(f"{what}\n{said}"):
        return f"{what}. {advice}"
    short = what if len(what) <= 400 else what[:400] + " ..."
    if "process ended" not in what and "root cause" not in what:
        return short
    lines = [ANSI.sub("", line).strip() for line in said.splitlines()[-LAST_WORDS:]]
    causes = [line for line in lines if re.search(r"\w(Error|Exception): ", line) and "root cause" not in line]
    return (
        f"{short}. vLLM's last error: {causes[-1][-300:]}" if causes else f"{short}. --verbose shows what vLLM prints"
    )
