"""The second process of `stream.py`: it reads a checkpoint and sends it, a bucket after the other, to the one that started it.

What it says are lines of JSON on stdout: that it is there, what is in the next bucket, that there are no more. A line on stdin says that a
bucket was taken. It ends with the one that started it, since its stdin ends then.
"""

from __future__ import annotations

import json
import mmap
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detcheck.models.stored import StoredTensor, buckets, stored
from detcheck.models.stream import BLOCKS, Way, broadcast, group

ALIGNED = 64  # bytes, at which a tensor begins in a bucket


def main(arguments: Sequence[str]) -> None:
    way, folder, meeting, bucket_bytes = arguments
    tensors = stored(Path(folder), folder)
    planned = list(buckets(tensors, int(bucket_bytes)))
    largest = max((packed_bytes(bucket) for bucket in planned), default=0)
    send = SharedSender(meeting, largest) if way == Way.SHARED else BroadcastSender(meeting)
    send.meet()
    for number, bucket in enumerate(planned):
        send(number, bucket)
    for _ in range(send.waiting):
        taken()
    say({"end": True})
    sys.stdin.readline()  # until it is ended


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def taken() -> None:
    if not sys.stdin.readline():
        sys.exit("the process that takes the weights is gone")


def places(bucket: Sequence[StoredTensor]) -> list[tuple[StoredTensor, int]]:
    """Where each begins."""
    found, offset = [], 0
    for tensor in bucket:
        found.append((tensor, offset))
        offset += -(-tensor.nbytes // ALIGNED) * ALIGNED
    return found


def packed_bytes(bucket: Sequence[StoredTensor]) -> int:
    last, offset = places(bucket)[-1]
    return max(offset + last.nbytes, 1)


def pack(bucket: Sequence[StoredTensor], into: memoryview) -> list[tuple[Any, ...]]:
    """The bucket's bytes, and what is where. Raises EOFError where a file has become shorter than its header says."""
    said = []
    for tensor, offset in places(bucket):
        with tensor.file.open("rb") as file:
            file.seek(tensor.start)
            if file.readinto(into[offset : offset + tensor.nbytes]) < tensor.nbytes:
                raise EOFError(f"{tensor.file.name} ends within {tensor.name}")
        said.append((tensor.name, tensor.dtype, tensor.shape, offset, tensor.nbytes))
    return said


class SharedSender:
    """Two blocks of shared memory, filled in turn: one while the other is read."""

    def __init__(self, meeting: str, largest: int) -> None:
        self._meeting, self._largest = meeting, largest
        self.waiting, self._blocks = 0, []

    def meet(self) -> None:
        for number in range(BLOCKS):
            with (Path(self._meeting) / f"block-{number}").open("w+b") as file:
                file.truncate(max(self._largest, 1))
                self._blocks.append(memoryview(mmap.mmap(file.fileno(), 0)))
        say({"there": True})

    def __call__(self, number: int, bucket: Sequence[StoredTensor]) -> None:
        if self.waiting == BLOCKS:
            taken()
            self.waiting -= 1
        said = pack(bucket, self._blocks[number % BLOCKS])
        say({"block": f"block-{number % BLOCKS}", "tensors": said})
        self.waiting += 1


class BroadcastSender:
    """One broadcast a bucket; the next one is read while the last is taken."""

    def __init__(self, meeting: str) -> None:
        self.waiting, self._meeting, self._group = 0, meeting, None

    def meet(self) -> None:
        import torch.distributed  # noqa: F401  it takes seconds, which the other one is not to wait for there

        say({"there": True})
        self._group = group(self._meeting, 0)

    def __call__(self, number: int, bucket: Sequence[StoredTensor]) -> None:
        import torch

        held = bytearray(packed_bytes(bucket))
        said = pack(bucket, memoryview(held))
        if self.waiting:
            taken()
            self.waiting -= 1
        say({"bytes": len(held), "tensors": said})
        broadcast(self._group, torch.frombuffer(held, dtype=torch.uint8))
        self.waiting += 1
