"""What runs in a worker's process: the probe, as it runs anywhere, in a folder that is removed when its answer is made.

The answer has three parts, of which Ray brings over what is asked for: a head of some hundred bytes, the table (which outcome came under which
condition, as hashes), and the outcomes themselves.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detcheck import __version__, runner
from detcheck.errors import DetcheckError
from detcheck.finding import Run
from detcheck.fleet.members import environment_digest, table_digest
from detcheck.probe import Probe
from detcheck.records import Outcome
from detcheck.spec import Spec
from detcheck.storage import baselines
from detcheck.storage.folder import RunFolder
from detcheck.storage.head import read_spec
from detcheck.verdict import SEVERITY, Role
from detcheck.watch import OnProgress

MOST_WORDS = 500  # characters of a note
MOST_WARNINGS = 5
PREFIX, LOCK = "detcheck-fleet-", "lock"  # of the folder that a worker works in
MOST_BYTES = 64 * 2**20  # of outcomes that are sent
THREADS = "OMP_NUM_THREADS"

Answer = tuple[dict[str, Any], dict[str, Any], tuple[Outcome, ...]]
"""(head, the document of a baseline, outcomes)"""


def answer(probe: str, flat: Mapping[str, object], folder: str) -> Answer:
    """In a worker of Ray's. `flat`: what is asked, as `Spec.flat` has it; `folder`: the driver's, which is taken where it is there too.

    What is wrong is said in the head, but for exceptions of the probe's own engine.
    """
    with as_on_the_node(), contextlib.chdir(folder if os.path.isdir(folder) else os.getcwd()):
        try:
            spec = read_spec(
                {"probe": probe, "spec": dict(flat), "detcheck_version": __version__}, Probe(probe).options
            )
            head, *more = asked(spec)
            return head | {"gpu": gpu_of(spec.device)}, *more
        except DetcheckError as error:
            return missing(str(error))


def asked(spec: Spec, on_progress: OnProgress | None = None) -> Answer:
    """Asks it here. Raises UsageError."""
    began = time.monotonic()
    sweep()
    with temporary() as parent:
        run = runner.run(spec, parent, on_progress)
        if run.path is None:
            return missing(run.findings[0].note)
        made = runner.summary(run, RunFolder(run.path))
    document = baselines.document(made)
    head = {
        "detcheck": __version__,
        "table": table_digest(document),
        "environment": document["environment"],
        "environment_digest": environment_digest(document["environment"]),
        "verdict": str(run.verdict),
        "note": note(run),
        "seconds": round(time.monotonic() - began, 3),
        "warnings": [one[:MOST_WORDS] for one in run.warnings[:MOST_WARNINGS]],
    }
    if run.interrupted:
        return missing("it was interrupted")
    outcomes = tuple(made.payloads.values())
    size = sum(
        getattr(o, name).nbytes
        for o in outcomes
        for name in ("tokens", "logprobs", "positions")
        if getattr(o, name) is not None
    )
    return head, document, outcomes if size <= MOST_BYTES else ()


@contextlib.contextmanager
def temporary() -> Iterator[str]:
    """A folder that is removed; locked, so that one whose worker was killed can be told from one that is in use."""
    from filelock import FileLock

    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as parent, FileLock(Path(parent, LOCK)):
        yield parent


def sweep() -> None:
    """Removes what workers left here that were killed: nobody holds their locks any more."""
    from filelock import FileLock, Timeout

    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            mine = not hasattr(os, "getuid") or left.lstat().st_uid == os.getuid()
            if mine and left.is_dir() and not left.is_symlink() and (left / LOCK).is_file():
                with FileLock(left / LOCK, blocking=False):
                    shutil.rmtree(left, ignore_errors=True)


def gpu_of(device: str) -> str:
    """The GPU that Ray gave this worker, with the UUID of the one that it ran on, since they need not be the same; "" where it was given none."""
    import ray

    ids = ", ".join(map(str, ray.get_gpu_ids()))
    if not ids:
        return ""
    try:
        import torch

        used = torch.device(device if device.startswith("cuda") else "cuda")
        return f"GPU {ids}, {torch.cuda.get_device_properties(used).uuid}"
    except (ImportError, RuntimeError, AssertionError, AttributeError):  # no torch, none that sees it, or an old one
        return f"GPU {ids}"


def note(run: Run) -> str:
    """Of what it found worst, where it is no pass."""
    worst = min((f for f in run.findings if f.role is Role.GATES), key=lambda f: SEVERITY.index(f.verdict))
    return worst.note[:MOST_WORDS] if worst.verdict.exit_code else ""


def missing(why: str) -> Answer:
    return {"detcheck": __version__, "missing": why[:MOST_WORDS]}, {}, ()


@contextlib.contextmanager
def as_on_the_node() -> Iterator[None]:
    """As many threads as a run on this node has by itself: Ray tells OpenMP to use as many as the task claims processors, which is one."""
    set_to = None if set_before_ray() else os.environ.pop(THREADS, None)
    try:
        yield
    finally:
        if set_to is not None:
            os.environ[THREADS] = set_to


def set_before_ray() -> bool:
    """Whether this process began with it. Where the system does not tell, it is taken as it is."""
    try:
        began_with = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return True
    return any(entry.startswith(f"{THREADS}=".encode()) for entry in began_with)
