"""What an engine held before and after an update, and what a fresh load of the new weights holds -> which tensors were left behind."""

from __future__ import annotations

import numpy as np

from detcheck.models.held import Held
from detcheck.probes.reload.facts import LeftBehind, WeightUpdate

SHOWN = 8  # tensors that are kept by name; all are counted


def compared(before: Held, after: Held, fresh: Held, **known: object) -> WeightUpdate:
    """`known`: further fields of the update."""
    readable = [
        n
        for n, tensor in fresh.items()
        if tensor is not None and before.get(n) is not None and after.get(n) is not None
    ]
    gone = sorted(
        n for n, tensor in fresh.items() if tensor is not None and before.get(n) is not None and after.get(n) is None
    )
    unread = sorted((before.keys() | after.keys() | fresh.keys()) - set(readable) - set(gone))
    differ = [name for name in readable if before[name].unlike(fresh[name]).any()]
    left = []
    for name in readable:
        unlike = after[name].unlike(fresh[name])
        if unlike.any():
            where = np.flatnonzero(unlike)
            changed = after[name].unlike(before[name])
            old = len(changed) == len(unlike) and not (changed & unlike).any()
            left.append(LeftBehind(name, int(where[0]), int(where[-1]), len(where), len(unlike), bool(old)))
    return WeightUpdate(
        tensors=len(readable),
        unread=tuple(unread[:SHOWN]),
        unread_count=len(unread),
        gone=tuple(gone[:SHOWN]),
        gone_count=len(gone),
        differ=len(differ),
        first=tuple(differ[:SHOWN]),
        left=tuple(left[:SHOWN]),
        left_count=len(left),
        left_old=sum(one.old for one in left),
        **known,
    )
