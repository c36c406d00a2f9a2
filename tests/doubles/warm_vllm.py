"""Engine processes that have vLLM imported already: importing takes eight seconds, and the tests start fifty of them.

One process imports vLLM and then forks whatever `engines/vllm/process.py` starts: same code, same environment, same pipes, a process group of its own.
Where the environment differs in what is read while torch is loaded (OMP_NUM_THREADS ...), the process is started as ever; so are all that a test starts
as a program of their own, in which the way that users have is tested.

As a program: python warm_vllm.py DESCRIPTOR, the socket on which it is asked.
"""

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

EARLY = (
    "OMP_",
    "GOMP_",
    "MKL_",
    "ATEN_",
    "ONEDNN_",
    "DNNL_",
    "LD_",
    "TORCHDYNAMO_",
    "PYTHON",
)  # read while torch or Python start
LATE = ("PYTHONPATH",)  # of these, what a forked process can make good


def early(environment):
    return {k: v for k, v in environment.items() if k.startswith(EARLY) and k not in LATE}


class Forked:
    """As much of subprocess.Popen as `process.py` uses. The process is not our child: the one that forked it says how it ended."""

    def __init__(self, channel):
        self._channel = channel
        self.pid = int(channel.recv(32))
        self.returncode = None

    def wait(self, timeout=None):
        if self.returncode is None:
            self._channel.settimeout(timeout)
            try:
                self.returncode = int(self._channel.recv(32) or -signal.SIGKILL)
            except TimeoutError:
                raise subprocess.TimeoutExpired("vLLM", timeout) from None
            self._channel.close()
        return self.returncode


class Warm:
    """The process that forks, started when it is first needed."""

    def __init__(self):
        self._asked = self._process = self._early = None

    def Popen(self, words, *, env, pass_fds, stdout, **how):
        if self._process is None:
            self._begin(env)
        if early(env) != self._early:
            return subprocess.Popen(words, env=env, pass_fds=pass_fds, stdout=stdout, **how)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        out = stdout if isinstance(stdout, int) else stdout.fileno()
        said = json.dumps(
            {"environment": env, "code": words[2], "descriptor": pass_fds[0], "folder": os.getcwd()}
        ).encode()
        with theirs:
            fds = array.array("i", [theirs.fileno(), pass_fds[0], out])
            self._asked.sendmsg([said], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        return Forked(mine)

    def _begin(self, env):
        self._early = early(env)
        self._asked, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env={k: v for k, v in env.items() if k not in LATE}
                # NumPy's threads, which nothing uses, and the one that pyarrow's allocator would start (pandas imports pyarrow).
                | {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"},
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def close(self):
        if self._process:
            self._asked.close()
            self._process.wait()


@contextlib.contextmanager
def engines():
    """Every engine process that is started in here is forked."""
    from detcheck.engines.vllm import process

    warm = Warm()
    process.subprocess = SimpleNamespace(
        Popen=warm.Popen, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
    try:
        yield
    finally:
        process.subprocess = subprocess
        warm.close()


def serve(descriptor):
    import vllm  # noqa: F401
    from vllm.v1.engine.llm_engine import LLMEngine  # noqa: F401

    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
    assert not [name for name in sys.modules if name.startswith("detcheck")], (
        "detcheck is what is tested: it comes after the fork"
    )
    asked = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        said, fds, _, _ = socket.recv_fds(asked, 1 << 20, 3)
        if not said:
            return
        if os.fork() == 0:
            asked.close()
            wait_for_it(json.loads(said), *fds)
            os._exit(0)
        for fd in fds:
            os.close(fd)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def wait_for_it(wanted, said_to, channel, out):
    """Forks once more, says which process that is and, later, how it ended."""
    say = socket.socket(fileno=said_to)
    child = os.fork()
    if child == 0:
        say.close()
        try:
            become(wanted, channel, out)
        except SystemExit as ended:
            said = ended.code
            if isinstance(said, str):
                print(said, file=sys.stderr)
            os._exit(said if isinstance(said, int) else int(said is not None))
        except BaseException:  # noqa: BLE001  as Python itself does at the end of a program
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(channel), os.close(out)
    say.send(str(child).encode())
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        say.send(str(os.waitstatus_to_exitcode(status)).encode())


def become(wanted, channel, out):
    os.setsid()
    os.dup2(out, 1), os.dup2(out, 2)
    os.dup2(channel, wanted["descriptor"])
    os.chdir(wanted["folder"])
    os.environ.clear(), os.environ.update(wanted["environment"])
    paths = [p for p in wanted["environment"].get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[:0] = paths
    for folder in paths:  # Python runs the first that it finds
        planted = os.path.join(folder, "sitecustomize.py")
        if os.path.exists(planted):
            exec(compile(Path(planted).read_text(), planted, "exec"), {"__name__": "sitecustomize"})
            break
    sys.argv = ["-c", str(wanted["descriptor"])]
    exec(wanted["code"], {"__name__": "__main__"})


if __name__ == "__main__":
    serve(int(sys.argv[1]))
