"""A checkpoint's tensors on their way into an engine that runs: the ways of a weight-sync layer, each as an iterator of buckets, lists of (name, tensor).

    files       a bucket is read, then loaded, then the next one is read
    pipelined   the next bucket is read while the last one is loaded
    shared      a second process puts buckets into shared memory, two of them in turn
    broadcast   a second process broadcasts buckets by torch.distributed (gloo)

A second process is up, and has met this one, before the first tensor is asked for: in training it is there all the time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detcheck.errors import FailedError, UsageError
from detcheck.models.stored import StoredTensor, buckets, stored

if TYPE_CHECKING:
    import torch

    Bucket = list[tuple[str, torch.Tensor]]


class Way(StrEnum):
    """How new weights reach the engine."""

    FILES = "files"
    PIPELINED = "pipelined"
    SHARED = "shared"
    BROADCAST = "broadcast"


BLOCKS = 2  # of shared memory: one is filled while the other is read
SHARED_MEMORY = "/dev/shm"
START = "import sys; from detcheck.models.sender import main; main(sys.argv[1:])"
MEETING_S = 60  # that a second process may take to be there
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


@contextlib.contextmanager
def opened(way: str, folder: Path, bucket_bytes: int) -> Iterator[Iterator[Bucket]]:
    """All tensors of the folder, once. What came through a second process holds only until the next bucket is asked for.

    Raises FailedError, there or while it is read, where a second process does not deliver.
    """
    if way == Way.FILES:
        yield (from_files(bucket) for bucket in buckets(stored(folder, str(folder)), bucket_bytes))
    elif way == Way.PIPELINED:
        with contextlib.closing(pipelined(folder, bucket_bytes)) as ahead:
            yield ahead
    else:
        with sent(way, folder, bucket_bytes) as coming:
            yield coming


def refuse_unsendable(tensors: Iterable[StoredTensor], way: str, named: str) -> None:
    """Raises UsageError where one is of a dtype that a second process does not send."""
    if other := [t for t in tensors if way in (Way.SHARED, Way.BROADCAST) and t.dtype not in DTYPES]:
        raise UsageError(
            f"{named}: {other[0].name} is of dtype {other[0].dtype}, which --update {way} does not send. Use files or pipelined"
        )


def from_files(bucket: Sequence[StoredTensor]) -> Bucket:
    """In order."""
    from safetensors import safe_open

    found = []
    for file, tensors in itertools.groupby(bucket, lambda tensor: tensor.file):
        with safe_open(file, "pt") as reader:
            found += [(tensor.name, reader.get_tensor(tensor.name)) for tensor in tensors]
    return found


def read_whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, whose file was only mapped until now: a byte of each page is looked at, so that all of it is read here."""
    import torch

    tensor.reshape(-1).view(torch.uint8)[:: mmap.PAGESIZE].sum()
    return tensor


def pipelined(folder: Path, bucket_bytes: int) -> Iterator[Bucket]:
    """A thread reads one bucket ahead."""
    ahead: queue.Queue[Any] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ahead.put(item, timeout=0.1)
                return True
        return False

    def read() -> None:
        try:
            for bucket in buckets(stored(folder, str(folder)), bucket_bytes):
                if not put([(name, read_whole(tensor)) for name, tensor in from_files(bucket)]):
                    return
            put(None)
        except Exception as error:  # noqa: BLE001  raised again where the tensors are taken
            put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (bucket := ahead.get()) is not None:
            if isinstance(bucket, Exception):
                raise bucket
            yield bucket
    finally:
        stopped.set()
        thread.join()


@contextlib.contextmanager
def sent(way: str, folder: Path, bucket_bytes: int) -> Iterator[Iterator[Bucket]]:
    """By a second process, which is ended here however this ends."""
    where = SHARED_MEMORY if Path(SHARED_MEMORY).is_dir() else None
    with tempfile.TemporaryDirectory(prefix="detcheck-", dir=where) as meeting, tempfile.TemporaryFile() as log:
        arguments = [way, str(folder), meeting, str(bucket_bytes)]
        sender = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            heard(sender, log)  # it is there
            receive = Broadcast(meeting) if way == Way.BROADCAST else Shared(meeting)
            yield received(sender, log, receive)
        finally:
            sender.kill()
            sender.wait()
            with contextlib.suppress(OSError):  # it flushes again what a dead one did not take
                sender.stdin.close()
            sender.stdout.close()


def heard(sender: subprocess.Popen[str], log: Any) -> dict[str, Any]:
    """What it says next. Raises FailedError where it has ended."""
    if line := sender.stdout.readline():
        return json.loads(line)
    code = sender.wait()
    log.seek(0)
    lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    said = f": {lines[-1][-300:]}" if lines else ""
    raise FailedError(f"the process that sends the weights ended {how} before all were sent{said}")


def received(sender: subprocess.Popen[str], log: Any, receive: Any) -> Iterator[Bucket]:
    while (said := heard(sender, log)) != {"end": True}:
        try:
            whole = receive(said)
        except RuntimeError:  # of gloo, where the other side is gone
            heard(sender, log)
            raise
        yield unpacked(whole, said["tensors"])
        try:
            sender.stdin.write("taken\n")  # its room may be filled again
            sender.stdin.flush()
        except OSError:
            heard(sender, log)


def unpacked(whole: torch.Tensor, tensors: Sequence[Sequence[Any]]) -> Bucket:
    """whole: uint8[bytes]; tensors: (name, dtype, shape, offset, bytes) each."""
    import torch

    return [
        (name, whole[offset : offset + nbytes].view(getattr(torch, DTYPES[dtype])).reshape(shape))
        for name, dtype, shape, offset, nbytes in tensors
    ]


class Shared:
    """Takes buckets out of shared memory. The blocks have no names from here on, so that none stays behind, however this process ends."""

    def __init__(self, meeting: str) -> None:
        """When the sender has made the blocks."""
        self._maps = {}
        for block in sorted(Path(meeting).iterdir()):
            with block.open("r+b") as file:
                self._maps[block.name] = mmap.mmap(file.fileno(), 0)
            block.unlink()
        Path(meeting).rmdir()

    def __call__(self, said: dict[str, Any]) -> torch.Tensor:
        import torch

        return torch.frombuffer(self._maps[said["block"]], dtype=torch.uint8)


class Broadcast:
    """Takes part in a broadcast of two processes."""

    def __init__(self, meeting: str) -> None:
        self._group = group(meeting, 1)

    def __call__(self, said: dict[str, Any]) -> torch.Tensor:
        import torch

        whole = torch.empty(said["bytes"], dtype=torch.uint8)
        broadcast(self._group, whole)
        return whole


def group(meeting: str, rank: int) -> Any:
    """A group of two, beside whatever groups this process has. Raises RuntimeError where the other does not come."""
    from datetime import timedelta

    from torch.distributed import FileStore, PrefixStore, ProcessGroupGloo

    options = ProcessGroupGloo._Options()
    options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]  # this machine's name may lead elsewhere
    options._timeout = timedelta(seconds=MEETING_S)
    store = PrefixStore("detcheck", FileStore(str(Path(meeting) / "meeting"), 2))
    return ProcessGroupGloo(store, rank, 2, options)


def broadcast(group: Any, whole: torch.Tensor) -> None:
    """From rank 0, whole: uint8[bytes]."""
    from torch.distributed import BroadcastOptions

    options = BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    group.broadcast([whole], options).wait()
