"""Python processes that have their libraries imported already: torch and transformers take five seconds of a core, vLLM eight, and the tests start a hundred.

One process imports the libraries and forks whatever is asked for: same code, arguments, environment, folder, pipes, and a child of the tests as any other.
All of them hash with one seed. detcheck itself, which is what is tested, comes after the fork. Where the environment differs in what is read while libraries are loaded
(OMP_NUM_THREADS ...), a process is started as ever. How a program starts, what it imports and how it dies of it is tested without all this.

As a program: python warm.py DESCRIPTOR LIBRARY..., the socket on which it is asked.
"""

import array
import atexit
import contextlib
import ctypes
import fcntl
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

PROGRAM = (
    "torch._dynamo",
    "transformers.models.auto.modeling_auto",
    "transformers.generation.utils",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen3.modeling_qwen3",
    "pyarrow.parquet",
)
VLLM = (
    "vllm",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.model_loader",
    "vllm.model_executor.models.qwen3",
)
EARLY = (
    "OMP_",
    "GOMP_",
    "MKL_",
    "ATEN_",
    "ONEDNN_",
    "DNNL_",
    "LD_",
    "TORCH",
    "TRITON_",
    "HF_",
    "LANG",
    "LC_",
    "PYTHON",
    "VLLM_LOGGING_LEVEL",
    "VLLM_BATCH_INVARIANT",
)  # read while libraries or Python start
LATE = ("PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR")  # of these, what a forked process can make good
# Threads do not survive a fork: NumPy's, which nothing uses, and the one that pyarrow's allocator would start.
NO_THREADS = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
PR_SET_CHILD_SUBREAPER = 36
FREE = 200  # descriptors from here on are used by nobody

COLD = subprocess.Popen
ONE_AT_A_TIME = threading.Lock()
Started = namedtuple("Started", "process asked log early")
started = {}  # libraries -> the process that forks, the socket on which it is asked, what it says, and of its environment what counts early


def early(environment):
    return {k: v for k, v in environment.items() if k.startswith(EARLY) and k not in LATE}


def hears_ctrl_c():
    """For `preexec_fn`: a shell that starts the tests in the background has SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Popen(subprocess.Popen):
    """`subprocess.Popen`, for Python programs. Ctrl-C is heard whatever the tests' own shell does with it."""

    libraries = PROGRAM

    def __init__(self, words, *, env=None, cwd=None, pass_fds=(), start_new_session=False, **streams):
        assert words[0] == sys.executable and not streams.keys() & {"preexec_fn", "shell", "executable"}
        self._wanted = {
            "words": [os.fspath(word) for word in words],
            "environment": dict(os.environ if env is None else env),
            "folder": os.path.abspath(cwd or os.getcwd()),
            "session": start_new_session,
            "descriptors": [0, 1, 2, *pass_fds],
        }
        assert max(self._wanted["descriptors"]) < FREE
        how = {
            "env": env,
            "cwd": cwd,
            "pass_fds": pass_fds,
            "start_new_session": start_new_session,
            "preexec_fn": hears_ctrl_c,
        }
        super().__init__(words, **how, **streams)

    def _execute_child(self, *how):
        if asked := warm(self.libraries, self._wanted["environment"]):
            self._fork_child(asked, *how)
        else:
            super()._execute_child(*how)

    def _fork_child(self, asked, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                       p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_):  # fmt: skip
        pipes = [mine if given == -1 else given for mine, given in enumerate((p2cread, c2pwrite, errwrite))]
        descriptors = array.array("i", [*pipes, *self._wanted["descriptors"][3:]])
        said = json.dumps(self._wanted).encode()
        with ONE_AT_A_TIME, adopting():
            try:
                asked.sendmsg([said], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
                self.pid = int(asked.recv(32))
            except (OSError, ValueError):
                log = started[self.libraries].log
                log.seek(0)
                raise RuntimeError(f"the process that imports {self.libraries} is gone: {log.read()[-3000:]}") from None
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


class PopenVllm(Popen):
    libraries = VLLM


if sys.platform != "linux":  # where nobody can adopt a process
    Popen = PopenVllm = functools.partial(COLD, preexec_fn=hears_ctrl_c)


def run(words, popen=Popen, **how):
    """`subprocess.run`, warm."""
    with mock.patch.object(subprocess, "Popen", popen):
        return subprocess.run(words, **how)


def run_vllm(*words, kernels="stock", timeout=300, **more):
    """A program that imports vLLM, warm, in the environment of an engine's process and what is given besides."""
    from detcheck.engines.vllm.process import environment

    env = environment(kernels, on_cpu=True) | more.pop("env", {})
    command = [sys.executable, *map(str, words)]
    return run(command, PopenVllm, env=env, capture_output=True, text=True, timeout=timeout, **more)


def instead(popen=Popen):
    """In the place of the module `subprocess`, for code that starts processes."""
    return SimpleNamespace(**vars(subprocess) | {"Popen": popen})


@contextlib.contextmanager
def engines():
    """Every engine process of vLLM's that is started in here is forked."""
    from detcheck.engines.vllm import process

    with mock.patch.object(process, "subprocess", instead(PopenVllm)):
        try:
            yield
        finally:
            for one in started.values():
                one.asked.shutdown(socket.SHUT_RDWR)
                one.process.wait()
                one.asked.close(), one.log.close()
            started.clear()


@contextlib.contextmanager
def adopting():
    """A process whose parent ends is our child from then on, as long as this lasts."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def warm(libraries, environment):
    """The socket of the process that has these libraries. None: its environment was another when it started."""
    if libraries not in started:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed at the end
        with theirs:
            process = COLD(
                [sys.executable, __file__, str(theirs.fileno()), *libraries],
                env={k: v for k, v in environment.items() if k not in LATE} | NO_THREADS,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        started[libraries] = Started(process, mine, log, early(environment))
    one = started[libraries]
    return one.asked if early(environment) == one.early else None


def serve(asked, libraries):
    """Forks for each request. Returns, in the new process, what was asked of it, and its descriptors."""
    for name in libraries:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
    theirs = [name for name in sys.modules if name.startswith("detcheck")]
    assert not theirs, "detcheck is what is tested: it comes after the fork"
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is for the tests
    while True:
        said, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 32)
        if not said:
            sys.exit()
        told, tell = os.pipe()
        between = os.fork()
        if between == 0:  # it ends at once, so that its child is adopted by the tests
            gone = os.getpid()
            child = os.fork()
            if child == 0:
                os.close(told), os.close(tell)
                while os.getppid() == gone:  # a program may ask to be killed when its parent ends, and means the tests
                    time.sleep(0.001)
                return json.loads(said), descriptors
            os.write(tell, str(child).encode())
            os._exit(0)
        os.close(tell)
        os.waitpid(between, 0)
        asked.send(os.read(told, 32))
        for descriptor in (told, *descriptors):
            os.close(descriptor)


def become(wanted, descriptors):
    """The process that was asked for: whatever Python sets up before a program begins."""
    if wanted["session"]:
        os.setsid()
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, FREE) for one in descriptors]
    for one in descriptors:
        os.close(one)
    for one, number in zip(high, wanted["descriptors"], strict=True):
        os.dup2(one, number)
        os.close(one)
    os.chdir(wanted["folder"])
    os.environ.clear(), os.environ.update(wanted["environment"])
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        old = getattr(sys, name)
        new = open(("stdin", "stdout", "stderr").index(name), mode, encoding=old.encoding, errors=old.errors, closefd=False)  # fmt: skip  # noqa: SIM115
        setattr(sys, name, new), setattr(sys, f"__{name}__", new)
    sys.stderr.reconfigure(line_buffering=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folders = [folder for folder in wanted["environment"].get("PYTHONPATH", "").split(os.pathsep) if folder]
    program, *arguments = wanted["words"][1:]
    if program in ("-m", "-c"):
        what, *arguments = arguments
        sys.path[0] = os.getcwd() if program == "-m" else ""
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(program))
    sys.path[1:1] = folders
    sys.orig_argv, sys.argv = wanted["words"], [program, *arguments]
    for planted in (Path(folder, "sitecustomize.py") for folder in folders):  # Python runs the first that it finds
        if planted.exists():
            exec(compile(planted.read_text(), planted, "exec"), {"__name__": "sitecustomize"})
            break
    if program == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif program == "-c":
        sys.modules["__main__"] = ModuleType("__main__")
        exec(what, sys.modules["__main__"].__dict__)
    else:
        runpy.run_path(program, run_name="__main__")


def end_as_python_does(program):
    """But for the libraries, which are not taken to pieces: that takes longer than many a program."""
    code = 0
    try:
        program()
    except SystemExit as ended:
        code = ended.code
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:  # noqa: BLE001  as Python at the end of a program
        traceback.print_exc()
        code = 1
        if isinstance(error, KeyboardInterrupt):
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    del sys.path[0]  # this folder
    asked = serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    end_as_python_does(lambda: become(*asked))
