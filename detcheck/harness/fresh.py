"""The condition `fresh`: a sample that a process makes which was started for it, and ends with it.

What a process picks once and keeps (the seed of its hashes, where its memory lies, what an autotuner measured, the time) is another there.
This file is run as a program: it reads what is asked from a folder, and leaves there what came.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from detcheck.engine import Decoded, Row
from detcheck.errors import DetcheckError
from detcheck.harness import engines
from detcheck.spec import Spec

ASKED, CAME = "asked.pickle", "came.pickle"
Calls = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class FreshRequest:
    """What such a process is to do."""

    spec: Spec
    """its kernels are those of the arm"""
    rows: tuple[Row, ...]
    longest: int
    """tokens of the longest row that the engine is opened for, as here"""
    threads: int


def complete(asked: FreshRequest) -> tuple[Decoded, Calls]:
    """What came, and which ops ran. Where the process fails, the sample is missing, with the reason."""
    loud = logging.getLogger("detcheck").isEnabledFor(logging.INFO)
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("wb") as log:
        Path(folder, ASKED).write_bytes(pickle.dumps(asked))
        command = [sys.executable, "-m", "detcheck.harness.fresh", folder]
        out = sys.stderr.fileno() if loud else log
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        came = Path(folder, CAME)
        if not came.is_file():
            said = Path(folder, "log").read_text("utf-8", "replace").strip().splitlines()
            last = f" ({said[-1][-200:]})" if said else ""
            return missing(f"the fresh process ended with exit code {done.returncode}{last}")
        process, decoded, calls = pickle.loads(came.read_bytes())
    if process == os.getpid():
        return missing("no process was started")
    return missing(decoded) if isinstance(decoded, str) else (decoded, calls)


def missing(why: str) -> tuple[Decoded, Calls]:
    return Decoded({}, (), missing={0: why}), ()


def main(folder: str) -> None:
    asked: FreshRequest = pickle.loads(Path(folder, ASKED).read_bytes())
    own, calls = asked.spec.options, ()
    try:
        engine = engines.open_engine(asked.spec)
        try:
            if not engine.schedules_itself:
                import torch

                torch.set_num_threads(asked.threads)
            engine.load(asked.longest)
            with engine.running(str(asked.spec.kernels)) as counted:
                decoded = engine.complete(asked.rows, own.max_tokens, own.ignore_eos)
            calls = tuple(counted)
        finally:
            engine.close()
    except DetcheckError as error:
        decoded = f"in the fresh process: {error}"
    came = Path(folder, CAME)
    came.with_suffix(".part").write_bytes(pickle.dumps((os.getpid(), decoded, calls)))
    came.with_suffix(".part").rename(came)


if __name__ == "__main__":
    main(sys.argv[1])
