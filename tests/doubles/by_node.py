"""Ops that go wrong on one node of a cluster, which its environment marks as the odd one. The user's side of `--op by_node:name`."""

import os
import time
from pathlib import Path

from guilty import innocent, make_inputs, split

__all__ = ["innocent", "make_inputs"]


def odd():
    return os.environ.get("FLEET_NODE") == "odd"


def other_bits(x):
    return split(x, 2 if odd() else 1)


def raises(x):
    if odd():
        raise RuntimeError("no kernel image is available")
    return innocent(x)


def dies(x):
    if odd():
        os._exit(1)
    return innocent(x)


def by_batch(x):
    return split(x, min(len(x), 8))


def waits(x):
    """On the odd node for a long time, once it has said that it began: in the file that FLEET_BEGAN names."""
    if odd():
        Path(os.environ["FLEET_BEGAN"]).touch()
        time.sleep(600)
    return innocent(x)
