"""Calls of our kernels, counted in every process of a vLLM server and shown in its /metrics, so that a client can see what ran.

Processes of a server share nothing but their environment: each writes its counts to a file in a folder that the first one made, and
the one that serves /metrics adds the files up. With several API servers vLLM collects metrics in another way, and these are not in it.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

FOLDER = "DETCHECK_EVIDENCE"  # environment variable that names it, for processes that come after; OFF: nobody will ask
OFF = "off"
METRIC = "detcheck_kernel_calls"
WRITE_S = 0.1  # between two writes, where counts have changed


def share(counts: Callable[[], Mapping[str, int]]) -> None:
    """Write this process's counts from now on, and show those of all where its metrics are served."""
    if os.environ.get(FOLDER) == OFF:
        return
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="detcheck-")
        made, owner = os.environ[FOLDER], os.getpid()
        atexit.register(lambda: shutil.rmtree(made, ignore_errors=True) if os.getpid() == owner else None)
    folder = Path(os.environ[FOLDER])
    start_writing(folder, counts)
    os.register_at_fork(after_in_child=lambda: start_writing(folder, counts))
    show(folder)


def start_writing(folder: Path, counts: Callable[[], Mapping[str, int]]) -> None:
    threading.Thread(target=write, args=(folder, counts), daemon=True, name="detcheck-evidence").start()


def write(folder: Path, counts: Callable[[], Mapping[str, int]]) -> None:
    """For as long as the folder is there."""
    last: dict[str, int] = {}
    pause = threading.Event()
    while folder.is_dir():
        try:
            now = dict(counts())
        except RuntimeError:  # it grew while it was copied
            continue
        if now != last:
            target = folder / f"{os.getpid()}.json"
            beside = target.with_suffix(".part")
            try:
                beside.write_text(json.dumps(now))
                beside.replace(target)
            except OSError:
                return
            last = now
        pause.wait(WRITE_S)


def total(folder: Path) -> dict[str, int]:
    """Over all processes. A file that is half there is read the next time."""
    found: dict[str, int] = {}
    for file in folder.glob("*.json"):
        try:
            for name, n in json.loads(file.read_text()).items():
                found[name] = found.get(name, 0) + int(n)
        except (OSError, ValueError):
            continue
    return found


def show(folder: Path) -> None:
    from prometheus_client import REGISTRY
    from prometheus_client.core import CounterMetricFamily

    class Calls:
        def collect(self) -> Iterator[CounterMetricFamily]:
            family = CounterMetricFamily(
                METRIC, "Calls of detcheck's kernels, and of others beside them.", labels=["op"]
            )
            for name, n in sorted(total(folder).items()):
                family.add_metric([name], n)
            yield family

    REGISTRY.register(Calls())
